// Marking passages of an answer as evidence. A text that is selected, by pointer or otherwise, is marked by M or the button;
// where nothing is selected, M begins to choose: arrows go by sentences, with Shift they move the end by words, Enter
// marks (or clears what is marked already), Escape leaves, U takes the last mark back. A click on a mark clears it.
//
// Places are counted in characters of the answer as it is stored, as Python counts them: not in UTF-16 units, and with the
// white space at its beginning that the page leaves out (data-lead).
"use strict";

{
  const item = () => document.getElementById("item");
  const shown = () => document.getElementById("evidence-of");
  const field = () => document.getElementById("evidence");
  const isRule = () => item()?.dataset.kind === "rule" && shown() && field();
  const texts = new WeakMap(); // the element -> the text in it
  const unseen = new WeakMap(); // the element -> what of it cannot be seen: [start, end, label, title], in UTF-16 units

  let choosing = null; // {start, end}, in UTF-16 units of the text shown

  const text = () => texts.get(shown()) ?? "";
  const lead = () => Number(shown().dataset.lead);
  const toPlace = (unit) => [...text().slice(0, unit)].length + lead();
  const toUnit = (place) => [...text()].slice(0, place - lead()).join("").length;

  function marks() {
    const places = field().value.split(" ").filter(Boolean);
    return places.map((place) => place.split("-").map((one) => toUnit(Number(one))));
  }

  function merge(passages) {
    const merged = [];
    for (const [start, end] of passages.sort(([a], [b]) => a - b)) {
      if (merged.length && start <= merged.at(-1)[1]) merged.at(-1)[1] = Math.max(end, merged.at(-1)[1]);
      else merged.push([start, end]);
    }
    return merged;
  }

  function keep(passages) {
    field().value = merge(passages).map(([start, end]) => `${toPlace(start)}-${toPlace(end)}`).join(" ");
    field().dispatchEvent(new Event("change", { bubbles: true }));
    render();
  }

  function tell(words) {
    document.getElementById("marking").textContent = words;
  }

  // A part of the text; where it cannot be seen, with the sign for that, as everywhere: see webapp/typeset/marks.py.
  function signOf(part, sign) {
    if (!sign) return document.createTextNode(part);
    const [, , label, title] = sign;
    const [element, kept] = [document.createElement("span"), document.createElement("span")];
    Object.assign(element, { className: "mark", title });
    element.dataset.mark = label;
    kept.hidden = true;
    kept.textContent = part;
    element.append(kept);
    return element;
  }

  // The text again, cut where something begins or ends.
  function render() {
    const found = marks();
    const hidden = unseen.get(shown());
    const ends = hidden.flatMap(([start, end]) => [start, end]);
    const edges = [0, text().length, ...ends, ...found.flat(), ...(choosing ? [choosing.start, choosing.end] : [])];
    const cuts = [...new Set(edges)].sort((a, b) => a - b);
    const parts = [];
    let before = "";
    cuts.slice(1).forEach((end, index) => {
      const start = cuts[index];
      const part = text().slice(start, end);
      const passage = found.findIndex(([from, to]) => from <= start && end <= to);
      const isChosen = choosing !== null && choosing.start <= start && end <= choosing.end;
      const content = signOf(part, hidden.find(([from, to]) => from <= start && end <= to));
      const state = `${passage} ${isChosen}`;
      if (passage < 0 && !isChosen) parts.push(content);
      else if (state === before) parts.at(-1).append(content); // one element a passage, whatever signs are in it
      else {
        const element = document.createElement(passage < 0 ? "span" : "mark");
        element.classList.toggle("chosen-passage", isChosen);
        element.append(content);
        parts.push(element);
      }
      before = state;
    });
    shown().replaceChildren(...parts);
    document.getElementById("mark").setAttribute("aria-pressed", String(choosing !== null));
    shown().querySelector(".chosen-passage")?.scrollIntoView({ block: "nearest" });
  }

  function segments(granularity) {
    const found = [...new Intl.Segmenter(undefined, { granularity }).segment(text())];
    const words = granularity === "word" ? found.filter((one) => one.isWordLike) : found;
    return words.map(({ index, segment }) => ({ start: index, end: index + segment.trimEnd().length }));
  }

  const sentences = () => segments("sentence").filter(({ start, end }) => end > start);

  function choose(passage) {
    choosing = passage;
    render();
    if (passage) tell(word("passage", { words: shorten(text().slice(passage.start, passage.end)) }));
    else tell(marks().length ? word("marked", { count: marks().length }) : word("none_marked"));
  }

  const shorten = (words) => (words.length > 60 ? `${words.slice(0, 28)} … ${words.slice(-28)}` : words);

  function begin() {
    const [first] = sentences();
    if (first) choose(first);
  }

  function step(forward) {
    const all = sentences();
    const at = all.findLastIndex(({ start }) => start <= choosing.start);
    choose(all[Math.min(all.length - 1, Math.max(0, at + (forward ? 1 : -1)))]);
  }

  function resize(forward) {
    const ends = segments("word").map(({ end }) => end).filter((end) => end > choosing.start);
    const end = forward ? ends.find((one) => one > choosing.end) : ends.findLast((one) => one < choosing.end);
    if (end ?? forward) choose({ start: choosing.start, end: end ?? text().length });
  }

  // Marked as a whole already: cleared.
  function toggle({ start, end }) {
    const inside = marks().some(([from, to]) => from <= start && end <= to);
    const rest = marks().flatMap(([from, to]) => [[from, Math.min(to, start)], [Math.max(from, end), to]]);
    const found = inside ? rest.filter(([from, to]) => from < to) : merge([...marks(), [start, end]]);
    const { most } = document.getElementById("marking").dataset;
    if (found.length > Number(most)) {
      tell(word("marks_full", { most })); // the server would refuse them, and the verdict with them
      return;
    }
    keep(found);
    choose(null);
  }

  // What is selected of the answer, without white space at its ends.
  function selected() {
    const selection = getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    if (!shown().contains(range.commonAncestorContainer)) return null;
    const before = document.createRange();
    before.setStart(shown(), 0);
    before.setEnd(range.startContainer, range.startOffset);
    const words = range.toString();
    const start = before.toString().length + (words.length - words.trimStart().length);
    const end = start + words.trim().length;
    return end > start ? { start, end } : null;
  }

  function mark() {
    const passage = selected();
    if (passage) {
      getSelection().removeAllRanges();
      toggle(passage);
    } else if (choosing) toggle(choosing);
    else begin();
  }

  document.addEventListener("item-shown", () => {
    choosing = null;
    if (!isRule()) return;
    if (!texts.has(shown())) {
      texts.set(shown(), decodeURIComponent(shown().dataset.text));
      const units = [0];
      for (const character of text()) units.push(units.at(-1) + character.length);
      unseen.set(shown(), JSON.parse(shown().dataset.marks).map(([start, end, ...words]) => [units[start], units[end], ...words]));
    }
    if (text()) render();
  });

  document.addEventListener("mousedown", (event) => {
    if (isRule() && event.target.closest("#mark")) event.preventDefault(); // it would take the selection away
  });
  document.addEventListener("click", (event) => {
    if (!isRule()) return;
    const clicked = event.target.closest("#evidence-of mark");
    if (event.target.closest("#mark")) mark();
    else if (clicked && getSelection().isCollapsed) {
      const before = document.createRange();
      before.setStart(shown(), 0);
      before.setEndBefore(clicked);
      const start = before.toString().length;
      toggle({ start, end: start + clicked.textContent.length });
    }
  });

  document.addEventListener(
    "keydown",
    (event) => {
      if (event.defaultPrevented || event.isComposing || event.altKey || event.ctrlKey || event.metaKey || !isRule()) return;
      if (document.querySelector("dialog[open], details[open]:not(.earlier, .why)")) return;
      if (isTyping(event.target)) return;
      const key = event.key.toLowerCase();
      const isRightToLeft = getComputedStyle(shown()).direction === "rtl"; // the answer, whatever the page
      const sideways = { arrowleft: isRightToLeft, arrowup: false, arrowright: !isRightToLeft, arrowdown: true }[key];
      if (key === "m") mark();
      else if (!choosing) return;
      else if (sideways !== undefined) (event.shiftKey ? resize : step)(sideways);
      else if (key === "enter") toggle(choosing);
      else if (key === "escape") choose(null);
      else if (key === "u" && !event.shiftKey) keep(marks().slice(0, -1));
      else if (/^[0-9]$/.test(key)) tell(word("mark_first"));
      else return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    true,
  );
}
