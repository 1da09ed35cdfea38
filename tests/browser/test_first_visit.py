"""A rater's first visit in a real browser, by keyboard alone."""

import pytest
from playwright.sync_api import expect

from tests.browser import pictures
from tests.browser.looks import findings
from tests.browser.pages import READY, open_rater
from webapp.projects.models import PracticePair

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_first_visit_goes_by_keyboard_alone(context, live_server, studio):
    studio.project.consent = "Your ratings **train** a model. You may stop at any time."
    studio.project.save()
    studio.add_items(pairs=1)
    for best, why in (("a", "It says what the film is like."), ("b", "A makes no sense.")):
        PracticePair.objects.create(
            project=studio.project,
            prompt="A *film*",
            left="Good, **since** …",
            right="Bad.",
            best=best,
            explanation=why,
        )
    page = open_rater(context, live_server.url, studio, wait_for="#agree")
    assert findings(page) == []
    pictures.take(page, "welcome-desktop")
    expect(page.locator("#agree kbd")).to_have_text("Enter")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_contain_text("Practice 1 of 2.")
    pictures.take(page, "practice-desktop")
    page.keyboard.press("2")
    expect(page.locator(".said")).to_contain_text("That is the answer. It says what the film is like.")
    assert findings(page) == []
    pictures.take(page, "practice-answered-desktop")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_contain_text("Practice 2 of 2.")
    page.keyboard.press("2")
    expect(page.locator(".said")).to_contain_text("The answer is: B is better. A makes no sense.")
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    assert page.locator("#verdict").is_visible()
