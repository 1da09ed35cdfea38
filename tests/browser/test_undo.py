"""Taking a verdict back on the rater page, and changing one from the list of one's own."""

import pytest
from playwright.sync_api import expect

from tests.browser import pictures
from tests.browser.pages import READY, SAVED, log_in, press, texts, wait_until_sent
from tests.studio import PASSWORD
from webapp.feedback.models import Rating, Slot

pytestmark = pytest.mark.django_db(transaction=True)


def test_undo_brings_the_item_back_with_its_verdict_and_another_replaces_it(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    first = texts(page)
    press(page, "2")
    page.wait_for_selector(READY)
    current = texts(page)
    expect(page.locator("#saved")).to_have_text("saved · U undoes")
    page.keyboard.press("u")
    expect(page.locator(".said")).to_contain_text("You said: A is clearly better.")
    pictures.take(page, "rate-undo-desktop")
    assert texts(page) == first, "the same order, the same sides"
    expect(page.locator(".before")).to_have_attribute("data-key", "2")
    page.wait_for_selector(READY)
    page.keyboard.press("6")
    expect(page.locator(".said")).to_have_count(0)
    assert texts(page) == current, "back to what was being judged"
    expect(page.locator("#saved")).to_have_text(SAVED)
    old, new = Rating.objects.order_by("revision")
    assert (old.is_current, new.is_current, new.verdict) == (False, True, -old.verdict)
    press(page, "4")
    expect(page.locator("#progress")).to_have_text("2 rated today")


def test_undo_goes_ten_deep_and_escape_keeps_what_was_said(page, address, studio):
    studio.add_items(pairs=14)
    log_in(page, address)
    shown = []
    for n in range(12):
        page.wait_for_selector(READY)
        shown.append(texts(page))
        press(page, "s" if n == 10 else "3")
    current = texts(page)
    for back in range(1, 11):
        page.keyboard.press("Control+z" if back % 2 else "u")
        expect(page.locator(".shown").first).to_have_text(shown[-back][0])
        expect(page.locator(".said")).to_contain_text("You skipped" if back == 2 else "You said: A is slightly better")
    page.keyboard.press("u")
    expect(page.locator("#saved")).to_have_text("nothing more to undo")
    page.keyboard.press("Escape")
    expect(page.locator(".said")).to_have_count(0)
    assert texts(page) == current
    assert Rating.objects.count() == 11
    page.keyboard.press("u")
    page.keyboard.press("u")
    expect(page.locator(".said")).to_contain_text("You skipped this one.")
    page.wait_for_selector(READY)
    page.keyboard.press("1")
    expect(page.locator("#progress")).to_have_text("12 rated today")
    assert texts(page) == current


def test_the_last_verdict_can_be_undone_when_nothing_is_left(page, address, studio):
    studio.add_items(singles=1)
    log_in(page, address)
    page.wait_for_selector(READY)
    page.keyboard.press("5")
    expect(page.locator("h1")).to_have_text("That is all for now")
    page.keyboard.press("u")
    expect(page.locator(".said")).to_contain_text("You said: 5 of 5: excellent.")
    page.wait_for_selector(READY)
    studio.add_items(pairs=2)
    page.keyboard.press("4")
    expect(page.locator("h1")).to_have_text("Which continuation is the better review?")
    wait_until_sent(page)  # the page may have the next item before
    assert list(Rating.objects.order_by("revision").values_list("verdict", flat=True)) == [5, 4]
    press(page, "1")
    expect(page.locator("#progress")).to_have_text("2 rated today")


def test_a_rating_is_changed_from_the_list_by_keyboard(page, address, studio):
    studio.add_items(pairs=3)
    log_in(page, address)
    press(page, "1")
    expect(page.locator("#saved")).to_have_text(SAVED)
    page.goto(address.replace("/rate/", "/history/"))
    pictures.take(page, "history-desktop")
    page.click("text=Open")
    page.wait_for_selector(READY)
    page.keyboard.press("7")
    page.wait_for_url("**/history/")
    expect(page.locator(".judged")).to_contain_text("B is much better")
    expect(page.locator(".judged")).to_contain_text("changed")
    assert Slot.objects.filter(state="leased").count() <= 1, "nothing more was taken from the queue"


def test_without_javascript_undo_and_pause_are_pages(new_context, address, studio):
    studio.add_items(pairs=3)
    page = new_context(java_script_enabled=False).new_page()
    page.goto(address)
    page.fill("#id_username", "ada")
    page.fill("#id_password", PASSWORD)
    page.click("main button")
    page.click("#step-1")
    page.click("#undo")
    expect(page.locator(".said")).to_contain_text("You said: A is much better.")
    page.click("#step-7")
    expect(page.locator(".messages")).to_contain_text("Changed.")
    assert page.url == address
    assert abs(Rating.objects.get(is_current=True).verdict) == 3
    page.click("#undo")
    page.click("#keep")
    page.click("#pause")
    expect(page.locator("h1")).to_have_text("Paused")
    assert not Slot.objects.filter(state="leased").exists()
    page.reload()
    expect(page.locator("h1")).to_have_text("Paused")
    page.click("#go-on")
    expect(page.locator("#verdict")).to_be_visible()
