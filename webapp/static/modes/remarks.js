// Flags and a reason by keys: X opens the flags, in which a number sets or clears one; R opens the reason, which Escape
// leaves; Enter sends the words of a report. Without this file they are opened by a click, as any <details>.
"use strict";

{
  const flags = () => document.getElementById("flags");
  const reason = () => document.getElementById("reason");

  function close(box) {
    box.open = false;
    document.activeElement?.blur(); // back to the keys of the page
  }

  function openReason() {
    if (flags()) flags().open = false;
    reason().open = true;
    const text = document.getElementById("reason-text");
    text.focus({ preventScroll: true });
    text.setSelectionRange(text.value.length, text.value.length);
  }

  function digitOf(event) {
    return /^[1-9]$/.test(event.key) ? event.key : (/^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1] ?? "");
  }

  // Before anything else on the page hears the key.
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.isComposing || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
      if (taken(event)) {
        event.preventDefault();
        event.stopImmediatePropagation();
      }
    },
    true,
  );

  function taken(event) {
    const key = event.key.toLowerCase();
    const box = event.target.closest("details.pop");
    if (event.target.closest("textarea")) {
      if (event.target.id === "report-words" && key === "enter" && !event.shiftKey) {
        document.getElementById("report-plain").click();
        return true;
      }
      if (!box || key !== "escape") return false;
      close(box);
      return true;
    }
    if (event.ctrlKey || event.repeat || isTyping(event.target)) return false;
    if (flags()?.open) {
      const box = flags().querySelector(`[data-flag="${digitOf(event)}"]`);
      if (box) box.click();
      else if (["x", "escape", "enter"].includes(key)) close(flags());
      else return /^[0-9=]$/.test(key); // a number means a flag here, and no verdict
      return true;
    }
    if (key === "escape" && reason()?.open) close(reason());
    else if (key === "x" && flags()) flags().open = true;
    else if (key === "r" && reason()) openReason();
    else return false;
    return true;
  }

  // A box that was clicked gives the keys back.
  document.addEventListener("click", (event) => {
    if (event.detail > 0 && event.target.matches("[data-flag]")) event.target.blur();
    if (event.target.closest("#reason > summary") && !reason().open) {
      event.preventDefault();
      openReason();
    }
  });

  document.addEventListener("item-judged", () => {
    for (const box of document.querySelectorAll("details.pop[open]")) box.open = false;
  });
}
