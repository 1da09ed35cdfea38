"""From a key to the next item on the screen, in Chromium: ``python -m benchmarks.rating [--mode all]``; JSON out.

One rater judges items of one mode after the other by keyboard alone, on the rater page of a whole studio. Goals, of 200
items a mode: p95 <= 100 ms from an item's last key to the next one painted, and <= 250 ms while a training run uses all
cores (``--training``); one key a pair; no pointer event; nothing moves; each control in sight has its key printed on
it. Projects of its own; of the demo's, only ``--training`` takes ratings.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from benchmarks.browser import chromium
from benchmarks.feedback_project import make_project, make_sessions
from benchmarks.rating_training import Training, training
from benchmarks.rating_watch import WATCH, WITHOUT_KEY
from benchmarks.studio import studio

READY = "#item[aria-busy=false] #verdict"
LEFT_OVER = 5  # items beyond those that are judged: the queue never runs dry
DESKTOP = {"width": 1440, "height": 900}


@dataclass(frozen=True)
class Way:
    """How items are judged: the mode, the keys for each of them, and what the project has for it."""

    kind: str
    keys: Callable[[int], Sequence[str]]  # of the item with this number
    settings: Mapping[str, Any] = field(default_factory=dict)


def digit(most: int) -> Callable[[int], Sequence[str]]:
    """One key an item: 1 to ``most`` by turns."""
    return lambda number: [str(number % most + 1)]


WAYS: dict[str, Way] = {
    "pair": Way("pair", digit(7)),
    "single": Way("single", digit(5)),
    "axes": Way("single", lambda number: "3425"[number % 2 :][:3], {"axes": ["helpful", "true"]}),
    "ranking": Way("ranking", lambda number: [*"1234123"[number % 4 :][:3], "Enter"]),  # the fourth is the last
    "rule": Way("rule", digit(3)),
    "evidence": Way("rule", lambda number: ["m", "ArrowRight", "Enter", str(number % 3 + 1)]),
    "rewrite": Way("rewrite", lambda number: ["e", "!", "Control+Enter"]),
    "turns": Way("turns", lambda number: ["1", str(number % 3 + 1), "Enter"]),
    "flags": Way("pair", lambda number: ["x", "1", "x", str(number % 7 + 1)], {"flags": ["spam", "harmful"]}),
    "reason": Way("pair", lambda number: ["r", "o", "k", "Escape", str(number % 7 + 1)]),
}
"""By the name that ``--mode`` takes. Each mode of ``webapp.feedback.modes`` has one; some have a second."""


def judge(page: Any, way: Way, items: int) -> None:
    """Judge so many items, each as soon as the page takes a key."""
    for number in range(items):
        page.wait_for_selector(READY)
        token = page.input_value("[name=token]")
        for key in way.keys(number):
            page.keyboard.press(key)
        page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)
    page.wait_for_function("count => seen.waits.length >= count", arg=items)


def open_page(browser: Any, url: str, slug: str, session: str) -> Any:
    """The rater page in a window of its own, watched."""
    context = browser.new_context(viewport=DESKTOP)
    context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    context.add_init_script(WATCH)
    page = context.new_page()
    page.goto(f"{url}/p/{slug}/rate/")
    return page


def measure(browser: Any, url: str, name: str, items: int) -> dict[str, Any]:
    """Judge ``items`` items in the way of this name."""
    way = WAYS[name]
    project = make_project(f"rating-{name}", items=items + LEFT_OVER, overlap=1, kinds=[way.kind], **dict(way.settings))
    (session,) = make_sessions(project, 1)
    page = open_page(browser, url, project.slug, session)
    page.wait_for_selector(READY)
    without_key = page.evaluate(WITHOUT_KEY)
    begun = time.monotonic()
    judge(page, way, items)
    seconds = time.monotonic() - begun
    seen = page.evaluate("seen")
    page.context.close()
    return sum_up(seen, without_key=without_key, seconds=seconds)


def sum_up(seen: Mapping[str, Any], *, without_key: Sequence[str], seconds: float) -> dict[str, Any]:
    """The figures of what a page has seen (``rating_watch.WATCH``) of two items or more."""
    waits = sorted(seen["waits"])
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    return {
        "items": len(waits),
        "seconds": round(seconds, 1),
        "key_to_next": {"p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "max_ms": round(waits[-1], 1)},
        "keys_median": statistics.median(seen["keys"]),
        "pointer_events": seen["pointer"],
        "moved_pixels": seen["moved"],
        "layout_shift": round(seen["shift"], 5),
        "shifted": sorted(set(seen["shifted"])),
        "controls_without_key": list(without_key),
    }


def worst_of(modes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of the modes by each measure."""
    found = list(modes.values())
    return {
        "p95_ms": max(one["key_to_next"]["p95_ms"] for one in found),
        "pointer_events": max(one["pointer_events"] for one in found),
        "moved_pixels": max(one["moved_pixels"] for one in found),
        "layout_shift": max(one["layout_shift"] for one in found),
        "controls_without_key": max(len(one["controls_without_key"]) for one in found),
    }


def measure_all(url: str, names: Sequence[str], items: int, *, with_training: bool) -> dict[str, Any]:
    """One way after the other; with a training run beside all of them, if that is asked for."""
    with chromium() as browser, training() if with_training else nullcontext(Training()) as beside:
        modes = {name: measure(browser, url, name, items) for name in names}
    return {"modes": modes, "worst": worst_of(modes), **({"training": beside.seen} if with_training else {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mode", nargs="+", default=["pair"], choices=[*WAYS, "all"], help="one or several, after each other (pair)"
    )
    parser.add_argument("--items", type=int, default=200, help="of each mode")
    parser.add_argument("--training", action="store_true", help="while a reward model is trained on all cores")
    given = parser.parse_args()
    if given.items < 2:
        parser.error(f"--items {given.items}: must be 2 or more, since percentiles are taken")
    names = list(WAYS) if "all" in given.mode else list(dict.fromkeys(given.mode))
    with studio() as url:
        print(json.dumps(measure_all(url, names, given.items, with_training=given.training), indent=1))


if __name__ == "__main__":
    main()
