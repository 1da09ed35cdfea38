"""The verdict bar and what stands around it: one row on a desktop, no keycaps on a phone, tables that go on."""

import pytest
from playwright.sync_api import BrowserContext, Page, ViewportSize, expect

from tests.browser.pages import READY, is_within, open_rater, wait_until_sent
from tests.browser.test_modes import REVIEW
from tests.browser.test_turns import LONG, ask
from tests.studio import Studio, open_studio
from webapp.accounts.languages import choose_language
from webapp.projects.models import Rule

pytestmark = pytest.mark.django_db(transaction=True)

SMALL_DESKTOP: ViewportSize = {"width": 1280, "height": 800}
SMALL_PHONE: ViewportSize = {"width": 390, "height": 844}
ENDS = """() => [...document.querySelectorAll(".verdict :is(button, .button, summary, .fives)")]
  .filter((one) => one.checkVisibility()).map((one) => Math.round(one.getBoundingClientRect().bottom))"""
MIDDLES = """() => [...document.querySelectorAll(".head :is(button, summary)")]
  .filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect())
  .map(({ top, bottom }) => Math.round((top + bottom) / 2))"""
KEYCAPS = """() => [...document.querySelectorAll("kbd")].filter((one) => one.checkVisibility())
  .filter((one) => !one.closest(".fives, [data-rank]")).map((one) => one.parentElement.outerHTML)"""

AXES = ["helpful", "truthful", "harmless", "well structured", "concise", "polite"]
LAID_OUT = """() => {
  const round = (one) => {
    const { left, top, right, bottom } = one.getBoundingClientRect();
    const sides = Object.entries({ left, top, right, bottom });
    return Object.fromEntries(sides.map(([side, at]) => [side, Math.round(at)]));
  };
  const all = (which) => [...document.querySelectorAll(which)].filter((one) => one.checkVisibility());
  const words = all(".verdict :is(button, .button, summary, legend)");
  const cut = words.filter((one) => one.scrollWidth > one.clientWidth + 1);
  return {
    scales: all(".fives").map(round),
    digits: all(".fives label").map(round),
    buttons: all(".verdict :is(button, .button, summary)").map(round),
    cut: cut.map((one) => one.textContent),
    bar: round(document.querySelector(".verdict")),
  };
}"""
TOOLS = """() => [...document.querySelectorAll(".head :is(button, summary)")].filter((one) => one.checkVisibility())
  .map((one) => {
    const { left, top, right, bottom } = one.getBoundingClientRect();
    const words = document.createRange();
    words.selectNodeContents(one);
    const tops = [...words.getClientRects()].filter(({ width }) => width).map((line) => Math.round(line.top));
    return { left, top, right, bottom, lines: new Set(tops).size, words: one.textContent.trim() };
  })"""
CUT_OFF = """() => [...document.querySelectorAll(".tools, #marking")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1)
  .map((one) => one.textContent)"""


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.project.flags = ["spam", "personal data", "harmful"]
    studio.project.axes = ["helpful", "truthful", "harmless"]
    studio.project.save()
    studio.add_rater("ada")
    return studio


def add(studio: Studio, kind: str) -> None:
    if kind == "rule":
        Rule.objects.create(project=studio.project, text="It gives a reason.")
    if kind == "turns":
        ask(studio, kind, " Because of salmonella.")
    elif kind == "pair":
        ask(studio, kind, f"One. {REVIEW} {REVIEW}", f"Two. {REVIEW}", turns=LONG)
    else:
        studio.add_item("Opening", *("One.", "Two.", "Three.", "Four.")[: 4 if kind == "ranking" else 1], kind=kind)


def at(context: BrowserContext, root: str, studio: Studio, size: ViewportSize) -> Page:
    page = open_rater(context, root, studio)
    page.set_viewport_size(size)
    return page


@pytest.mark.parametrize("kind", ["pair", "single", "ranking", "rule", "rewrite", "turns"])
def test_the_bar_is_one_row_at_1280_pixels_with_its_keys_printed(context, live_server, studio, kind):
    add(studio, kind)
    page = at(context, live_server.url, studio, SMALL_DESKTOP)
    found = {}
    for language in ("en", "de", "ar"):
        choose_language(user=studio.raters["ada"], language=language)
        page.reload()
        page.wait_for_selector(READY)
        ends = page.evaluate(ENDS)
        found[language] = max(ends) - min(ends)
        middles = page.evaluate(MIDDLES)
        assert max(middles) - min(middles) <= 2, f"the tools above the texts, in {language}"
        assert is_within(page)
        for name in ("#undo", "#skip-plain", "#flags summary", "#reason summary", ".because summary"):
            expect(page.locator(f"{name} kbd")).to_be_visible()
    assert max(found.values()) <= 1, found


@pytest.mark.parametrize("kind", ["pair", "single", "ranking", "rewrite"])
def test_on_a_phone_no_key_is_printed_that_is_not_there(context, live_server, studio, kind):
    add(studio, kind)
    page = at(context, live_server.url, studio, SMALL_PHONE)
    assert page.evaluate(KEYCAPS) == []
    if kind == "pair":
        page.click(".earlier summary")
        expect(page.locator(".earlier .turn").first).to_be_visible()
    page.click(".menu summary")
    page.click(".menu button:has-text('Pause')")
    expect(page.locator("#go-on")).to_be_visible()
    assert page.evaluate(KEYCAPS) == []


def test_on_a_phone_no_hint_of_a_rule_or_a_rewriting_speaks_of_keys(context, live_server, studio):
    add(studio, "rule")
    add(studio, "rewrite")
    page = at(context, live_server.url, studio, SMALL_DESKTOP)
    told = set()

    def see(name: str) -> str:
        told.add(name)
        return page.locator(name).inner_text()

    for _ in range(2):
        page.wait_for_selector(READY)
        if page.locator("#marking").count():
            assert "press M" in see("#marking")
            page.set_viewport_size(SMALL_PHONE)
            assert see("#marking") == "Select the words that show it, then Mark."
            page.click("#mark")
            assert see("#marking") == "“One.” Mark it, or select other words."
        else:
            page.set_viewport_size(SMALL_PHONE)
            page.fill("#rewrite-text", "Begun.")
            assert see("#rewrite-hint") == "Your text is not saved yet."
            page.click("#step-1")
            assert "Say once more that the answer is good as it is" in see("#rewrite-hint")
        page.set_viewport_size(SMALL_DESKTOP)
        page.click("#skip-plain")
    assert told == {"#marking", "#rewrite-hint"}


@pytest.mark.parametrize("kind", ["rule", "pair"])
def test_no_words_are_cut_off_in_any_language(context, live_server, studio, kind):
    add(studio, kind)
    page = at(context, live_server.url, studio, SMALL_PHONE)
    for language, arrow in (("en", "▸"), ("de", "▸"), ("ar", "◂")):
        choose_language(user=studio.raters["ada"], language=language)
        for size in (SMALL_PHONE, SMALL_DESKTOP):
            page.set_viewport_size(size)
            page.reload()
            page.wait_for_selector(READY)
            assert page.evaluate(CUT_OFF) == [], (language, size)
        if kind == "pair":
            mark = page.locator(".earlier summary").evaluate("one => getComputedStyle(one, '::before').content")
            assert mark == f'"{arrow}"', "it points at the words"


def test_earlier_turns_scroll_in_a_box_of_their_own_and_what_is_asked_stays_in_sight(context, live_server, studio):
    add(studio, "pair")
    page = at(context, live_server.url, studio, SMALL_DESKTOP)
    page.keyboard.press("o")
    page.wait_for_selector(".earlier[open]")

    def box(selector: str) -> dict[str, float]:
        found = page.locator(selector).bounding_box()
        assert found, selector
        return {**found, "end": found["y"] + found["height"]}

    def all_in_sight() -> None:
        prompt, asked, panes, bar = map(box, (".prompt", ".prompt > .turn", "#pane-a", ".verdict"))
        assert prompt["y"] <= asked["y"] < asked["end"] <= prompt["end"] + 1 <= panes["y"], "all of what is asked"
        assert panes["height"] >= 150
        assert panes["end"] <= bar["y"]

    all_in_sight()
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), "the page itself does not scroll"
    earlier = page.locator(".earlier > ol")
    assert earlier.evaluate("list => list.scrollHeight > 2 * list.clientHeight")
    for number in (3, 2, 1, 0):
        page.keyboard.press("[")
        turn = page.locator(".turn").nth(number)
        expect(turn).to_be_focused()
        inner, outer = box(f".turn >> nth={number}"), box(".earlier > ol")
        assert abs(inner["y"] - outer["y"]) < 20 or abs(inner["end"] - outer["end"]) < 20, "the turn fills the box"
        all_in_sight()


def test_the_table_of_ratings_stands_as_cards_on_a_phone(context, live_server, studio):
    add(studio, "single")
    page = at(context, live_server.url, studio, SMALL_PHONE)
    page.click("[data-axis='0'] input[value='4']", force=True)
    page.click("#save")
    expect(page.locator("#progress")).to_contain_text("1")
    wait_until_sent(page)
    studio.project.memberships.update(role="admin")
    page.goto(f"{live_server.url}/p/{studio.project.slug}/ratings/")
    rated = page.locator(".wrap:has(.ratings)")
    assert rated.evaluate("one => one.scrollWidth <= one.clientWidth")
    assert is_within(page)


def tops(boxes: list[dict[str, int]]) -> list[int]:
    """The rows that some boxes stand in, from above."""
    return sorted({box["top"] for box in boxes})


@pytest.mark.parametrize("count", [2, 4, 6])
def test_the_scales_of_all_axes_stand_in_one_row_and_the_text_stays_in_sight(context, live_server, studio, count):
    studio.project.axes = AXES[:count]
    studio.project.save()
    add(studio, "single")
    page = at(context, live_server.url, studio, SMALL_DESKTOP)
    for language in ("en", "de", "ar"):
        choose_language(user=studio.raters["ada"], language=language)
        for width in (1280, 1440) if count == 2 else (1024, 1280, 1440):
            page.set_viewport_size({"width": width, "height": 800})
            page.reload()
            page.wait_for_selector(READY)
            found, which = page.evaluate(LAID_OUT), (language, width)
            assert len(found["scales"]) == count + 1
            assert len(tops(found["scales"])) == len(tops(found["buttons"])) == 1, which
            widths = [box["right"] - box["left"] for box in found["scales"]]
            assert max(widths) - min(widths) <= 1, which
            if count > 2:
                assert found["buttons"][0]["top"] >= found["scales"][0]["bottom"] + 8, f"a row of their own {which}"
                ends = [
                    box["left" if language == "ar" else "right"] for box in (found["scales"][-1], found["buttons"][-1])
                ]
                assert abs(ends[0] - ends[1]) <= 1, f"both rows end at one edge {which}"
            assert found["bar"]["bottom"] - found["bar"]["top"] <= 140, which
            assert found["cut"] == [], which
            assert is_within(page)
            for name in ("#save", "#undo", "#skip-plain", "#flags summary", "#reason summary", ".because summary"):
                expect(page.locator(f"{name} kbd")).to_be_visible()


@pytest.mark.parametrize("count", [2, 4, 6])
def test_on_a_phone_many_axes_leave_half_the_screen_to_the_text(context, live_server, studio, count):
    studio.project.axes = AXES[:count]
    studio.project.save()
    add(studio, "single")
    page = at(context, live_server.url, studio, SMALL_PHONE)
    for language in ("en", "de", "ar"):
        choose_language(user=studio.raters["ada"], language=language)
        page.reload()
        page.wait_for_selector(READY)
        found = page.evaluate(LAID_OUT)
        assert found["bar"]["bottom"] - found["bar"]["top"] <= 844 / 2, language
        assert found["cut"] == [], language
        assert is_within(page)
        assert len(tops(found["scales"])) == {2: 3, 4: 3, 6: 4}[count], "overall, then two in a row"
        assert min(box["bottom"] - box["top"] for box in found["digits"]) >= 40, language
        assert min(box["right"] - box["left"] for box in found["digits"]) >= 32, language


@pytest.mark.parametrize("kind", ["pair", "single", "ranking", "rule", "rewrite", "turns"])
def test_on_a_phone_each_tool_is_one_line_and_as_large_as_a_thumb(context, live_server, studio, kind):
    studio.project.axes = []
    studio.project.save()
    add(studio, kind)
    page = at(context, live_server.url, studio, SMALL_PHONE)
    for language in ("en", "de", "ar"):
        choose_language(user=studio.raters["ada"], language=language)
        for width in (390, 360, 320):
            page.set_viewport_size({"width": width, "height": 844})
            page.reload()
            page.wait_for_selector(READY)
            tools, which = page.evaluate(TOOLS), (language, width)
            assert len(tools) >= 3, which
            assert [one["words"] for one in tools if one["lines"] > 1] == [], which
            assert [one for one in tools if one["left"] < 0 or one["right"] > width] == [], which
            assert min(one["bottom"] - one["top"] for one in tools) >= 44, which
            assert min(one["right"] - one["left"] for one in tools) >= 44, which
            assert len({round(one["top"]) for one in tools}) <= (2 if kind == "pair" else 1), which
            assert tools[-1]["top"] == tools[-2]["top"], f"a report and its words stand together {which}"
            assert page.evaluate(LAID_OUT)["cut"] == [], f"the words of the bar {which}"
            assert is_within(page), which
