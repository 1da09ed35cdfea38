"""The rating modes beside pairs and single answers, in a real browser: each is finished by keys alone."""

from typing import cast

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser import pictures
from tests.browser.looks import findings
from tests.browser.pages import READY, log_in, wait_until_nothing_is_kept
from tests.browser.pages import press_in_turn as press
from webapp.feedback.models import Rating
from webapp.projects.models import Rule

pytestmark = pytest.mark.django_db(transaction=True)
REVIEW = (
    "that is exactly what it looked like. Then the sister comes home, and the whole film changes key. The scenes in "
    "the kitchen are funny without trying, the score stays out of the way, and the last shot had the row behind me "
    "in tears."
)


def look_at(page: Page, name: str) -> None:
    """Pictures, and nothing serious that axe finds; on a phone nothing too wide for it or too small to touch."""
    assert findings(page) == []
    pictures.take(page, f"{name}-desktop")
    page.set_viewport_size(cast(ViewportSize, pictures.PHONE))
    pictures.take(page, f"{name}-phone")
    assert page.evaluate("document.documentElement.scrollWidth") == pictures.PHONE["width"]
    for button in page.locator(".verdict .steps button:visible, .verdict .fives label:visible").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 44
        assert box["width"] >= 44
        assert box["x"] + box["width"] <= pictures.PHONE["width"]
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))


def test_an_order_may_be_typed_in_full(watched, address, studio):
    studio.add_item("Ranked opening", *(f"{word} {REVIEW}" for word in ("One", "Two", "Three", "Four")), kind="ranking")
    page = log_in(watched.new_page(), address)
    press(page, "2", "1", "4", "3")  # three places itself when the others have theirs
    expect(page.locator("#ranked")).to_have_text("2 > 1 > 4 > 3. Enter saves.")
    press(page, "3")  # once more takes it away
    expect(page.locator("#ranked")).to_have_text("2 > 1 > 4: which is next?")
    press(page, "3", "Enter")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.get()
    assert [rating.details["places"][str(sample.pk)] for sample in rating.presentation.samples] == [2, 1, 4, 3]


def test_rankings_are_given_by_keys_alone_and_the_last_step_can_be_taken_back(watched, address, studio):
    for n in range(3):
        studio.add_item(
            f"Ranked opening {n}", *(f"{word} {REVIEW}" for word in ("One", "Two", "Three", "Four")), kind="ranking"
        )
    page = log_in(watched.new_page(), address)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    top = page.locator(".verdict").bounding_box()
    press(page, "3", "1", "Control+z", "=", "2")  # 3 first; 1 second, taken back; 2 beside 3
    expect(page.locator("#ranked")).to_have_text("2 = 3: which is next?")
    press(page, "Enter")
    expect(page.locator("#ranked")).to_have_text("Still without a place: 1, 4.")
    press(page, "4")  # one is left: it is the last
    expect(page.locator("#ranked")).to_have_text("2 = 3 > 4 > 1. Enter saves.")
    expect(page.locator("[data-place-of='1']")).to_have_text("3rd")
    look_at(page, "rank")
    assert page.locator(".verdict").bounding_box() == top, "the bar stands still"
    texts = page.locator(".answer .shown").all_text_contents()
    press(page, "Enter")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    rating = Rating.objects.get()
    places = rating.details["places"]
    assert [places[str(sample.pk)] for sample in rating.presentation.samples] == [3, 1, 1, 2]
    assert [sample.text for sample in rating.presentation.samples] == texts

    press(page, "0")  # all bad: one key
    expect(page.locator("#progress")).to_have_text("2 rated today")
    assert page.evaluate("seen.moved") == 0
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: all are bad.")
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: 2 = 3 > 4 > 1.")
    press(page, "4", "4", "Enter")  # loses its place and, as the one that is left, becomes the last of three
    expect(page.locator("#progress")).to_have_text("2 rated today")
    wait_until_nothing_is_kept(page)
    changed = Rating.objects.get(presentation=rating.presentation, is_current=True)
    assert (changed.revision, sorted(changed.details["places"].values())) == (2, [1, 1, 2, 3])
    assert changed.details != rating.details
    press(page, "1", "2", "3", "Enter")
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    assert page.evaluate("seen.pointer") == 0
    assert Rating.objects.filter(is_current=True).count() == 3


def test_flags_and_a_reason_take_keys_alone_and_survive_a_reload(watched, address, studio):
    studio.project.flags = ["spam", "personal data", "harmful"]
    studio.project.save()
    studio.add_items(pairs=2)
    page = log_in(watched.new_page(), address)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    press(page, "x", "1", "3", "1", "2")  # spam set and cleared
    look_at(page, "flags")
    press(page, "x", "r")
    expect(page.locator("#reason-text")).to_be_focused()
    page.keyboard.type("It names a person: 12 sugpx?")
    look_at(page, "reason")
    press(page, "Escape")
    expect(page.locator("#reason > div")).to_be_hidden()
    page.reload()
    page.wait_for_selector(READY)
    assert page.input_value("#reason-text") == "It names a person: 12 sugpx?"
    assert [page.is_checked(f"[data-flag='{n}']") for n in (1, 2, 3)] == [False, True, True]
    assert not Rating.objects.exists(), "no digit within the flags was a verdict"
    press(page, "5")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.get()
    assert (rating.flags, rating.reason) == (["personal data", "harmful"], "It names a person: 12 sugpx?")
    assert page.input_value("#reason-text") == "", "the next item begins empty"
    press(page, "r", "Escape", "2")
    expect(page.locator("#progress")).to_have_text("2 rated today")
    press(page, "u")
    expect(page.locator(".said")).to_be_visible()
    press(page, "u")
    expect(page.locator("#reason-text")).to_have_value("It names a person: 12 sugpx?")
    press(page, "x", "3", "x", "5")  # the same verdict with one flag less
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    changed = Rating.objects.get(comparison=rating.comparison, is_current=True)
    assert (changed.revision, changed.flags, changed.reason) == (2, ["personal data"], rating.reason)
    assert page.evaluate("seen.pointer") == 0


def test_an_answer_is_rewritten_by_keys_alone_and_the_text_survives_a_reload(watched, address, studio):
    for n in range(3):
        studio.add_item(f"Opening {n}", f"Dull {n}. {REVIEW}", kind="rewrite")
    page = log_in(watched.new_page(), address)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    press(page, "Control+Enter")
    expect(page.locator("#rewrite-hint")).to_contain_text("the answer as it stood")
    press(page, "e")
    expect(page.locator("#rewrite-text")).to_be_focused()
    page.keyboard.type(" And 1 more sup?")
    look_at(page, "rewrite")
    page.reload()
    page.wait_for_selector(READY)
    said = page.input_value("#rewrite-text")
    assert said.endswith(" And 1 more sup?")
    press(page, "e", "Escape", "Control+Enter")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.get().details == {"text": said}
    press(page, "1")
    expect(page.locator("#progress")).to_have_text("2 rated today")
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: good as it is.")
    press(page, "Escape")  # kept
    expect(page.locator(".said")).to_have_count(0)
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: good as it is.")
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: rewritten.")
    press(page, "e")
    page.keyboard.type(" Twice.")
    press(page, "Control+Enter")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.get(revision=2).details == {"text": f"{said} Twice."}
    press(page, "1")
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    assert page.evaluate("seen.pointer") == 0


def test_a_long_text_of_many_bytes_is_sent_and_a_refused_one_is_not_lost(watched, address, studio):
    studio.project.flags = ["spam"]
    studio.project.save()
    for n in range(4):
        studio.add_item(f"Opening {n}", f"Dull {n}.", kind="rewrite")
    page = log_in(watched.new_page(), address)
    long = "Ж" * 19_000  # 114,000 bytes in a form: more than a request that outlives its page may have
    page.fill("#rewrite-text", long)
    press(page, "Control+Enter")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.get().details == {"text": long}
    page.wait_for_function("() => ahead")  # the third one is there already when the second is refused
    page.fill("#rewrite-text", "Written with care.")
    press(page, "Escape", "x", "1", "x")
    studio.project.flags = ["harmful"]
    studio.project.save()
    press(page, "Control+Enter")
    expect(page.locator("#told")).to_contain_text("There is no flag 'spam' here (harmful)")
    press(page, "1")  # of the next one; then the refused one is back, with what was written
    expect(page.locator("#rewrite-text")).to_have_value("Written with care.")
    press(page, "Control+Enter")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.filter(details={"text": "Written with care."}, flags=[]).count() == 1
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("You said: rewritten.")
    press(page, "e")
    page.keyboard.type(" More.")
    press(page, "Escape", "Enter")  # which neither saves nor throws away
    expect(page.locator("#rewrite-text")).to_have_value("Written with care. More.")
    expect(page.locator(".said")).to_be_visible()


def test_axes_are_scored_by_keys_alone_and_the_last_one_saves(watched, address, studio):
    studio.project.axes = ["helpful", "truthful", "harmless"]
    studio.project.save()
    for n in range(3):
        studio.add_item(f"Opening {n}", REVIEW)
    page = log_in(watched.new_page(), address)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    press(page, "Enter")  # nothing yet: it says what comes first
    expect(page.locator(".axis.current legend")).to_have_text("Overall")
    press(page, "4", "2", "u", "3")
    expect(page.locator(".axis.current legend")).to_have_text("truthful")
    look_at(page, "axes")
    page.reload()
    press(page, "5")
    expect(page.locator(".axis.current legend")).to_have_text("harmless")
    press(page, "1")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.get()
    assert (rating.verdict, rating.details) == (4, {"axes": {"helpful": 3, "truthful": 5, "harmless": 1}})
    press(page, "2", "Enter")  # the overall score alone
    expect(page.locator("#progress")).to_have_text("2 rated today")
    assert page.evaluate("seen.moved") == 0
    press(page, "u", "u")
    expect(page.locator(".said")).to_contain_text("4 of 5: good")
    press(page, "ArrowRight", "2", "Enter")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.get(revision=2).details == {"axes": {"helpful": 2, "truthful": 5, "harmless": 1}}
    press(page, "1", "1", "1", "1")
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    assert Rating.objects.filter(is_current=True).count() == 3
    assert page.evaluate("seen.pointer") == 0


def test_a_rule_is_answered_by_keys_alone_with_a_passage_marked(watched, address, studio):
    rule = Rule.objects.create(project=studio.project, text="It names no private person.")
    text = " \U0001f600 A film.\r\nAsk Dr Jekyll of Elm Street! It is long, and nobody is harmed!"
    for n in range(3):
        studio.add_item(f"Opening {n}", f"{text} {REVIEW}", kind="rule")
    page = log_in(watched.new_page(), address)
    page.set_viewport_size(cast(ViewportSize, pictures.DESKTOP))
    expect(page.locator(".rule")).to_have_text(rule.text)
    press(page, "m", "ArrowRight", "2")  # a verdict waits until the passage is marked or left
    expect(page.locator("#marking")).to_have_text("Enter marks the passage first, Esc leaves it.")
    press(page, *["Shift+ArrowLeft"] * 4)  # the sign at the end, then Street, Elm, of
    expect(page.locator(".chosen-passage")).to_have_text("Ask Dr Jekyll")
    press(page, "Enter", "m", "ArrowRight", "ArrowRight", "Shift+ArrowLeft", "Shift+ArrowLeft")
    look_at(page, "rule")
    press(page, "Enter")
    page.reload()
    page.wait_for_selector(READY)
    assert page.locator("mark").all_text_contents() == ["Ask Dr Jekyll", "It is long, and nobody is"]
    press(page, "2")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.select_related("comparison__first").get()
    assert (rating.verdict, rating.quotes) == (-1, ["Ask Dr Jekyll", "It is long, and nobody is"])
    press(page, "1")
    expect(page.locator("#progress")).to_have_text("2 rated today")
    assert page.evaluate("seen.moved") == 0
    press(page, "u")
    expect(page.locator(".said")).to_be_visible()
    press(page, "u")
    expect(page.locator(".said")).to_contain_text("no, it breaks the rule")
    press(page, "m", "ArrowRight", *["Shift+ArrowLeft"] * 3, "Enter")  # a word more than before
    expect(page.locator("mark").first).to_have_text("Ask Dr Jekyll of")
    press(page, "3")
    wait_until_nothing_is_kept(page)
    changed = Rating.objects.select_related("comparison__first").get(revision=2)
    assert (changed.verdict, changed.quotes[0]) == (0, "Ask Dr Jekyll of")
    assert page.evaluate("seen.pointer") == 0
    page.locator("#evidence-of").evaluate("""element => {
        const range = document.createRange();
        range.setStart(element.firstChild, 2);
        range.setEnd(element.firstChild, 10);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
    }""")
    page.click("#mark")
    expect(page.locator("mark")).to_have_text("A film.")
    page.click("mark")
    expect(page.locator("mark")).to_have_count(0)


def test_signs_for_what_cannot_be_seen_stay_while_passages_are_marked_and_a_21st_is_refused(watched, address, studio):
    Rule.objects.create(project=studio.project, text="It is short.")
    words = " ".join(f"Word{n}." for n in range(25))
    item = studio.add_item("Opening", f" \U0001f600\u202eHidden\u200b. {words}", kind="rule")
    page = log_in(watched.new_page(), address)
    page.wait_for_selector(READY)
    signs = page.locator("#evidence-of .mark")
    assert [sign.get_attribute("data-mark") for sign in signs.all()] == ["U+202E", "U+200B"]
    press(page, "m", "Enter")  # the first sentence, with the signs in it
    assert [sign.get_attribute("data-mark") for sign in page.locator("mark .mark").all()] == ["U+202E", "U+200B"]
    for n in range(20):
        page.evaluate(
            """word => {
                const walker = document.createTreeWalker(document.getElementById("evidence-of"), NodeFilter.SHOW_TEXT);
                while (!walker.nextNode().data.includes(word));
                const at = walker.currentNode.data.indexOf(word);
                getSelection().setBaseAndExtent(walker.currentNode, at, walker.currentNode, at + word.length);
            }""",
            f"Word{n}.",
        )
        page.keyboard.press("m")
    expect(page.locator("#marking")).to_have_text(
        "20 passages are marked, and there can be no more: clear one by a click on it first."
    )
    assert page.locator("mark").count() == 20
    page.locator("mark").nth(19).click()
    assert page.locator("mark").count() == 19
    press(page, "2")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.select_related("comparison__first").get(comparison=item)
    assert rating.quotes == ["\U0001f600\u202eHidden\u200b.", *(f"Word{n}." for n in range(18))]


def test_the_sign_for_equal_says_so_of_a_pair_and_is_no_score_of_a_single_answer(watched, address, studio):
    studio.add_items(pairs=1, singles=1)
    page = log_in(watched.new_page(), address)
    press(page, "=")
    expect(page.locator("#item")).to_have_attribute("data-kind", "single")
    press(page, "=", "5")
    expect(page.locator("h1")).to_have_text("That is all for now")
    wait_until_nothing_is_kept(page)
    assert dict(Rating.objects.values_list("comparison__kind", "verdict")) == {"pair": 0, "single": 5}
