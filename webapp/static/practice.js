// A first visit by keyboard: Enter agrees; of a practice pair a digit answers (of one that means nothing it is said which do),
// Enter goes on. Without it they are plain forms.
"use strict";

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const digit = /^[0-9]$/.test(event.key) ? event.key : (/^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1] ?? "");
  const isNext = event.key === "Enter" && !event.target.closest("a, button, summary");
  const button = isNext ? document.querySelector("#next, #agree") : document.querySelector(`[data-key="${digit}"]`);
  const hint = document.getElementById("hint");
  if (!button && digit && hint) hint.textContent = hint.dataset.hint.replace(/#(\d)/g, (_, key) => keyName(key));
  if (!button) return;
  event.preventDefault();
  button.click();
});
document.getElementById("next")?.focus();
