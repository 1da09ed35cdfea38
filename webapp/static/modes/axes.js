// Named axes by keys: a digit scores the current scale, overall first, and goes on to the next one that has no score; the
// digit that fills the last one saves. Enter saves before that, arrows go to another scale, U takes the last one back.
// Without this file they are radio buttons with a button to save.
"use strict";

{
  const item = () => document.getElementById("item");
  const scales = () => [...document.querySelectorAll("#verdict [data-axis]")];
  const isFilled = (scale) => scale.querySelector(":checked") !== null;
  const given = new WeakMap(); // item -> scales in the order in which they were scored

  function current() {
    return scales().findIndex((scale) => scale.classList.contains("current"));
  }

  function go(index) {
    scales().forEach((scale, at) => scale.classList.toggle("current", at === index));
  }

  function begin() {
    if (!scales().length || current() >= 0) return;
    go(Math.max(0, scales().findIndex((scale) => !isFilled(scale))));
  }

  function scored(scale) {
    const order = given.get(item()) ?? [];
    given.set(item(), [...order.filter((one) => one !== scale), scale]);
    const all = scales();
    const at = all.indexOf(scale);
    const next = [...all.slice(at + 1), ...all.slice(0, at)].find((one) => !isFilled(one));
    if (next) go(all.indexOf(next));
    else if ("judged" in item().dataset) go((at + 1) % all.length);
    else document.getElementById("save").click();
  }

  function takeBack() {
    const order = given.get(item()) ?? [];
    const scale = order.pop();
    scale.querySelector(":checked").checked = false;
    scale.querySelector("input").dispatchEvent(new Event("change", { bubbles: true }));
    go(scales().indexOf(scale));
  }

  document.addEventListener("item-shown", begin);

  document.addEventListener("click", (event) => {
    const radio = event.target.closest("#verdict [data-axis] input");
    if (!radio || (event.detail === 0 && radio === document.activeElement)) return; // moved to by arrow keys within it
    scored(radio.closest("[data-axis]"));
    radio.blur();
  });

  document.addEventListener("focusin", (event) => {
    const scale = event.target.closest("#verdict [data-axis]");
    if (scale) go(scales().indexOf(scale));
  });

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.repeat || event.isComposing || event.altKey || event.metaKey) return;
    if (!scales().length || document.querySelector("dialog[open], details[open]:not(.earlier, .why)")) return;
    if (isTyping(event.target)) return;
    if (item().getAttribute("aria-busy") === "true") return;
    const key = event.key.toLowerCase();
    const digit = /^[1-5]$/.test(event.key) ? event.key : (/^(?:Digit|Numpad)([1-5])$/.exec(event.code)?.[1] ?? "");
    const forward = document.dir === "rtl" ? -1 : 1; // the scales stand in the page's direction
    const step = { arrowleft: -forward, arrowright: forward }[key];
    const isUndo = (key === "u" && !event.ctrlKey && !event.shiftKey) || (key === "z" && event.ctrlKey && !event.shiftKey);
    if (isUndo && !("judged" in item().dataset) && given.get(item())?.length) takeBack();
    else if (event.ctrlKey) return;
    else if (digit) {
      const scale = scales()[current()]; // where the focus is, if it is in one
      const radio = scale.querySelector(`[value="${digit}"]`);
      radio.checked = true;
      radio.dispatchEvent(new Event("change", { bubbles: true }));
      document.activeElement.blur(); // else the next digit would be heard for this one again
      scored(scale);
    } else if (step && event.target.type !== "radio") go((current() + step + scales().length) % scales().length);
    else if (key === "enter" && !event.target.closest("a, summary, .side button:not(#save)")) {
      document.getElementById("save").click();
    } else return;
    event.preventDefault();
  });

  document.addEventListener(
    "submit",
    (event) => {
      if (event.target.id !== "verdict" || !scales().length || isFilled(scales()[0])) return;
      event.preventDefault(); // an overall score is the least
      event.stopImmediatePropagation();
      go(0);
    },
    true,
  );
}
