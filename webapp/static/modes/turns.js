// Conversations by keys: [ and ] lead from turn to turn, opening what is folded. Where each turn of the assistant is judged,
// a digit judges the current one and goes on to the next that has no verdict; Enter sends when all have one, U takes the
// last verdict back. Without this file a fold is opened by a click, and the verdicts are radio buttons below the turns.
"use strict";

{
  const item = () => document.getElementById("item");
  const judged = () => [...item().querySelectorAll("[data-turn]")];
  const stops = () => (judged().length ? judged() : [...item().querySelectorAll(".turn")]);
  const saidOf = (turn) => turn.querySelector("input:checked");
  const now = () => document.getElementById("turn-now");
  const left = () => judged().filter((turn) => !saidOf(turn));
  const given = new WeakMap(); // item -> turns in the order in which they were judged

  const current = () => stops().findIndex((turn) => turn.ariaCurrent === "true");

  function go(index, { isSeen = true } = {}) {
    const all = stops();
    all.forEach((turn, at) => (turn.ariaCurrent = at === index ? "true" : null));
    const turn = all[index];
    const fold = turn.closest("details");
    if (fold) fold.open = true;
    if (isSeen) {
      if (judged().length) turn.previousElementSibling?.scrollIntoView({ block: "nearest" }); // what it answers
      turn.scrollIntoView({ block: "nearest" });
      const list = turn.closest(".earlier > ol"); // a box of its own, where it is bounded
      const seen = list && list.scrollHeight > list.clientHeight + 1 ? list : turn;
      const bar = document.querySelector(".verdict"); // which lies over the page, in one row or two
      seen.style.scrollMarginBlockEnd = `${(bar?.offsetHeight ?? 0) + 16}px`;
      seen.scrollIntoView({ block: "nearest" });
    }
    render();
  }

  function render() {
    const all = judged();
    if (!all.length) return;
    for (const turn of all) {
      turn.querySelector("[data-said-of]").textContent = saidOf(turn)?.dataset.word ?? "";
    }
    const key = saidOf(all[current()])?.value;
    for (const button of item().querySelectorAll("[data-turn-key]")) button.ariaPressed = String(button.dataset.key === key);
    if (!now()) return; // it stands as it is
    document.getElementById("save").ariaDisabled = String(left().length > 0);
    now().textContent = left().length ? word("turn_now", { now: current() + 1, all: all.length }) : word("turns_done");
  }

  function begin() {
    const all = judged();
    if (!all.length || current() >= 0) return;
    const form = document.getElementById("verdict");
    if (form) form.noValidate = true; // what is missing is told here
    const first = all.findIndex((turn) => !saidOf(turn));
    go(Math.max(0, first), { isSeen: first > 0 });
  }

  function set(turn, key) {
    const radio = turn.querySelector(key ? `[value="${key}"]` : ":checked");
    radio.checked = Boolean(key);
    radio.dispatchEvent(new Event("change", { bubbles: true }));
  }

  function judge(key) {
    const all = judged();
    const at = current();
    set(all[at], key);
    given.set(item(), [...(given.get(item()) ?? []).filter((turn) => turn !== all[at]), all[at]]);
    const next = [...all.slice(at + 1), ...all.slice(0, at)].find((turn) => !saidOf(turn)) ?? all[at + 1];
    go(next ? all.indexOf(next) : at);
    const said = word("turn_said", { now: at + 1, word: saidOf(all[at]).dataset.word });
    now().textContent = `${said} ${now().textContent}`;
  }

  function takeBack() {
    const turn = given.get(item()).pop();
    set(turn, "");
    go(judged().indexOf(turn));
  }

  function move(step) {
    const all = stops();
    if (!all.length) return;
    const at = current() < 0 ? all.length - 1 : current();
    go(Math.min(all.length - 1, Math.max(0, at + step)));
    all[current()].focus({ preventScroll: true }); // a screen reader goes on from there
  }

  document.addEventListener("item-shown", begin);

  document.addEventListener("click", (event) => {
    if (item().getAttribute("aria-busy") === "true") return;
    const key = event.target.closest("[data-turn-key]");
    const step = event.target.closest("[data-turn-step]");
    const turn = event.target.closest("[data-turn]");
    if (key) judge(key.dataset.turnKey);
    else if (step) move(Number(step.dataset.turnStep));
    else if (turn && getSelection().isCollapsed) go(judged().indexOf(turn));
  });

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.repeat || event.isComposing || event.altKey || event.metaKey) return;
    if (!judged().length || document.querySelector("dialog[open], details[open]:not(.earlier, .why)")) return;
    if (isTyping(event.target)) return;
    const key = event.key.toLowerCase();
    const isUndo = (key === "u" && !event.ctrlKey && !event.shiftKey) || (key === "z" && event.ctrlKey && !event.shiftKey);
    if (isUndo && !("judged" in item().dataset) && given.get(item())?.length) takeBack();
    else if (key === "enter" && !event.ctrlKey && now() && isForSaving(event.target)) document.getElementById("save").click();
    else return;
    event.preventDefault();
  });

  // Enter on another button or link presses that; on a verdict's button it saves once each turn has one.
  function isForSaving(target) {
    const button = target.closest("a, button, summary");
    return !button || button.id === "save" || (button.matches("[data-turn-key]") && !left().length);
  }

  document.addEventListener(
    "submit",
    (event) => {
      if (event.target.id !== "verdict" || !judged().length || !left().length) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      go(judged().indexOf(left()[0]));
      now().textContent = word("turns_left", { numbers: left().map((turn) => turn.dataset.turn).join(", ") });
    },
    true,
  );
}
