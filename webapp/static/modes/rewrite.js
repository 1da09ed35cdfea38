// Rewriting by keys: E goes to the text, Ctrl+Enter saves it from anywhere, Escape leaves it. The text grows with what is
// written; the answer beside it stays in view. Who has written and then calls the answer good is asked first.
"use strict";

{
  const item = () => document.getElementById("item");
  const isRewrite = () => item()?.dataset.kind === "rewrite" && document.getElementById("verdict");
  const text = () => document.getElementById("rewrite-text");
  const tell = (words) => (document.getElementById("rewrite-hint").textContent = words);
  const asked = new WeakSet(); // items of which it was said that the text is not saved by this
  const isWritten = () => text().value.trim() && text().value.trim() !== text().defaultValue.trim();

  function write() {
    text().focus({ preventScroll: true });
    text().setSelectionRange(text().value.length, text().value.length);
    text().scrollIntoView({ block: "nearest" });
  }

  document.addEventListener("item-shown", () => {
    if (isRewrite() && isWritten()) tell(word("rewrite_back")); // a draft, see drafts.js
  });

  document.addEventListener("click", (event) => {
    if (isRewrite() && event.target.closest("#edit")) write();
  });

  document.addEventListener("input", (event) => {
    if (event.target === text()) tell(word("rewrite_saves"));
  });

  document.addEventListener(
    "submit",
    (event) => {
      if (event.target.id !== "verdict" || !isRewrite()) return;
      if (event.submitter?.id === "step-1" && isWritten() && !asked.has(item())) {
        event.preventDefault();
        event.stopImmediatePropagation();
        asked.add(item());
        tell(word("rewrite_asks", { key: keyName("1") }));
        return;
      }
      if (event.submitter?.id !== "save") return;
      const said = text().value.trim();
      const isSame = said === text().defaultValue.trim() && !("judged" in item().dataset);
      if (said && !isSame) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      tell(said ? word("rewrite_same", { key: keyName("1") }) : word("rewrite_empty"));
    },
    true,
  );

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || event.metaKey || !isRewrite()) return;
    if (document.querySelector("dialog[open]")) return;
    const key = event.key.toLowerCase();
    const isWriting = event.target === text();
    const isSaved = event.ctrlKey && key === "enter";
    if (isTyping(event.target) && !isWriting && !(isSaved && event.target.form?.id === "verdict")) return;
    if (isSaved) {
      document.activeElement.blur(); // else the next text would have the focus, and take the keys
      document.getElementById("save").click();
    } else if (isWriting && key === "escape") text().blur();
    else if (!isWriting && !event.ctrlKey && key === "e") write();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Escape keeps a judged item, but not from within the text
  });
}
