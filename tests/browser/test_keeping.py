"""One key leaves things as they were everywhere, what means nothing is told, and what was begun comes back in sight."""

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import expect

from tests.browser.pages import READY, open_rater, wait_until_sent
from tests.browser.pages import press_in_turn as press
from webapp.feedback.models import Rating, Report
from webapp.projects.models import PracticePair

pytestmark = pytest.mark.django_db(transaction=True)
JUDGED = "#item[data-judged][aria-busy=false]"


@pytest.mark.parametrize(
    ("kind", "verdict"), [("pair", "2"), ("single", "4"), ("ranking", "0"), ("rewrite", "1"), ("single with axes", "4")]
)
def test_escape_keeps_a_verdict_in_every_mode_and_leaves_fields_and_menus_first(
    context, live_server, studio, kind, verdict
):
    if kind == "single with axes":
        studio.project.axes = ["helpful"]
        studio.project.save()
        kind, verdict = "single", "4 3"
    answers = {"pair": 2, "ranking": 3}.get(kind, 1)
    studio.add_item("Opening", *(f"Answer {n}." for n in range(answers)), kind=kind)
    page = open_rater(context, live_server.url, studio)
    press(page, *verdict.split())
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    page.keyboard.press("u")
    page.wait_for_selector(JUDGED)
    expect(page.locator("#keep kbd")).to_have_text("Esc")
    token = page.get_attribute("#item", "data-judged")
    page.keyboard.press("r")
    expect(page.locator("#reason-text")).to_be_focused()
    if kind != "rewrite":  # where it saves, from here too
        page.keyboard.press("Control+Enter")  # is no other way out
        expect(page.locator("#reason-text")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#reason > div")).to_be_hidden()
    page.click("#reason summary")
    page.click("h1")  # a reason that is open without the focus in it is left first too
    page.evaluate("document.getElementById('reason').open = true")
    page.keyboard.press("Escape")
    expect(page.locator("#reason > div")).to_be_hidden()
    page.click(".menu summary")
    page.keyboard.press("Escape")
    expect(page.locator(".menu > div")).to_be_hidden()
    expect(page.locator(".said")).to_be_visible()
    page.click("h1")
    if not page.locator("#save").count():
        page.keyboard.press("Enter")
        expect(page.locator("#item")).to_have_attribute("data-judged", token)
    page.keyboard.press("Escape")
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    assert Rating.objects.count() == 1


def test_a_digit_that_means_nothing_is_answered_with_those_that_do(context, live_server, studio):
    studio.project.axes = ["helpful"]
    studio.project.save()
    studio.add_item("A pair", "One.", "Two.")
    studio.add_item("A single answer", "One.", kind="single")
    studio.add_item("A rewrite", "One.", kind="rewrite")
    ada = studio.raters["ada"]
    ada.page_settings = {"keys": {"1": "y"}}
    ada.save()
    page = open_rater(context, live_server.url, studio)
    told, said = page.locator("#saved"), {}
    for _ in range(3):
        page.wait_for_selector(READY)
        kind = page.get_attribute("#item", "data-kind")
        press(page, "9")
        expect(told).to_contain_text("shows all keys")
        said[kind] = told.text_content()
        if kind == "pair":
            press(page, "Shift+S", "8")
            expect(told).to_have_text("Y to 5 choose; ? shows all keys")
            press(page, "Escape")
        assert not Rating.objects.exists()
        token = page.input_value("[name=token] >> nth=0")
        page.keyboard.press("s")
        page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)
    assert said == {
        "pair": "Y to 7 and 0 choose; ? shows all keys",
        "single": "Y to 5 choose; ? shows all keys",
        "rewrite": "Y chooses; ? shows all keys",
    }
    expect(told).to_have_attribute("role", "status")


def test_a_digit_that_means_nothing_in_practice_is_answered_too(context, live_server, studio):
    pair = {"prompt": "A film", "left": "Good.", "right": "Bad.", "best": "a", "explanation": "It says why."}
    PracticePair.objects.create(project=studio.project, **pair)
    page = open_rater(context, live_server.url, studio, wait_for=".said, #agree")
    if page.locator("#agree").count():
        page.keyboard.press("Enter")
    expect(page.locator(".said")).to_contain_text("Practice 1 of 1.")
    page.wait_for_load_state()
    page.keyboard.press("8")
    expect(page.locator(".said[role=status]")).to_contain_text("1 to 7 choose, 0 says that both are bad.")
    page.keyboard.press("2")
    expect(page.locator(".said")).to_contain_text("That is the answer.")


def test_words_of_a_report_come_back_in_sight_and_hold_up_no_key(context, live_server, studio):
    studio.add_item("Opening", "One.", "Two.", "Three.", kind="ranking")
    page = open_rater(context, live_server.url, studio)
    press(page, "Shift+F")
    page.keyboard.type("It names a person.")
    page.keyboard.press("Escape")
    expect(page.locator("#report-words")).to_be_hidden()
    page.reload()
    page.wait_for_selector(READY)
    expect(page.locator("#report-words")).to_be_visible()
    expect(page.locator("#report-words")).to_have_value("It names a person.")
    press(page, "?", "Escape")
    expect(page.locator("#keys")).to_be_hidden()
    expect(page.locator("#report-words")).to_be_visible()
    press(page, "2", "1")
    expect(page.locator("#ranked")).to_have_text("2 > 1 > 3. Enter saves.")
    page.keyboard.press("Escape")
    expect(page.locator("#report-words")).to_be_hidden()


def test_words_of_a_report_that_was_not_sent_do_not_disturb_a_verdict_that_is_looked_at_again(
    context, live_server, studio
):
    studio.add_items(pairs=2)
    page = open_rater(context, live_server.url, studio)
    errors: list[object] = []
    page.on("pageerror", lambda error: errors.append(error))
    press(page, "Shift+F")
    page.keyboard.type("It names a person.")
    page.keyboard.press("Escape")
    press(page, "2")
    wait_until_sent(page)
    page.keyboard.press("u")
    page.wait_for_selector(JUDGED)
    assert page.locator("#report").count() == 0
    assert errors == []


def test_who_undoes_a_report_sees_the_item_and_no_notice_over_it(context, live_server, studio):
    studio.add_items(pairs=2)
    page = open_rater(context, live_server.url, studio)
    press(page, "f")
    expect(page.locator("#told")).to_contain_text("Reported.")
    page.keyboard.press("u")
    expect(page.locator(".said")).to_contain_text("You reported this one.")
    expect(page.locator("#told")).to_be_hidden()


def test_a_refused_key_of_the_forms_costs_neither_the_verdict_nor_the_step_back(context, live_server, studio):
    studio.add_items(pairs=3)
    page = open_rater(context, live_server.url, studio)
    page.wait_for_selector(READY)
    read = page.locator(".shown").first.text_content()
    other = Client()
    other.force_login(studio.raters["ada"], "django.contrib.auth.backends.ModelBackend")
    fresh = "x" * 32  # as after a log-in in another tab: what the page has no longer fits
    cookies = {settings.SESSION_COOKIE_NAME: other.cookies[settings.SESSION_COOKIE_NAME].value}
    cookies[settings.CSRF_COOKIE_NAME] = fresh
    context.add_cookies([{"name": name, "value": value, "url": live_server.url} for name, value in cookies.items()])
    refused = []
    page.on("response", lambda answer: refused.append(answer.status) if answer.request.method == "POST" else None)
    with page.expect_navigation():
        press(page, "2", "u")
    page.wait_for_selector(JUDGED)
    expect(page.locator(".said")).to_contain_text("You said: A is clearly better.")
    expect(page.locator(".shown").first).to_have_text(read)
    assert refused[:2] == [403, 200]
    assert abs(Rating.objects.get().verdict) == 2
    page.keyboard.press("6")
    wait_until_sent(page)
    page.reload()
    page.wait_for_selector(f"{READY}:not([data-judged])")
    assert Rating.objects.get(is_current=True).revision == 2
    assert page.evaluate("sessionStorage.getItem('steersman-steps-back')") is None


@pytest.mark.parametrize("role", ["rater", "admin"])
def test_who_manages_the_project_finds_the_loop_in_the_menu(context, live_server, studio, role):
    studio.project.memberships.update(role=role)
    studio.add_items(pairs=1)
    page = open_rater(context, live_server.url, studio)
    page.set_viewport_size({"width": 390, "height": 844})
    page.click(".menu summary")
    link = page.locator(".menu a", has_text="Loop")
    assert link.count() == (1 if role == "admin" else 0)
    if role == "admin":
        link.click()
        page.wait_for_url("**/p/film-reviews/")


def test_control_and_enter_save_a_rewrite_from_its_reason_too(context, live_server, studio):
    studio.add_item("Opening", "Dull.", kind="rewrite")
    page = open_rater(context, live_server.url, studio)
    press(page, "e")
    page.keyboard.type(" No more.")
    press(page, "Escape", "r")
    page.keyboard.type("It was dull.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    assert (Rating.objects.get().details, Rating.objects.get().reason) == ({"text": "Dull. No more."}, "It was dull.")


def test_without_javascript_a_skip_keeps_the_text_that_was_begun(browser, live_server, studio):
    for number in range(2):
        studio.add_item(f"Opening {number}", f"Dull {number}.", kind="rewrite")
    context = browser.new_context(java_script_enabled=False)
    page = open_rater(context, live_server.url, studio, wait_for="#save")
    begun = page.input_value("#rewrite-text") + " By and by."
    page.fill("#rewrite-text", begun)
    page.click("#skip-plain")
    expect(page.locator(".messages")).to_contain_text("What you wrote is kept: undo brings it back.")
    page.click(".because > summary")
    page.click("[data-reason='3']")
    expect(page.locator("h1")).to_have_text("Nothing to rate yet")
    page.click("#undo")
    expect(page.locator(".said")).to_contain_text("You skipped this one.")
    page.click("#undo")
    expect(page.locator("#rewrite-text")).to_have_value(begun)
    page.click("#save")
    page.wait_for_url("**/rate/")
    assert Rating.objects.get().details == {"text": begun}
    context.close()


def test_without_javascript_a_report_keeps_what_was_begun_and_no_key_sends_one_unasked(browser, live_server, studio):
    studio.project.axes = ["helpful", "clear"]
    studio.project.flags = ["spam"]
    studio.project.save()
    studio.add_item("Opening", "Dull.", kind="single")
    context = browser.new_context(java_script_enabled=False)
    page = open_rater(context, live_server.url, studio, wait_for="#save")
    page.check("[name='axis:clear'][value='2']", force=True)
    page.click("#reason summary")
    page.fill("#reason-text", "It was dull.")
    page.click("#reason summary")
    page.click("#report summary")
    page.fill("#report-words", "It names a person.")
    page.keyboard.press("Enter")  # a line's end
    expect(page.locator("#report-words")).to_have_value("It names a person.\n")
    page.focus("[name='axis:clear'][value='2']")
    page.keyboard.press("Enter")  # saves, which takes an overall score
    expect(page.locator(".messages")).to_contain_text("nothing was saved")
    expect(page.locator("#report-words")).to_have_value("It names a person.\n")
    page.click("#report .why > div button")
    expect(page.locator(".messages")).to_contain_text("What else you wrote is kept: undo brings it back.")
    assert Report.objects.get().words == "It names a person."
    page.click("#undo")
    expect(page.locator(".said")).to_contain_text("You reported this one. “It names a person.”")
    expect(page.locator("[name='axis:clear'][value='2']")).to_be_checked()
    expect(page.locator("#reason-text")).to_have_value("It was dull.")
    page.check("[name='overall'][value='3']", force=True)
    page.click("#save")
    page.wait_for_url("**/rate/")
    rating = Rating.objects.get()
    assert (rating.verdict, rating.details, rating.reason) == (3, {"axes": {"clear": 2}}, "It was dull.")
    context.close()


def test_with_javascript_enter_sends_the_words_of_a_report_and_what_else_was_begun_stays(context, live_server, studio):
    studio.add_item("Opening", "Dull.", kind="rewrite")
    page = open_rater(context, live_server.url, studio)
    page.fill("#rewrite-text", "Begun.")
    page.click("h1")
    page.keyboard.press("Shift+F")
    expect(page.locator("#report-words")).to_be_focused()
    page.keyboard.type("It names")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("a person.")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    assert Report.objects.get().words == "It names\na person."
    page.keyboard.press("u")
    page.wait_for_selector(JUDGED)
    expect(page.locator("#rewrite-text")).to_have_value("Begun.")
