"""The benchmark of the rater page on few items of every mode; and that it would see what it is there to see."""

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.rating import WAYS, measure, sum_up, worst_of
from benchmarks.rating_training import Look
from benchmarks.rating_training import sum_up as sum_up_training
from benchmarks.rating_watch import WATCH, WITHOUT_KEY
from webapp.feedback.models import Rating
from webapp.feedback.modes import MODES

KEYS = {"axes": 3, "ranking": 4, "evidence": 4, "rewrite": 3, "turns": 3, "flags": 4, "reason": 5}
"""How many an item takes where one is not enough."""


@pytest.mark.django_db(transaction=True)
def test_each_mode_is_finished_by_keys_that_are_printed_on_it_and_nothing_moves(browser: Browser, live_server):
    for name, way in WAYS.items():
        found = measure(browser, live_server.url, name, 2)
        assert found["items"] == 2
        assert 0 < found["key_to_next"]["p50_ms"] <= found["key_to_next"]["max_ms"]
        assert found["keys_median"] == KEYS.get(name, 1)
        assert {key: found[key] for key in ("pointer_events", "moved_pixels", "shifted", "controls_without_key")} == {
            "pointer_events": 0,
            "moved_pixels": 0,
            "shifted": [],
            "controls_without_key": [],
        }, name
        rated = Rating.objects.filter(project__slug=f"rating-{name}")
        assert set(rated.values_list("comparison__kind", flat=True)) == {way.kind}
    said = Rating.objects.filter(project__slug="rating-evidence").first()
    assert said is not None
    assert len(said.quotes) == 1


def test_every_rating_mode_has_a_way_to_be_measured():
    assert {way.kind for way in WAYS.values()} == set(MODES), "a mode takes one entry in benchmarks/rating.py"


JUMPY = """<style>body { margin: 0 }</style><header class="strip"><div class="end"><button>Pause <kbd>P</kbd></button>
<details class="menu"><summary>ada</summary></details></div></header><div id="item" data-kind="pair">
<p id="shown-prompt">A film</p><div class="verdict"><button id="bare">Equal</button><button hidden>Unseen</button>
<label><input type="radio"><kbd>1</kbd></label><label for="words">Words</label>
<kbd>E</kbd><input id="words"></div></div>
<p id="below">Below</p><script>
addEventListener("keydown", (event) => {
  if (event.key !== "4") return;
  const next = document.querySelector("#item").cloneNode(true);
  next.style.paddingTop = "80px";
  document.querySelector("#item").replaceWith(next);
});
</script>"""


def test_a_control_without_a_key_a_second_key_a_pointer_and_a_shift_are_seen(page: Page):
    page.add_init_script(WATCH)
    page.route("**/*", lambda route: route.fulfill(body=JUMPY, content_type="text/html"))
    page.goto("http://jumpy.test/")
    assert page.evaluate(WITHOUT_KEY) == ["bare"]
    page.mouse.click(5, 5)
    page.keyboard.press("x")
    page.keyboard.press("Shift+A")
    page.keyboard.press("4")
    page.wait_for_function("seen.waits.length === 1 && seen.shift > 0")
    seen = page.evaluate("seen")
    assert seen["keys"] == [3]  # Shift alone is none
    assert seen["pointer"] > 0
    assert seen["moved"] == 80
    assert "below" in seen["shifted"]


def seen_by_a_page(**changes):
    waits = [float(n) for n in range(1, 102)]  # so that a percentile is its number plus 1
    base = {"waits": waits, "keys": [1, 1, 4], "pointer": 0, "moved": 0, "shift": 0.0, "shifted": []}
    return {**base, **changes}


def test_what_a_page_has_seen_is_summed_up():
    found = sum_up(seen_by_a_page(), without_key=[], seconds=40.04)
    assert found["key_to_next"] == {"p50_ms": 51.0, "p95_ms": 96.0, "max_ms": 101.0}
    assert (found["items"], found["keys_median"], found["seconds"]) == (101, 1, 40.0)
    worse = sum_up(
        seen_by_a_page(pointer=2, shift=0.25, shifted=["b", "b"], waits=[7.0, 9.0]), without_key=["x"], seconds=1
    )
    assert worse["shifted"] == ["b"]
    assert worst_of({"one": found, "other": worse}) == {
        "p95_ms": 96.0,
        "pointer_events": 2,
        "moved_pixels": 0,
        "layout_shift": 0.25,
        "controls_without_key": 1,
    }


def test_a_training_run_that_stood_still_proves_nothing(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    found = sum_up_training(Look(10.0, 5, 4.0), Look(20.0, 105, 19.0))
    assert (found["step_before"], found["step_after"], found["steps"]) == (5, 105, 100)
    assert (found["seconds"], found["cores"], found["share_of_cores"]) == (10.0, 2, 0.75)
    with pytest.raises(RuntimeError, match="stood still at step 5"):
        sum_up_training(Look(10.0, 5, 4.0), Look(20.0, 5, 19.0))
