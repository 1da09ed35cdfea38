"""The admin's pages in a real browser: accessible, no sideways scroll on a phone, live without being loaded anew."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pictures
from tests.browser.looks import findings, in_words
from tests.studio import PASSWORD, Studio, open_studio
from tests.turns import (
    POLICY,
    SFT,
    ask_for_policy_run,
    ask_for_reward_run,
    ask_for_sft_run,
    begin,
    begin_watched_run,
    evaluate,
    finish,
    hold_out,
    rate,
    rate_by_machine,
    turn,
)
from webapp import queue
from webapp.accounts.languages import choose_language
from webapp.feedback.models import Report
from webapp.projects.services import create_invitation
from webapp.registry.services import promote
from webapp.runs import leases, progress, results

pytestmark = pytest.mark.django_db(transaction=True)
HOSTILE = '<img src=x onerror="window.hurt = 1"><script>window.hurt = 2</script> ' + "w" * 300
PAGES = {
    "board": "",
    "runs": "runs/",
    "start-reward": "runs/reward/",
    "start-policy": "runs/policy/",
    "run-done": "runs/2/",
    "run-live": "runs/3/",
    "run-cancel": "runs/3/cancel/",
    "policy": "policies/1/",
    "policy-candidate": "policies/2/",
    "ratings-behind": "policies/2/ratings/",
    "start-evaluation": "policies/2/evaluate/",
    "run-evaluated": "runs/4/",
    "lineage": "lineage/",
    "start-fine-tuning": "runs/sft/",
    "run-fine-tuned": "runs/5/",
    "policy-fine-tuned": "policies/3/",
    "demonstrations": "policies/3/ratings/",
    "run-watched": "runs/8/",
}
PROJECT_PAGES = {
    "ratings": "ratings/",
    "raters": "raters/",
    "import": "import/",
    "guideline": "guideline/",
    "settings": "settings/",
    "modes": "settings/modes/",
    "first-visit": "settings/first-visit/",
}
MADE_PAGES = {"rating": "ratings/{}/", "dataset": "datasets/{}/"}  # of what has no number


@pytest.fixture(autouse=True)
def quiet_broker(monkeypatch):
    monkeypatch.setattr(queue, "send", lambda *args, **kwargs: True)


@pytest.fixture
def studio() -> Studio:
    """Ratings of people and a machine, an evaluated candidate, a run that goes on, a fine-tuned policy."""
    studio = open_studio()
    rate(studio, 16)
    rate_by_machine(studio, 4)
    turn(studio)
    studio.add_samples("What can be said about a film", HOSTILE)
    reward_model = studio.project.checkpoints.get(kind="reward_model")
    run = ask_for_policy_run(studio, reward_model, updates=30)
    claim = begin(run, step=5, total_steps=30)
    progress.record_log(claim, HOSTILE)
    hold_out(studio, 3)
    evaluate(studio)
    tuned = begin(ask_for_sft_run(studio), step=9)
    progress.record_texts(tuned, [{"step": 9, "prompt": "What can be said about a film", "response": HOSTILE}])
    results.succeed(tuned, outputs=[{"kind": "policy", "id": "f" * 64}], result=SFT)
    begin_watched_run(studio)
    return studio


def pages_of(studio: Studio) -> dict[str, str]:
    """The addresses of all pages by name."""
    made = {"rating": studio.project.ratings.latest("id").pk, "dataset": studio.project.datasets.latest("id").pk}
    return PAGES | {name: end.format(made[name]) for name, end in MADE_PAGES.items()}


def enter(page: Page, root: str) -> Page:
    page.add_init_script("""
        window.violations = [];
        addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
    """)
    page.goto(f"{root}/login/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.click("main button")
    page.wait_for_url(lambda url: "/login/" not in url)
    return page


def look(page: Page, root: str, end: str) -> None:
    page.goto(f"{root}/p/film-reviews/{end}")
    if page.locator("[data-curves]").count():
        page.wait_for_selector("[data-curves][data-drawn]", state="attached")


def test_axe_finds_nothing_and_hostile_text_does_nothing(new_context, live_server, studio):
    page = enter(new_context(viewport=pictures.DESKTOP).new_page(), live_server.url)
    found = {}
    for name, end in pages_of(studio).items():
        look(page, live_server.url, end)
        for fold in page.locator("details.fold > summary").all():
            fold.click()
        found[name] = findings(page)
        assert page.evaluate("violations") == [], name
        assert page.evaluate("window.hurt") is None, name
    assert in_words(found) == ""


def test_on_a_phone_no_page_scrolls_sideways(new_context, live_server, studio):
    page = enter(new_context(viewport=pictures.PHONE).new_page(), live_server.url)
    wide = {}
    create_invitation(actor=studio.admin, project=studio.project)
    Report.objects.create(comparison=studio.project.comparisons.first(), rater=studio.admin, words="It names a person.")
    for name, end in (pages_of(studio) | PROJECT_PAGES).items():
        look(page, live_server.url, end)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > pictures.PHONE["width"]:
            wide[name] = width
        pictures.take(page, f"{name}-phone")
    assert wide == {}


def test_a_table_wider_than_a_phone_is_shaded_where_there_is_more(new_context, live_server, studio):
    page = enter(new_context(viewport=pictures.PHONE).new_page(), live_server.url)
    look(page, live_server.url, "raters/")
    table = page.locator(".wrap")
    assert table.evaluate("one => one.scrollWidth > one.clientWidth")
    before = table.screenshot()
    attached = table.evaluate("one => getComputedStyle(one).backgroundAttachment")
    assert attached == "local, local, scroll, scroll", "what covers the shade moves with the table"
    table.evaluate("one => one.style.background = 'none'")
    assert table.screenshot() != before, "the shade can be seen"


def test_the_loops_tables_stack_on_a_phone(new_context, live_server, studio):
    page = enter(new_context(viewport=pictures.PHONE).new_page(), live_server.url)
    for end in ("ratings/", "lineage/", "", "runs/"):
        look(page, live_server.url, end)
        tables = page.locator(".wrap:has(table)")
        cut = tables.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth).length")
        assert cut == 0, end
        if not page.locator(".runs").count():
            continue
        edges = page.locator(".runs tr:last-child td").evaluate_all("""all => all.map((cell) => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            return range.getBoundingClientRect().left;
        })""")
        what, begin = edges[1], page.locator("h1").bounding_box()["x"]
        assert what == begin, "no empty name stands before what a run is"


def test_longer_words_of_another_language_are_not_cut(new_context, live_server, studio):
    choose_language(user=studio.admin, language="de")
    page = enter(new_context(viewport=pictures.DESKTOP).new_page(), live_server.url)
    look(page, live_server.url, "")
    fits = "all => all.every(one => one.scrollWidth <= one.clientWidth)"
    assert page.locator(".wrap").evaluate_all(fits), "a desktop shows whole tables"
    look(page, live_server.url, "lineage/")
    ends = page.locator(".tree text").evaluate_all("all => all.map(one => one.getBBox().x + one.getBBox().width)")
    assert max(ends) <= page.locator(".tree").evaluate("one => one.width.baseVal.value")
    look(page, live_server.url, "runs/8/")
    chart = page.locator("figure.chart").first
    room = "one => one.querySelector('canvas').clientWidth - one.querySelector('.u-over').clientWidth"
    assert chart.evaluate(room) > 52 + 128, "the law and the judge are longer words in German"


def test_the_family_tree_is_mirrored_in_arabic(new_context, live_server, studio):
    choose_language(user=studio.admin, language="ar")
    page = enter(new_context(viewport=pictures.DESKTOP).new_page(), live_server.url)
    look(page, live_server.url, "lineage/")
    dots, words = (
        page.locator(f".tree {name}").evaluate_all("""all => all.map((one) => {
            const { left, right } = one.getBoundingClientRect();
            return { left, right };
        })""")
        for name in ("circle", "text")
    )
    assert max(one["right"] for one in words) < min(one["left"] for one in dots), "words stand left of all dots"
    edges = page.locator(".tree").bounding_box()
    assert edges["x"] <= min(one["left"] for one in words)
    assert max(one["right"] for one in dots) <= edges["x"] + edges["width"]


def test_a_running_run_moves_by_itself_and_stops_asking_at_its_end(page, live_server, studio):
    enter(page, live_server.url)
    look(page, live_server.url, "runs/3/")
    curves, asked = page.locator("[data-curves]"), []
    page.on("request", lambda request: asked.append(request.url) if "/live/" in request.url else None)
    assert curves.get_attribute("data-drawn") == "5"
    page.evaluate("window.canvas = document.querySelector('figure.chart canvas')")
    run = studio.project.runs.get(number=3)
    claim = leases.Claim(run=run, fence=run.fence, owner="test")
    progress.record_progress(claim, step=6, total_steps=30, phase="learning")
    progress.record_metrics(claim, [(6, POLICY | {"kl": 9.5})])
    expect(page.locator("#live")).to_contain_text("update 6 of 30", timeout=15_000)
    expect(curves).to_have_attribute("data-drawn", "6")
    assert page.evaluate("window.canvas.isConnected"), "the chart was drawn on, not made anew"
    expect(page.locator("#last-values")).to_contain_text("9.50")
    results.fail(claim, "TrainingDiverged: too far")
    expect(page.locator("#live")).to_contain_text("This run failed", timeout=15_000)
    count = len(asked)
    page.wait_for_timeout(4000)
    assert len(asked) == count, "a finished run is asked for no more"


def test_ticks_differ_where_the_values_hardly_do(page, live_server, studio):
    choose_language(user=studio.admin, language="de")
    run = ask_for_policy_run(studio, studio.project.checkpoints.filter(kind="reward_model").first(), updates=30)
    claim = begin(run, total_steps=30)
    values = POLICY | {"score": 0.00590001, "reward": 0.0059, "kl": -2e-5, "learning_rate": 2e-5}
    progress.record_metrics(claim, [(1, values)])
    page.add_init_script("""
        window.written = new Map();
        const write = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            written.set(this.canvas, [...(written.get(this.canvas) || []), text]);
            return write.call(this, text, ...place);
        };
    """)
    enter(page, live_server.url)
    look(page, live_server.url, f"runs/{run.number}/")
    by_chart = dict(zip(("reward", "kl"), page.evaluate("[...written.values()]"), strict=False))
    assert "\N{MINUS SIGN}2,0e\N{MINUS SIGN}5" in by_chart["kl"], "as a German writes it"
    for name, texts in by_chart.items():
        ticks = [text for text in texts if re.fullmatch(r"[\N{MINUS SIGN}\d,]+", text) and "," in text]
        assert len(ticks) >= 4, name
        assert len(set(ticks)) == len(ticks), name


def test_a_poll_that_brings_nothing_new_leaves_the_page_alone(page, live_server, studio):
    enter(page, live_server.url)
    look(page, live_server.url, "runs/3/")
    page.evaluate("window.before = document.querySelector('#live .progress')")
    with page.expect_response(lambda answer: "/live/" in answer.url, timeout=15_000):
        pass
    with page.expect_response(lambda answer: "/live/" in answer.url, timeout=15_000):
        pass
    page.wait_for_timeout(300)
    assert page.evaluate("window.before.isConnected")


def test_without_javascript_every_number_is_on_the_page_and_a_run_can_be_started(new_context, live_server, studio):
    page = enter(new_context(java_script_enabled=False).new_page(), live_server.url)
    page.goto(f"{live_server.url}/p/film-reviews/runs/2/")
    expect(page.locator("#last-values")).to_contain_text("8.00")
    page.goto(f"{live_server.url}/p/film-reviews/runs/reward/")
    page.get_by_role("button", name="Start with preset CPU").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Train a reward model")
    page.get_by_role("link", name="Cancel…").click()
    page.get_by_role("button", name="Cancel run 9").click()
    expect(page.locator("#live .tag").first).to_have_text("cancelled")


def test_the_boards_band_follows_a_run_and_says_what_comes_next(page, live_server):
    studio = open_studio()
    rate(studio, 20)
    begin_run = ask_for_reward_run(studio)
    claim = begin(begin_run, step=3, total_steps=10)
    enter(page, live_server.url)
    look(page, live_server.url, "")
    expect(page.locator("#now")).to_contain_text("step 3 of 10")
    results.succeed(claim, outputs=[{"kind": "reward_model", "id": "c" * 64}], result={"holdout_accuracy": 0.75})
    expect(page.locator("#now")).to_contain_text("Reward model 1 has not been used yet", timeout=15_000)
    finish(ask_for_policy_run(studio, begin_run.outputs.get()))
    page.reload()
    expect(page.locator("#now")).to_contain_text("v2 is ready")
    candidate = studio.project.checkpoints.get(kind="policy", version=2)
    promote(project=studio.project, checkpoint=candidate, actor=studio.admin, expected_epoch=1)
    page.reload()
    expect(page.locator(".versions tbody tr").first).to_contain_text("serving")
