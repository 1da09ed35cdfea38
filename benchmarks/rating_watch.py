"""What a browser sees of a run by keyboard: scripts that are put into the rater page."""

WATCH = """
window.seen = {
  pointer: 0, moved: 0, shift: 0, shifted: [], violations: [], waits: [], keys: [], pressed: 0, pressedSoFar: 0,
};
const named = ({node}) => node?.id || node?.outerHTML?.slice(0, 80) || node?.textContent || "";
for (const name of ["pointerdown", "pointermove", "mousedown", "mousemove", "touchstart", "wheel"])
  addEventListener(name, () => seen.pointer++, true);
addEventListener("securitypolicyviolation", (event) => seen.violations.push(event.violatedDirective));
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    seen.shift += entry.value;
    seen.shifted.push(...entry.sources.map(named));
  }
}).observe({type: "layout-shift", buffered: true});
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
  if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
  if (/[0-9]/.test(event.key)) look();
  seen.pressed = event.timeStamp;
  seen.pressedSoFar += 1;
}, true);
new MutationObserver((changes) => {
  if (!seen.pressed || !changes.some((change) => [...change.addedNodes].some((node) => node.id === "item"))) return;
  const {pressed} = seen;
  seen.keys.push(seen.pressedSoFar);
  seen.pressed = seen.pressedSoFar = 0;
  requestAnimationFrame(() => requestAnimationFrame((now) => { // the first one has been painted
    seen.waits.push(performance.now() - pressed);
    look();
  }));
}).observe(document, {childList: true, subtree: true});
"""
"""Run in the page before its own scripts.

``seen.waits``: ms from the last key of an item to the next item painted, as the second frame after it tells.
``seen.keys``: how many keys each item took, modifiers not counted. ``seen.pointer``: events of a mouse or finger.
``seen.moved``: the most that strip, prompt or verdict bar stood away from where it first stood with an item of the
kind, in CSS pixels, looked at before each digit and after each paint. ``seen.shift``: the sum of all layout shifts that
the browser saw, those within 500 ms of a key (``hadRecentInput``) too, which its own measure, CLS, leaves out: in such
a run that is nearly all of the time. ``seen.shifted``: what moved then.
"""

WITHOUT_KEY = """
() => {
  const controls = "a[role=button], button, summary, textarea, select, input:not([type=hidden])";
  const places = ".strip .end > :not(.menu), #item";
  const found = [...document.querySelectorAll(places)].flatMap((place) =>
    place.matches(controls) ? [place] : [...place.querySelectorAll(controls)]);
  return found.filter((control) => {
    if (!control.checkVisibility({visibilityProperty: true}) || !control.getClientRects().length) return false;
    const labels = [control, control.closest("label"), ...(control.labels ?? [])].filter(Boolean);
    return !labels.some((label) => label.querySelector("kbd") || label.nextElementSibling?.matches("kbd"));
  }).map((control) => control.id || control.getAttribute("aria-label") || control.textContent.trim());
}
"""
"""Gives the names of the controls in sight that have no key printed on them, or on their label, or beside it.

The account menu is none of them: it leads away from the page.
"""
