"""Leaving the rater page and coming back: reloads, two tabs, a pause."""

import pytest
from playwright.sync_api import Route, expect

from tests.browser import pictures
from tests.browser.pages import READY, log_in, press, texts, wait_for_leases, wait_until_nothing_is_kept
from webapp.feedback.models import Rating

pytestmark = pytest.mark.django_db(transaction=True)


def test_reload_and_back_keep_the_item_and_rate_nothing_twice(page, address, studio):
    studio.add_items(pairs=4)
    log_in(page, address)
    before = texts(page)
    page.reload()
    assert texts(page) == before
    press(page, "1")
    after = texts(page)
    wait_until_nothing_is_kept(page)  # until then the server cannot know that the second pair was seen
    page.goto(address.replace("/rate/", "/history/"))
    page.go_back()
    page.wait_for_selector(READY)
    assert texts(page) == after, "going back shows what is to be rated now"
    press(page, "1")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.count() == 2


def test_two_tabs_give_one_rating_and_the_second_is_told(context, page, address, studio):
    studio.add_items(pairs=4)
    log_in(page, address)
    other = context.new_page()
    other.goto(address)
    assert texts(other) == texts(page)
    press(page, "1")
    wait_until_nothing_is_kept(page)
    stored = Rating.objects.get().verdict
    press(other, "7")
    expect(other.locator(".told")).to_contain_text("answered this item already")
    assert Rating.objects.get().verdict == stored
    other.wait_for_selector(READY)
    assert texts(other) == texts(page), "both stand before the next one"


def test_who_leaves_the_page_hands_back_what_was_fetched_ahead(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    before = texts(page)
    wait_for_leases(page, 2)
    page.goto(address.replace("/rate/", "/history/"))
    wait_for_leases(page, 1)
    page.goto(address)
    assert texts(page) == before
    wait_for_leases(page, 2)
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    wait_for_leases(page, 1)
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    wait_for_leases(page, 2)


def test_who_leaves_right_after_the_last_key_has_said_it(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    wait_for_leases(page, 2)
    on_its_way: list[Route] = []
    page.route("**/rate/", lambda route: on_its_way.append(route))
    page.keyboard.press("2")
    while not on_its_way:
        page.wait_for_timeout(20)
    page.goto(address.replace("/rate/", "/history/"))
    on_its_way[0].continue_()  # a slow network: the page has gone meanwhile
    for _ in range(100):
        if Rating.objects.exists():
            break
        page.wait_for_timeout(50)
    assert Rating.objects.count() == 1


def test_pause_hands_everything_back_and_enter_goes_on(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    wait_for_leases(page, 2)
    page.keyboard.press("p")
    expect(page.locator("h1")).to_have_text("Paused")
    wait_for_leases(page, 0)
    pictures.take(page, "rate-paused-desktop")
    page.keyboard.press("1")
    page.reload()
    expect(page.locator("h1")).to_have_text("Paused")
    page.keyboard.press("Enter")
    page.wait_for_selector(READY + " #verdict")
    assert not Rating.objects.exists()
    press(page, "2")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    page.keyboard.press("p")
    expect(page.locator("h1")).to_have_text("Paused")
    page.keyboard.press("p")
    page.wait_for_selector(READY + " #verdict")


def test_on_a_phone_the_menu_has_pause_and_ones_own_ratings(new_context, address, studio):
    studio.add_items(pairs=3)
    page = new_context(viewport={"width": 390, "height": 844}, has_touch=True).new_page()
    log_in(page, address)
    page.wait_for_selector(READY)
    page.tap(".menu summary")
    expect(page.locator(".menu").get_by_text("My ratings")).to_be_visible()
    pictures.take(page, "rate-menu-phone")
    page.get_by_role("button", name="Pause").tap()
    expect(page.locator("h1")).to_have_text("Paused")
    wait_for_leases(page, 0)
    page.tap("#go-on")
    page.wait_for_selector(READY + " #verdict")
