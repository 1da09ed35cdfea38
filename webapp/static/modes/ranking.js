// Ranking by keys or taps: answers are pressed in order of preference. Without this file a list of places stands beside
// each answer; with it, those lists stay out of sight and are filled in, so that what is sent is the same.
//
// "=" says that the next one shares the place of the last one; an answer pressed again loses its place; U takes back the
// last step; where one answer is left, it is the last, and who presses it all the same has it stay there.
"use strict";

{
  const steps = new WeakMap(); // item -> numbers in the order in which they were pressed

  const filledIn = new WeakMap(); // item -> the number that came last without being pressed

  const item = () => document.getElementById("item");
  const isRanking = () => item()?.dataset.kind === "ranking" && document.getElementById("verdict");
  const lists = () => [...item().querySelectorAll("select[name=place]")];
  const places = () => lists().map((list) => Number(list.value));
  const isComplete = () => places().every((place) => place > 0);
  const tie = () => document.getElementById("same-place");

  function pressedSoFar() {
    const known = steps.get(item());
    if (known) return known;
    const order = places().map((place, index) => [place, index + 1]).filter(([place]) => place);
    const found = order.sort(([a], [b]) => a - b).map(([, number]) => number);
    steps.set(item(), found);
    return found;
  }

  // Close gaps, write the places into the lists, and show them.
  function set(found) {
    const used = [...new Set(found.filter((place) => place > 0))].sort((a, b) => a - b);
    lists().forEach((list, index) => (list.value = found[index] ? String(used.indexOf(found[index]) + 1) : ""));
    lists()[0].dispatchEvent(new Event("change", { bubbles: true }));
    render();
  }

  function render() {
    const found = places();
    found.forEach((place, index) => {
      const number = index + 1;
      const button = item().querySelector(`[data-rank="${number}"]`);
      const ordinal = place ? word(`place_${place}`) : "";
      button.querySelector("span").textContent = ordinal || "–";
      button.setAttribute("aria-pressed", String(place > 0));
      const values = { number, place: ordinal, key: keyName(String(number)) };
      button.setAttribute("aria-label", word(place ? "ranked" : "unranked", values));
      const chip = item().querySelector(`[data-place-of="${number}"]`);
      chip.textContent = ordinal;
    });
    document.getElementById("save").setAttribute("aria-disabled", String(!isComplete()));
  }

  function tell(text) {
    document.getElementById("ranked").textContent = text;
  }

  function inWords() {
    const found = places();
    const groups = [];
    found.forEach((place, index) => place && (groups[place] ??= []).push(index + 1));
    return groups.filter(Boolean).map((group) => group.join(" = ")).join(" > ");
  }

  function tellOrder() {
    const order = inWords();
    if (isComplete()) tell(word("all_ranked", { order }));
    else tell(order ? word("rank_next", { order }) : word("rank_first"));
  }

  function rank(number) {
    const found = places();
    const order = pressedSoFar();
    const index = number - 1;
    const isMeant = filledIn.get(item()) === number; // the whole order is being typed
    filledIn.delete(item());
    if (isMeant) {
      tellOrder();
      return;
    }
    if (found[index]) {
      found[index] = 0;
      order.splice(order.indexOf(number), 1);
    } else {
      const shares = tie().getAttribute("aria-pressed") === "true" && order.length > 0;
      found[index] = shares ? found[order.at(-1) - 1] : Math.max(0, ...found) + 1;
      order.push(number);
      if (order.length === found.length - 1) {
        const last = found.indexOf(0);
        found[last] = Math.max(...found) + 1;
        order.push(last + 1);
        filledIn.set(item(), last + 1);
      }
    }
    tie().setAttribute("aria-pressed", "false");
    set(found);
    tellOrder();
  }

  // Of the next one, or where all have a place, of the last one.
  function sharePlace() {
    const order = pressedSoFar();
    if (order.length === 0) return;
    if (!isComplete()) {
      tie().setAttribute("aria-pressed", String(tie().getAttribute("aria-pressed") !== "true"));
      return;
    }
    filledIn.delete(item());
    const found = places();
    const [before, last] = [order.at(-2) - 1, order.at(-1) - 1];
    found[last] = found[last] === found[before] ? Math.max(...found) + 1 : found[before];
    set(found);
    tellOrder();
  }

  function takeBack() {
    const order = pressedSoFar();
    const found = places();
    const number = order.pop();
    filledIn.delete(item());
    found[number - 1] = 0;
    tie().setAttribute("aria-pressed", "false");
    set(found);
    tellOrder();
  }

  document.addEventListener("item-shown", () => {
    if (isRanking()) render();
  });

  document.addEventListener("click", (event) => {
    if (!isRanking()) return;
    const button = event.target.closest("[data-rank]");
    if (item().getAttribute("aria-busy") === "true") return;
    if (button) rank(Number(button.dataset.rank));
    else if (event.target.closest("#same-place")) sharePlace();
  });

  document.addEventListener(
    "submit",
    (event) => {
      if (event.target.id !== "verdict" || !isRanking() || event.submitter?.id !== "save" || isComplete()) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const left = places().flatMap((place, index) => (place ? [] : [index + 1]));
      tell(word("rank_left", { numbers: left.join(", ") }));
    },
    true,
  );

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.repeat || event.isComposing || event.altKey || event.metaKey) return;
    if (!isRanking() || document.querySelector("dialog[open], details[open]:not(.earlier, .why)")) return;
    if (isTyping(event.target)) return;
    const key = event.key.toLowerCase();
    const isUndo = (key === "u" && !event.ctrlKey && !event.shiftKey) || (key === "z" && event.ctrlKey && !event.shiftKey);
    const isJudged = "judged" in item().dataset;
    if (isUndo && !isJudged && pressedSoFar().length > 0) takeBack();
    else if (event.ctrlKey) return;
    else if (key === "=") sharePlace();
    else if (key === "enter" && isForSaving(event.target)) document.getElementById("save").click();
    else return;
    event.preventDefault();
  });

  // Enter on another button or link presses that; on an answer's button it saves once all have a place.
  function isForSaving(target) {
    const button = target.closest("a, button, summary");
    return !button || button.id === "save" || (button.matches("[data-rank]") && isComplete());
  }
}
