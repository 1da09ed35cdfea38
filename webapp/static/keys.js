// The rater's own keys: one of them is heard as the key of the page that it stands for, and shown wherever that one is.
"use strict";

const ownKeys = JSON.parse(document.getElementById("own-keys").textContent); // by the page's key
const keyName = (key) => (ownKeys[key] ?? key).toUpperCase();

// Where the focus is, does a key write or choose something? A box to tick or a button leaves it to the page.
const PRESSED = ["hidden", "checkbox", "radio", "button", "submit", "reset"].map((type) => `[type=${type}]`).join(", ");
const isTyping = (target) => Boolean(target.closest?.(`input:not(${PRESSED}), textarea, select, [contenteditable]`));

if (Object.keys(ownKeys).length) {
  const meantBy = new Map(Object.entries(ownKeys).map(([key, own]) => [own, key]));

  // Before all others; what they hear is not trusted, and so is not taken for a rater's key again.
  window.addEventListener(
    "keydown",
    (event) => {
      if (!event.isTrusted || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
      if (isTyping(event.target)) return;
      const typed = event.key.toLowerCase();
      const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1]; // keyboards whose digits need Shift
      const meant = meantBy.get(typed);
      const isFree = typed in ownKeys || (digit in ownKeys && !/^[a-z0-9?]$/.test(typed)); // does nothing any more
      if (meant === undefined && !isFree) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      if (meant === undefined) return;
      const shiftKey = event.shiftKey && /\p{L}/u.test(typed); // of a sign, Shift is a part
      const key = shiftKey ? meant.toUpperCase() : meant;
      const { repeat } = event;
      event.target.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, repeat, bubbles: true, cancelable: true }));
    },
    true,
  );

  const show = (root) => {
    for (const shown of root.querySelectorAll("kbd:not([data-of])")) {
      const [, shift, key] = /^(⇧?)(.+)$/.exec(shown.textContent.trim()) ?? ["", "", ""];
      if (!(key.toLowerCase() in ownKeys)) continue;
      shown.dataset.of = key;
      shown.textContent = shift + keyName(key.toLowerCase());
    }
    for (const named of root.querySelectorAll("[data-names-key]:not([data-named])")) {
      const key = named.dataset.namesKey;
      if (!(key in ownKeys)) continue;
      named.dataset.named = "";
      const spelled = [...named.ariaLabel.matchAll(/[\p{L}\p{N}]+|\S/gu)].findLast(([one]) => one === key.toUpperCase());
      if (!spelled) continue;
      const { index } = spelled; // the last one: a number may stand before it, as in "Answer 1, key 1"
      named.ariaLabel = named.ariaLabel.slice(0, index) + keyName(key) + named.ariaLabel.slice(index + key.length);
    }
  };
  show(document);
  document.addEventListener("texts-prepared", () => show(document.getElementById("item")));
  const followed = document.getElementById("open-guideline"); // its content changes, see guideline.js
  if (followed) new MutationObserver(() => show(followed)).observe(followed, { childList: true });
}
