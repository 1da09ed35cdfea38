"""A guideline that changes while a rater's page stands open."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import READY, log_in, press, wait_until_nothing_is_kept
from tests.studio import Studio, open_studio
from webapp.feedback.models import Rating
from webapp.projects.models import Membership
from webapp.projects.services import confirm_guideline, save_guideline

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    ada = studio.add_rater("ada")
    confirm_guideline(user=ada, project=studio.project, version=1)
    studio.add_items(pairs=4)
    return studio


def test_an_open_page_follows_a_new_guideline_with_the_next_item(page: Page, live_server, studio: Studio):
    log_in(page, f"{live_server.url}/p/{studio.project.slug}/rate/")
    expect(page.locator("#guideline-new")).to_have_count(0)
    save_guideline(actor=studio.admin, project=studio.project, body="Prefer the **shorter** text.")
    press(page, "2")
    if page.evaluate("document.getElementById('item').dataset.guideline") == "1":
        press(page, "3")  # that one had been fetched ahead, under the first version
    expect(page.locator("#guideline[open]")).to_be_visible()  # by itself: it is to be read once
    expect(page.locator("#guideline-title")).to_contain_text("version 2")
    expect(page.locator("#guideline strong")).to_have_text("shorter")
    expect(page.locator("#guideline-new")).to_have_count(0)
    page.keyboard.press("Escape")
    press(page, "5")
    wait_until_nothing_is_kept(page)
    first, *_, last = Rating.objects.order_by("id").values_list("presentation__guideline__version", flat=True)
    assert (first, last) == (1, 2)
    assert Membership.objects.get(user__username="ada").guideline_read == 2


def test_without_a_connection_the_page_stays_and_follows_once_there_is_one(page: Page, live_server, studio: Studio):
    address = f"{live_server.url}/p/{studio.project.slug}/rate/"
    log_in(page, address)
    save_guideline(actor=studio.admin, project=studio.project, body="Prefer the **shorter** text.")
    page.evaluate("window.isTheSamePage = true")
    page.route(address, lambda route: route.abort() if route.request.method == "GET" else route.fallback())
    for key in ("2", "3"):  # the second one may have been fetched ahead, under the first version
        press(page, key)
    page.wait_for_selector(READY)
    wait_until_nothing_is_kept(page)
    expect(page.locator("#guideline-title")).to_contain_text("version 1")
    assert page.evaluate("isTheSamePage")
    page.unroute(address)
    press(page, "5")
    expect(page.locator("#guideline[open]")).to_be_visible()
    expect(page.locator("#guideline-title")).to_contain_text("version 2")
    assert page.evaluate("isTheSamePage")
