// Two answers side by side: they scroll together, each by the same share of its own length, and on demand the sentences
// that only one of them has are marked. Without it each scrolls by itself.
"use strict";

{
  const answers = () => [...document.querySelectorAll("#item[data-kind=pair] .answer")];
  const isLinked = () => !texts.toggles.has("unlinked");
  const placed = new WeakMap(); // answer -> where it was put, so that its own scroll event is known
  const sentences = new Intl.Segmenter(undefined, { granularity: "sentence" });
  const canMark = "highlights" in CSS;

  const reach = (answer) => answer.scrollHeight - answer.clientHeight;

  function put(answer, top) {
    answer.scrollTop = top;
    placed.set(answer, answer.scrollTop);
  }

  document.addEventListener(
    "scroll",
    ({ target }) => {
      if (!(target instanceof Element) || !target.matches("#item[data-kind=pair] .answer") || !isLinked()) return;
      if (Math.abs((placed.get(target) ?? -9) - target.scrollTop) < 2) return;
      placed.set(target, target.scrollTop);
      const share = reach(target) > 0 ? target.scrollTop / reach(target) : 0;
      for (const other of answers()) if (other !== target) put(other, share * reach(other));
    },
    true,
  );

  function scrollOn(direction) {
    const focused = document.activeElement?.closest("#item[data-kind=pair] .answer");
    const moved = isLinked() || !focused ? answers() : [focused];
    const longest = moved.filter((answer) => reach(answer) > 0).sort((a, b) => reach(b) - reach(a))[0];
    const step = direction * 0.4 * (longest?.clientHeight ?? innerHeight);
    if (!longest) window.scrollBy(0, step);
    else if (isLinked()) longest.scrollTop += step; // the other follows
    else for (const answer of moved) answer.scrollTop += step;
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const direction = { j: 1, k: -1 }[event.key.toLowerCase()];
    if (!direction) return;
    event.preventDefault();
    scrollOn(direction);
  });

  // --- What one has and the other has not ---

  const BLOCKS = "p, li, h3, h4, h5, h6, td, th, pre, blockquote, .shown";

  // The text nodes that a reader sees as one run of words, in the view that is open.
  function runsOf(answer) {
    const view = [...answer.querySelectorAll(".formatted, .shown")].find((one) => one.checkVisibility());
    const runs = [];
    let block = null;
    const walker = document.createTreeWalker(view ?? answer, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (node.parentElement.closest("button")) continue;
      const of = node.parentElement.closest(BLOCKS);
      if (of !== block) runs.push([]);
      block = of;
      runs.at(-1).push(node);
    }
    return runs;
  }

  // [{words, range}] of each sentence; a line that ends ends a sentence too.
  function sentencesOf(nodes) {
    const found = [];
    const whole = nodes.map((node) => node.data).join("");
    const at = (offset) => {
      let before = 0;
      for (const node of nodes) {
        if (offset <= before + node.length) return [node, offset - before];
        before += node.length;
      }
      return [nodes.at(-1), nodes.at(-1).length];
    };
    for (const { segment, index } of sentences.segment(whole)) {
      for (const line of segment.matchAll(/[^\n]+/g)) {
        const words = line[0].trim().replace(/\s+/g, " ");
        if (!words) continue;
        const start = index + line.index + line[0].search(/\S/);
        const [from, to] = [at(start), at(start + line[0].trim().length)];
        const range = { startContainer: from[0], startOffset: from[1], endContainer: to[0], endOffset: to[1] };
        found.push({ words, range: new StaticRange(range) });
      }
    }
    return found;
  }

  function markDifferences({ isAsked } = {}) {
    if (!canMark) return;
    CSS.highlights.delete("differs");
    const [a, b] = answers().map((answer) => runsOf(answer).flatMap(sentencesOf));
    if (!texts.toggles.has("differences") || !b) return;
    const only = (some, others) => {
      const known = new Set(others.map((one) => one.words));
      return some.filter((one) => !known.has(one.words));
    };
    const [onlyA, onlyB] = [only(a, b), only(b, a)];
    CSS.highlights.set("differs", new Highlight(...[...onlyA, ...onlyB].map((one) => one.range)));
    if (!isAsked) return; // else it would talk over the next item
    const said = document.getElementById("differences")?.dataset.said ?? "";
    document.getElementById("announce").textContent = said.replace("#a", onlyA.length).replace("#b", onlyB.length);
  }

  document.addEventListener("text-toggle", ({ detail }) => {
    if (detail.name === "differences") markDifferences({ isAsked: true });
    if (detail.name === "as-written" && texts.toggles.has("differences")) markDifferences();
  });
  document.addEventListener("texts-prepared", () => {
    if (texts.toggles.has("differences")) markDifferences();
  });
  document.body.classList.toggle("cannot-mark", !canMark);
}
