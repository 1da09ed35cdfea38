"""Verdicts that the server can't have yet: without a connection, a log-in or an answer of the studio's own."""

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import Route, expect

from tests.browser import pictures
from tests.browser.pages import (
    READY,
    SAVED,
    log_in,
    press,
    texts,
    type_name_and_password,
    wait_for_leases,
    wait_until_nothing_is_kept,
)
from webapp.feedback.models import Rating

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_verdict_given_after_the_log_in_ran_out_is_kept_and_sent(page, address, studio):
    studio.add_items(pairs=2)
    log_in(page, address)
    page.wait_for_selector(READY)
    Session.objects.all().delete()
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text("Log in again: your verdict is kept")
    assert not Rating.objects.exists()
    page.click("#trouble a")
    type_name_and_password(page)
    expect(page.locator("#saved")).to_have_text(SAVED)
    expect(page.locator("#progress")).to_have_text("1 rated today")
    assert Rating.objects.count() == 1


def test_a_kept_verdict_outlives_a_failing_server(page, address, studio):
    studio.add_items(pairs=2)
    log_in(page, address)
    page.wait_for_selector(READY)
    Session.objects.all().delete()
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text("Log in again: your verdict is kept")
    is_down = True

    def answer(route: Route) -> None:
        if is_down and route.request.method == "POST":
            route.fulfill(status=503, body="busy")
        else:
            route.continue_()

    page.click("#trouble a")
    page.route(address, answer)
    type_name_and_password(page)
    expect(page.locator("#trouble")).to_contain_text("sent again by itself")
    page.reload()
    expect(page.locator("#trouble")).to_contain_text("sent again by itself")
    assert not Rating.objects.exists()
    is_down = False
    page.click("#trouble button")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    page.wait_for_selector(READY)
    press(page, "6")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.count() == 2


def test_who_logged_in_anew_in_another_tab_does_not_lose_the_verdict(context, page, address, studio):
    studio.add_items(pairs=2)
    log_in(page, address)
    page.wait_for_selector(READY)
    Session.objects.all().delete()
    log_in(context.new_page(), address)
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text(SAVED)
    expect(page.locator("#progress")).to_have_text("1 rated today")
    assert Rating.objects.count() == 1


def test_without_a_connection_the_verdict_waits_and_is_sent_once(context, page, address, studio):
    studio.add_items(pairs=2)
    log_in(page, address)
    page.wait_for_selector(READY)
    context.set_offline(True)
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text("offline, will resend")
    expect(page.locator("#trouble")).to_contain_text("sent again by itself")
    page.keyboard.press("7")  # while one waits, another is not taken
    context.set_offline(False)
    expect(page.locator("#progress")).to_have_text("1 rated today")
    expect(page.locator("#trouble")).to_be_hidden()
    assert abs(Rating.objects.get().verdict) == 2


def test_offline_two_verdicts_are_kept_in_order_and_survive_a_reload(context, page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    wait_for_leases(page, 2)
    context.set_offline(True)
    page.keyboard.press("1")
    page.wait_for_selector(READY)
    expect(page.locator("#saved")).to_have_text("offline, will resend")
    expect(page.locator("#trouble")).to_be_hidden()
    page.keyboard.press("7")
    expect(page.locator("#trouble")).to_contain_text("Your last 2 verdicts are kept on this computer")
    pictures.take(page, "rate-offline-desktop")
    page.keyboard.press("4")  # there is no third item, and none is judged twice
    kept = page.evaluate("JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]))")
    assert [entry["values"]["choice"] for entry in kept] == ["1", "7"]
    assert not Rating.objects.exists()
    page.route("**/rate/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    context.set_offline(False)
    page.reload()
    expect(page.locator("#trouble")).to_contain_text("sent again by itself")
    page.unroute("**/rate/")
    page.click("#trouble button")
    expect(page.locator("#progress")).to_have_text("2 rated today")
    page.wait_for_selector(READY)
    stored = {str(key) for key in Rating.objects.values_list("submission_id", flat=True)}
    assert stored == {entry["id"] for entry in kept}, "under the ids that were kept"
    assert page.evaluate("localStorage.length") == 0
    press(page, "4")
    expect(page.locator("#progress")).to_have_text("3 rated today")
    assert Rating.objects.count() == 3


@pytest.mark.parametrize("pairs", [2, 6])
def test_48_the_network_is_cut_after_the_server_has_saved(page, address, studio, pairs):
    """With six pairs the next one is there already; with two the page waits for the answer."""
    studio.add_items(pairs=pairs)
    log_in(page, address)
    page.wait_for_selector(READY)
    wait_for_leases(page, 2 if pairs == 6 else 1)
    cut = []

    def swallow(route):
        if route.request.method == "POST" and not cut:
            cut.append(route.fetch().status)  # the server has committed; its answer is lost
            route.abort()
        else:
            route.continue_()

    page.route("**/rate/", swallow)
    before = texts(page)
    press(page, "2")
    expect(page.locator("#saved")).to_have_text(SAVED)
    assert cut == [200]
    assert texts(page) != before
    assert Rating.objects.count() == 1
    expect(page.locator("#progress")).to_have_text("1 rated today")


def test_a_fault_of_the_server_is_tried_again(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    answers = iter([500, 503])
    page.route(
        "**/rate/",
        lambda route: (
            route.fulfill(status=status)
            if route.request.method == "POST" and (status := next(answers, None))
            else route.continue_()
        ),
    )
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text("not saved, will resend")
    expect(page.locator("#saved")).to_have_text(SAVED)
    assert Rating.objects.count() == 1


@pytest.mark.parametrize("comes_back", ["by a movement", "to the tab"])
def test_who_comes_back_after_the_page_gave_up_sends_what_it_kept(page, address, studio, comes_back):
    studio.add_items(pairs=6)
    page.clock.install()
    log_in(page, address)
    page.wait_for_selector(READY)
    page.route("**/rate/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text("offline, will resend")
    for _ in range(14):
        page.clock.fast_forward(30_000)
        page.wait_for_timeout(100)  # for the failure to reach the page, which then sets its next timer
    expect(page.locator("#saved")).to_have_text("not saved")
    expect(page.locator("#trouble")).to_contain_text("While you are here, the page tries once a minute.")
    page.unroute("**/rate/")
    if comes_back == "to the tab":
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    else:
        page.mouse.move(200, 200)
        page.clock.fast_forward(60_000)
    expect(page.locator("#progress")).to_have_text("1 rated today")
    expect(page.locator("#trouble")).to_be_hidden()
    assert Rating.objects.count() == 1


def log_in_of_a_network(route: Route) -> None:
    route.fulfill(status=200, body="<h1>Log in to this network</h1>", content_type="text/html")


def page_of_a_proxy(route: Route) -> None:
    route.fulfill(status=404, body="404 page not found")


@pytest.mark.parametrize("answer", [log_in_of_a_network, page_of_a_proxy])
def test_an_answer_that_is_not_the_studios_loses_no_verdict(page, address, studio, answer):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    page.route("**/rate/", lambda route: answer(route) if route.request.method == "POST" else route.fallback())
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text("Something else than the studio answered")
    expect(page.locator("#saved")).to_have_text("not saved, will resend")
    assert not Rating.objects.exists()
    page.unroute("**/rate/")
    page.click("#trouble button")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    assert Rating.objects.count() == 1


def test_a_page_that_a_verdict_was_redirected_to_does_not_say_that_it_is_saved(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    page.evaluate("document.querySelector('#verdict').setAttribute('action', location.pathname.slice(0, -1))")
    page.keyboard.press("2")  # 301 to the page itself, which a browser then asks for by GET
    expect(page.locator("#trouble")).to_contain_text("Something else than the studio answered")
    assert page.evaluate("localStorage.length") == 1
    assert not Rating.objects.exists()


def test_an_item_that_the_studio_does_not_know_is_not_sent_again(page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    page.evaluate("document.querySelector('#verdict [name=token]').value = crypto.randomUUID()")
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text("not yours to rate any more")
    wait_until_nothing_is_kept(page)
    assert not Rating.objects.exists()


def test_logging_out_asks_before_it_throws_verdicts_away(context, page, address, studio):
    studio.add_items(pairs=6)
    log_in(page, address)
    page.wait_for_selector(READY)
    page.route("**/rate/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    page.keyboard.press("2")
    expect(page.locator("#saved")).to_have_text("offline, will resend")
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.click(".menu summary")
    page.click("text=Log out")
    assert "have not reached the server" in asked[0]
    assert page.evaluate("localStorage.length") == 1
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("text=Log out")
    page.wait_for_url("**/login/**")
    assert page.evaluate("localStorage.length") == 0
