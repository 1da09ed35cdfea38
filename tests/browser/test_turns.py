"""Conversations in a real browser: verdicts per turn by keys alone, folded turns in the other modes, no script."""

import json
from typing import cast

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser import pictures
from tests.browser.looks import findings
from tests.browser.pages import READY, open_rater, wait_until_nothing_is_kept
from tests.browser.pages import press_in_turn as press
from tests.browser.test_modes import REVIEW, look_at
from tests.conversations import FIVE, conversation
from tests.studio import Studio, open_studio
from webapp.feedback import services as feedback
from webapp.feedback.models import Rating, TurnVerdict

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.project.prompt_label = "The conversation"
    studio.project.save()
    studio.add_rater("ada")
    return studio


def ask(studio: Studio, kind: str, *answers: str, turns: tuple[tuple[str, str], ...] = FIVE) -> None:
    """An item of a conversation."""
    prompt = conversation(studio.project, turns)
    samples = studio.add_samples(prompt.text, *answers)
    feedback.make_items(project=studio.project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: kind})


def now(page: Page) -> str:
    """The number of the turn that a digit would judge."""
    return page.get_attribute("[data-turn][aria-current=true]", "data-turn") or ""


def said(page: Page) -> list[str]:
    return page.locator("[data-said-of]").all_text_contents()


LONG = tuple((role, f"{text} {REVIEW}") for role, text in FIVE)
WITH_RULE = (("system", "Answer like a cook."), *FIVE)


def test_a_conversation_of_five_turns_is_rated_by_keys_alone(watched, live_server, studio):
    for number, turns in enumerate((FIVE, LONG, WITH_RULE)):
        ask(studio, "turns", f" Answer {number}, because of salmonella.", turns=turns)
    page = open_rater(watched, live_server.url, studio)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    press(page, "1")
    assert (now(page), said(page)) == ("2", ["good", "", ""])
    expect(page.locator("#turn-now")).to_have_text("Turn 1: good. Turn 2 of 3")
    press(page, "2", "u")  # taken back
    assert (now(page), said(page)) == ("2", ["good", "", ""])
    press(page, "[", "3", "]", "Enter")  # back to the first; then what is missing is told
    expect(page.locator("#turn-now")).to_have_text("Still without a verdict: turn 2, 3.")
    assert said(page) == ["unsure", "", ""]
    look_at(page, "turns")
    page.reload()  # what was said is a draft
    page.wait_for_selector(READY)
    assert (now(page), said(page)) == ("2", ["unsure", "", ""])
    assert not Rating.objects.exists()
    press(page, "2", "1")
    expect(page.locator("#turn-now")).to_have_text("Turn 3: good. Each turn is judged: Enter saves.")
    press(page, "Enter")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.get()
    assert (rating.verdict, rating.details) == (1, {"turns": [0, -1, 1]})

    press(page, "1", "1")  # the long one: the turn that is judged is in view, with its end above the bar
    box, bar = page.locator("[data-turn='3']").bounding_box(), page.locator(".verdict").bounding_box()
    assert box
    assert bar
    assert 0 <= box["y"] < box["y"] + box["height"] <= bar["y"]
    press(page, "2", "Enter")
    expect(page.locator("#progress")).to_have_text("2 rated today")
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: turn 1 good, turn 2 good, turn 3 bad.")
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: turn 1 unsure, turn 2 bad, turn 3 good.")
    assert said(page) == ["unsure", "bad", "good"]
    press(page, "1", "Enter")  # of the first turn, and the next two stay
    expect(page.locator("#progress")).to_have_text("2 rated today")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.get(revision=2).details == {"turns": [1, -1, 1]}
    assert TurnVerdict.objects.count() == 9
    press(page, "3", "3", "3", "Enter")
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.filter(is_current=True).count() == 3
    assert page.evaluate("seen.pointer") == 0


def test_earlier_turns_are_folded_in_a_pair_and_keys_lead_through_them(watched, live_server, studio):
    ask(studio, "pair", f"One. {REVIEW}", f"Two. {REVIEW}")
    ask(studio, "ranking", "One.", "Two.", "Three.")
    page = open_rater(watched, live_server.url, studio)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    fold, turns = page.locator(".earlier"), page.locator(".turn")
    for key, is_open in (("o", True), ("o", False), ("[", True)):
        press(page, key)
        assert fold.evaluate("one => one.open") == is_open
        expect(page.locator("#shown-prompt")).to_be_in_viewport()
    expect(turns.nth(3)).to_be_focused()
    expect(turns.nth(3)).to_be_in_viewport()
    press(page, "[", "[", "[", "[")  # and no further than the first
    expect(turns.nth(0)).to_be_focused()
    expect(turns.nth(0)).to_be_in_viewport()
    pictures.take(page, "conversation-pair-desktop")
    assert findings(page) == []
    page.set_viewport_size(cast(ViewportSize, pictures.PHONE))
    pictures.take(page, "conversation-pair-phone")
    assert page.evaluate("document.documentElement.scrollWidth") == pictures.PHONE["width"]
    summary = page.locator(".earlier > summary").bounding_box()
    assert summary
    assert summary["height"] >= 44
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    press(page, "]", "6")  # a verdict as ever, from within the conversation
    expect(page.locator("#item")).to_have_attribute("data-kind", "ranking")
    press(page, "o", "2", "1")  # an open conversation takes no keys of the ranking
    expect(page.locator("#ranked")).to_have_text("2 > 1 > 3. Enter saves.")
    press(page, "Enter")
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.count() == 2
    assert page.evaluate("seen.pointer") == 0


def test_turns_are_judged_by_a_finger_with_keys_of_ones_own_and_offline(watched, live_server, studio):
    for number in range(2):
        ask(studio, "turns", f" Answer {number}.")
    ada = studio.raters["ada"]
    ada.page_settings = {"keys": {"1": "y", "[": "h"}}
    ada.save()
    page = open_rater(watched, live_server.url, studio)
    page.set_viewport_size(cast(ViewportSize, pictures.PHONE))
    page.locator("[data-turn='2'] .text").click()
    assert now(page) == "2"
    page.locator("[data-turn-key='2']").click()
    page.locator("[data-turn-step='-1']").click()
    page.locator("[data-turn-step='-1']").click()
    page.locator("[data-turn-key='3']").click()
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    expect(page.locator("[data-turn-key='1'] kbd")).to_have_text("Y")
    assert now(page) == "3"
    press(page, "h", "y")
    assert said(page) == ["unsure", "good", ""]
    page.context.set_offline(True)
    page.locator("[data-turn-key='1']").click()
    press(page, "Enter")  # with the button still focused
    expect(page.locator("#saved")).to_contain_text("will resend")
    kept = page.evaluate("({...localStorage})")
    (entries,) = (json.loads(kept[name]) for name in kept if name.startswith("steersman-unsent"))
    assert [entries[0]["values"][f"turn:{n}"] for n in (1, 2, 3)] == ["3", "1", "1"]
    page.context.set_offline(False)
    wait_until_nothing_is_kept(page)
    assert Rating.objects.get().details == {"turns": [0, 1, 1]}


def test_without_javascript_the_turns_are_plain_buttons(browser, live_server, studio):
    ask(studio, "turns", " Because of salmonella.")
    ask(studio, "single", "An answer.")
    context = browser.new_context(java_script_enabled=False)
    page = open_rater(context, live_server.url, studio, wait_for="#save")
    assert not page.locator(".scripted:visible").count()
    for number, word in enumerate(("good", "bad", "good"), start=1):
        page.locator(f"[data-turn='{number}']").get_by_label(word).check()
    page.click("#save")
    page.wait_for_selector("#item[data-kind=single]")
    assert Rating.objects.get().details == {"turns": [1, -1, 1]}
    expect(page.locator(".earlier .turn").first).to_be_hidden()
    page.locator(".earlier > summary").click()
    expect(page.locator(".earlier .turn").first).to_be_visible()
    context.close()
