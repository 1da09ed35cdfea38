"""What a rater has written is never lost: neither by another key, nor by a pause, nor where the server refuses it."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import READY, open_rater, wait_until_sent
from tests.browser.pages import press_in_turn as press
from webapp.feedback.models import Rating, Report

pytestmark = pytest.mark.django_db(transaction=True)


def write(page: Page, words: str) -> str:
    """Write on, leave the text, and return all of it."""
    press(page, "e")
    page.keyboard.type(words)
    page.keyboard.press("Escape")
    return page.input_value("#rewrite-text")


def test_no_other_key_throws_away_what_was_written(context, live_server, studio):
    for n in range(2):
        studio.add_item(f"Opening {n}", f"Dull {n}.", kind="rewrite")
    page = open_rater(context, live_server.url, studio)
    first = write(page, " Kept as a draft.")
    press(page, "1")
    expect(page.locator("#rewrite-hint")).to_contain_text("Press 1 once more")
    press(page, "1")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_sent(page)
    assert Rating.objects.get().details == {"draft": first}
    second = write(page, " Left in the midst.")
    press(page, "s")  # skipped
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_sent(page)
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You skipped this one.")
    expect(page.locator("#rewrite-text")).to_have_value(second)
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("kept as a draft")
    expect(page.locator("#rewrite-text")).to_have_value(first)
    third = write(page, " More.")
    press(page, "Escape")  # it stays as it was
    expect(page.locator("#empty")).to_be_visible()
    page.reload()
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You skipped this one.")
    press(page, "u")
    expect(page.locator("#rewrite-text")).to_have_value(third)
    expect(page.locator("#rewrite-hint")).to_contain_text("is back. It is not saved yet.")
    press(page, "Control+Enter")
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    assert Rating.objects.get(revision=2).details == {"text": third}


def test_what_was_written_outlives_a_pause_and_a_refusal_that_comes_after_a_reload(context, live_server, studio):
    studio.project.flags = ["spam"]
    studio.project.save()
    studio.add_item("Opening", "Dull.", kind="rewrite")
    page = open_rater(context, live_server.url, studio)
    said = write(page, " By and by.")
    press(page, "x", "1", "x")
    page.click("#report summary")
    page.fill("#report-words", "It names a person.")
    page.keyboard.press("Escape")
    token = page.input_value("[name=token]")
    with page.expect_response("**/pause/"):
        press(page, "p")
    press(page, "p")
    page.wait_for_selector(f"{READY} #verdict")
    assert page.input_value("[name=token]") != token, "it was handed back and drawn anew"
    assert page.input_value("#rewrite-text") == said
    assert page.input_value("#report-words") == "It names a person."
    press(page, "x", "1", "x")
    page.route("**/rate/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    press(page, "Control+Enter")
    expect(page.locator("#saved")).to_contain_text("offline")
    studio.project.flags = []
    studio.project.save()
    page.unroute("**/rate/")
    page.reload()  # sent now, and refused: there is no such flag any more
    wait_until_sent(page)
    page.wait_for_selector(f"{READY} #verdict")
    expect(page.locator("#rewrite-text")).to_have_value(said)
    press(page, "Control+Enter")
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    assert Rating.objects.get().details == {"text": said}


def test_a_reason_comes_back_in_sight_where_the_answers_may_have_changed_places(context, live_server, studio):
    studio.add_items(pairs=1)
    page = open_rater(context, live_server.url, studio)
    press(page, "r")
    page.keyboard.type("A is shorter.")
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(READY)
    expect(page.locator("#reason-text")).to_have_value("A is shorter.")
    expect(page.locator("#reason-order")).to_be_hidden()
    token = page.input_value("[name=token]")
    with page.expect_response("**/pause/"):
        press(page, "p")
    press(page, "p")
    page.wait_for_selector(f"{READY} #verdict")
    assert page.input_value("[name=token]") != token
    expect(page.locator("#reason-text")).to_be_visible()
    expect(page.locator("#reason-text")).to_have_value("A is shorter.")
    expect(page.locator("#reason-order")).to_have_text(
        "You wrote this before. The answers may have stood in another order then."
    )


def test_a_report_takes_its_words_along_and_leaves_the_text(context, live_server, studio):
    studio.add_item("Opening", "Dull.", kind="rewrite")
    page = open_rater(context, live_server.url, studio)
    said = write(page, " By and by.")
    page.click("#report summary")
    page.fill("#report-words", "It names a person.")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_visible()
    wait_until_sent(page)
    assert Report.objects.get().words == "It names a person."
    press(page, "u")
    expect(page.locator("#rewrite-text")).to_have_value(said)
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.click(".menu summary")
    page.click("text=Log out")
    assert asked == ["You have written something that is not sent yet. Log out and throw it away?"]
    assert page.evaluate("localStorage.length") == 1
