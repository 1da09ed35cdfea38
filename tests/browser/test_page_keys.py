"""A rater's own keys in a real browser, and the reminder of a break."""

import pytest
from playwright.sync_api import expect

from tests.browser import pictures
from tests.browser.looks import findings
from tests.browser.pages import READY, open_rater, press, wait_until_sent
from webapp.accounts.models import User
from webapp.feedback.models import Rating, Skip

pytestmark = pytest.mark.django_db(transaction=True)


def test_own_keys_rate_and_stand_on_the_controls(context, live_server, studio):
    studio.add_items(pairs=6)
    page = open_rater(context, live_server.url, studio)
    page.keyboard.press("?")
    page.click("text=Choose other keys")
    assert findings(page) == []
    pictures.take(page, "keys-settings-desktop")
    page.fill("[name='2']", "q")
    page.fill("[name='u']", "2")
    page.fill("[name='s']", "q")
    page.click("main .primary")
    expect(page.locator("#id_2_error")).to_contain_text("is also the key for")
    page.fill("[name='s']", ":")
    page.click("main .primary")
    page.click("text=Back to rating")
    page.wait_for_selector(READY)
    assert page.locator("#step-2 kbd").inner_text() == "Q"
    expect(page.locator("#step-2")).to_have_attribute("aria-label", "A is clearly better, key Q")
    expect(page.locator("#undo")).to_have_attribute("aria-label", "Undo, key 2")
    press(page, "q")
    expect(page.locator("#saved")).to_have_text("saved · 2 undoes")
    assert page.locator("#undo kbd").inner_text() == "2", "on the next item too"
    page.wait_for_selector(READY)
    page.keyboard.press("u")  # means nothing any more
    expect(page.locator(".said")).to_have_count(0)
    page.keyboard.press("2")
    expect(page.locator(".said")).to_contain_text("You said: A is clearly better.")
    page.keyboard.press("Escape")
    expect(page.locator(".said")).to_have_count(0)
    press(page, "Shift+Semicolon")  # a colon: Shift is a part of it, and asks for no reason
    page.wait_for_function("() => localStorage.length === 0")
    page.keyboard.press("?")
    expect(page.locator("#keys .keys")).to_contain_text("Q")
    pictures.take(page, "keys-own-desktop")
    assert (Rating.objects.count(), Skip.objects.count()) == (1, 1)
    assert abs(Rating.objects.get().verdict) == 2


def test_own_keys_are_heard_wherever_the_focus_is_unless_one_writes_there(context, live_server, studio):
    studio.project.flags, studio.project.axes = ["spam", "rude"], ["helpful", "clear"]
    studio.project.save()
    studio.add_items(singles=2)
    User.objects.filter(username="ada").update(page_settings={"keys": {"x": "q", "1": "a", "2": "b", "s": "n"}})
    page = open_rater(context, live_server.url, studio)
    page.keyboard.press("q")
    page.focus("[data-flag='2']")
    page.keyboard.press("b")
    assert page.is_checked("[data-flag='2']"), "as a flag, with the focus on its box"
    page.keyboard.press("a")
    page.keyboard.press("a")
    assert [page.is_checked(f"[data-flag='{n}']") for n in (1, 2)] == [False, True]
    page.focus("[data-flag='1']")
    page.keyboard.press("q")
    expect(page.locator("#flags > div")).to_be_hidden()
    page.focus("[data-axis='1'] [value='3']")  # the focus says which scale is meant
    expect(page.locator(".axis.current legend")).to_have_text("helpful")
    page.keyboard.press("b")
    assert page.is_checked("[data-axis='1'] [value='2']")
    page.focus("#report summary")
    page.keyboard.press("a")
    assert page.is_checked("[data-axis='2'] [value='1']")
    page.focus("[data-axis='1'] [value='2']")
    page.keyboard.press("n")  # skip
    wait_until_sent(page)
    page.wait_for_selector(READY)
    assert Skip.objects.count() == 1
    page.keyboard.press("r")
    page.keyboard.type("a q b n")
    assert page.input_value("#reason-text") == "a q b n", "where one writes, every key is a letter"


def test_after_so_many_minutes_a_word_about_a_break_stands_at_the_edge(context, live_server, studio):
    studio.add_items(pairs=3)
    User.objects.filter(username="ada").update(page_settings={"rest_minutes": 9})
    context.clock.install()
    page = open_rater(context, live_server.url, studio)
    page.keyboard.press("j")
    page.clock.fast_forward("06:00")  # away for longer than five minutes: rested
    for _ in range(3):
        page.keyboard.press("j")
        expect(page.locator("#rest")).to_be_hidden()
        page.clock.fast_forward("04:00")
    page.keyboard.press("j")
    expect(page.locator("#rest")).to_contain_text("You have rated for 12 minutes.")
    assert page.evaluate("document.activeElement === document.body"), "it takes no focus"
    pictures.take(page, "rest-desktop")
    page.click("text=In ten minutes")
    expect(page.locator("#rest")).to_be_hidden()
    for _ in range(3):
        page.clock.fast_forward("04:00")
        page.keyboard.press("j")
    expect(page.locator("#rest")).to_be_visible()
    page.click("text=Take a break")
    expect(page.locator("h1")).to_have_text("Paused")
    expect(page.locator("#rest")).to_be_hidden()
