"""Two panes in a real browser: linked scroll, differences, redo, report, and what a pause tells."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pictures
from tests.browser.looks import findings
from tests.browser.pages import READY, open_rater, press
from webapp.feedback.models import Rating, Report

pytestmark = pytest.mark.django_db(transaction=True)

SENTENCES = [f"Sentence {n} says what the film is like, and it takes its time to say so." for n in range(60)]


SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


def tops(page: Page) -> list[float]:
    return page.evaluate("[...document.querySelectorAll('.answer')].map((one) => one.scrollTop)")


def reaches(page: Page) -> list[float]:
    script = "[...document.querySelectorAll('.answer')].map((one) => one.scrollHeight - one.clientHeight)"
    return page.evaluate(script)


def marked(page: Page) -> list[str]:
    return page.evaluate(
        """() => {
          const text = (range) => {
            const live = document.createRange();
            live.setStart(range.startContainer, range.startOffset);
            live.setEnd(range.endContainer, range.endOffset);
            return live.toString();
          };
          return [...(CSS.highlights.get("differs") ?? [])].map(text);
        }"""
    )


def test_the_panes_scroll_together_by_share_until_they_are_set_apart(context, live_server, studio):
    context.add_init_script(SHIFTS)
    studio.add_item("A prompt", "\n\n".join(SENTENCES), "\n\n".join(SENTENCES[:30]) + "\n\n*x*")
    page = open_rater(context, live_server.url, studio)
    long, short = (0, 1) if reaches(page)[0] > reaches(page)[1] else (1, 0)
    assert all(reach > 100 for reach in reaches(page)), "both scroll within the window"
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), "the page itself does not"
    assert page.evaluate("shifts") == 0, "nothing moves while the page comes up"
    assert findings(page) == []
    pictures.take(page, "panes-desktop")
    page.evaluate("at => document.querySelectorAll('.answer')[at].scrollTop = 1e6", long)
    page.wait_for_function("at => document.querySelectorAll('.answer')[at].scrollTop > 100", arg=short)
    assert tops(page)[short] == pytest.approx(reaches(page)[short], abs=2), "the end beside the end"
    page.keyboard.press("k")
    page.wait_for_function(
        "([at, end]) => document.querySelectorAll('.answer')[at].scrollTop < end - 9", arg=[short, reaches(page)[short]]
    )
    shares = [top / reach for top, reach in zip(tops(page), reaches(page), strict=True)]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    page.keyboard.press("l")
    expect(page.locator("#unlinked")).to_have_attribute("aria-pressed", "true")
    before = tops(page)
    page.evaluate("at => document.querySelectorAll('.answer')[at].scrollTop = 0", long)
    page.wait_for_timeout(100)  # for a scroll event that must not come
    assert tops(page)[short] == before[short]


def test_a_key_marks_the_sentences_that_only_one_answer_has(context, live_server, studio):
    shared = "The film is long. It was made by the sea. "
    studio.add_item("A *prompt*", shared + "I **liked** it very much.", shared + "Nobody liked it. Not even I.")
    studio.add_item("Another prompt", "The same.\nOnly here.", "The same.\nOnly there.")
    page = open_rater(context, live_server.url, studio)
    assert marked(page) == []
    page.keyboard.press("d")
    expect(page.locator("#differences")).to_have_attribute("aria-pressed", "true")
    assert sorted(marked(page)) == ["I liked it very much.", "Nobody liked it.", "Not even I."]
    expect(page.locator("#announce")).to_contain_text("are not in the other")
    pictures.take(page, "differences-desktop")
    page.keyboard.press("v")
    assert "I **liked** it very much." in marked(page)
    page.keyboard.press("v")
    press(page, "2")
    assert sorted(marked(page)) == ["Only here.", "Only there."], "it stays on for the next pair"
    page.keyboard.press("d")
    assert marked(page) == []


def test_redo_goes_forward_again_to_where_one_was(context, live_server, studio):
    studio.add_items(pairs=5)
    page = open_rater(context, live_server.url, studio)
    seen = []
    for _ in range(3):
        page.wait_for_selector(READY)
        seen.append(page.locator(".shown").first.text_content())
        press(page, "2")
    current = page.locator(".shown").first.text_content()
    page.keyboard.press("Shift+u")
    expect(page.locator("#saved")).to_have_text("nothing to redo")
    for _ in range(3):
        page.keyboard.press("u")
    expect(page.locator(".shown").first).to_have_text(seen[0])
    page.keyboard.press("Shift+u")
    expect(page.locator(".shown").first).to_have_text(seen[1])
    page.keyboard.press("Control+y")
    expect(page.locator(".shown").first).to_have_text(seen[2])
    page.click("#redo")
    expect(page.locator(".shown").first).to_have_text(current)
    expect(page.locator(".said")).to_have_count(0)
    assert Rating.objects.count() == 3


def test_a_report_takes_one_key_or_some_words(context, live_server, studio):
    studio.add_items(pairs=4)
    page = open_rater(context, live_server.url, studio)
    press(page, "f")
    expect(page.locator("#told")).to_have_text("Reported. You do not get it again; an admin looks at it.")
    page.wait_for_selector(READY)
    token = page.input_value("[name=token] >> nth=0")
    page.keyboard.press("Shift+F")
    expect(page.locator("#report-words")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#report-words")).to_be_hidden()
    page.keyboard.press("Shift+F")
    pictures.take(page, "report-desktop")
    page.keyboard.type("it names a person: 1 2 3")
    page.keyboard.press("Enter")
    page.wait_for_function("old => document.querySelector('[name=token]').value !== old", arg=token)
    page.wait_for_function("() => localStorage.length === 0")
    assert list(Report.objects.order_by("id").values_list("words", flat=True)) == ["", "it names a person: 1 2 3"]
    assert not Rating.objects.exists()


def test_a_pause_tells_what_was_done(context, live_server, studio):
    studio.add_items(pairs=5)
    page = open_rater(context, live_server.url, studio)
    for key in ("1", "3", "7"):
        press(page, key)
    page.wait_for_selector(READY)
    page.keyboard.press("p")
    expect(page.locator("#sitting")).to_contain_text("Rated3")
    expect(page.locator("#sitting .by-verdict")).to_have_text("A better2B better1")
    expect(page.locator("#go-on")).to_be_focused()
    pictures.take(page, "paused-desktop")
