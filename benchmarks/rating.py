"""From a key to the next pair on the screen, in Chromium: ``python -m benchmarks.rating [--items 200]``; JSON out.

One rater judges pairs by keyboard on the rater page of a whole studio. Goals: p95 <= 100 ms from the key press to the
next pair painted, no pointer event, and what frames the texts stands still. A project of its own; the demo's stays as
it is.
"""

import argparse
import json
import statistics
from typing import Any

from benchmarks.browser import chromium
from benchmarks.feedback import make_project, make_sessions
from benchmarks.studio import studio

READY = "#item[aria-busy=false] #verdict"
WATCH = """
window.seen = {pointer: 0, moved: 0, violations: [], waits: [], pressed: 0};
for (const name of ["pointerdown", "mousedown", "touchstart"])
  addEventListener(name, () => seen.pointer++, true);
addEventListener("securitypolicyviolation", (event) => seen.violations.push(event.violatedDirective));
const places = new Map();
function look() {
  const kind = document.querySelector("#item")?.dataset.kind;
  for (const part of kind ? [".strip", "#shown-prompt", ".verdict"] : []) {
    const top = document.querySelector(part)?.getBoundingClientRect().top ?? Infinity;
    const name = `${kind} ${part}`;
    if (!places.has(name)) places.set(name, top);
    if (top !== places.get(name)) seen.moved = Math.max(seen.moved, Math.abs(top - places.get(name)));
  }
}
addEventListener("keydown", (event) => {
  if (!/[0-9]/.test(event.key)) return;
  look();
  seen.pressed = event.timeStamp;
}, true);
new MutationObserver((changes) => {
  if (!seen.pressed || !changes.some((change) => [...change.addedNodes].some((node) => node.id === "item"))) return;
  const {pressed} = seen;
  seen.pressed = 0;
  requestAnimationFrame(() => setTimeout(() => { // after the paint
    seen.waits.push(performance.now() - pressed);
    look();
  }));
}).observe(document, {childList: true, subtree: true});
"""
"""Run in the page before its own scripts.

``seen.waits``: ms from a digit's key press to the next item painted. ``seen.moved``: the most that strip, prompt or
verdict bar stood away from where it first stood with an item of the kind, in CSS pixels, looked at before each digit
and after each paint. The browser's own measure of layout shift leaves out what happens within 500 ms of a key
(``hadRecentInput``), and so everything in such a run.
"""


def measure(url: str, items: int) -> dict[str, Any]:
    """Judge ``items`` pairs as soon as the page takes a key."""
    project = make_project("rating", pairs=items, overlap=1)
    (session,) = make_sessions(project, 1)
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
        context.add_init_script(WATCH)
        page = context.new_page()
        page.goto(f"{url}/p/{project.slug}/rate/")
        for number in range(items):
            page.wait_for_selector(READY)
            token = page.input_value("[name=token]")
            page.keyboard.press(str(number % 7 + 1))
            page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)
        page.wait_for_selector("#empty")
        seen = page.evaluate("seen")
    waits = sorted(seen["waits"])
    cuts = statistics.quantiles(waits, n=100)
    return {
        "items": len(waits),
        "key_to_next": {"p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "max_ms": round(waits[-1], 1)},
        "goal_p95_ms": 100,
        "pointer_events": seen["pointer"],
        "moved_pixels": seen["moved"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200)
    arguments = parser.parse_args()
    with studio() as url:
        print(json.dumps(measure(url, arguments.items), indent=1))


if __name__ == "__main__":
    main()
