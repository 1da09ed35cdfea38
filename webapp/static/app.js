// Small help for every page; each page works without it.
"use strict";

// On a narrow screen the pages of a project scroll sideways: the one that is open must be in view.
const here = document.querySelector(".strip nav [aria-current]");
if (here) {
  const strip = here.parentElement;
  const [outer, inner] = [strip.getBoundingClientRect(), here.getBoundingClientRect()];
  const isRightToLeft = document.dir === "rtl";
  const before = isRightToLeft ? outer.right - inner.right : inner.left - outer.left;
  strip.scrollLeft += (isRightToLeft ? -1 : 1) * (before - inner.width);
}

// A menu closes when one looks elsewhere.
document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details:is(.menu, .because, .pop, .why)[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return; // a dialog lies over them, and closes first
  for (const open of document.querySelectorAll("details:is(.menu, .because, .why)[open]")) {
    event.preventDefault(); // heard: it is not for the page behind
    open.open = false;
    open.querySelector("summary").focus();
  }
});

// <button data-copy="id of an input">: copies it and says so.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const field = document.getElementById(button.dataset.copy);
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    button.textContent = button.dataset.done;
  } catch {
    button.textContent = button.dataset.failed; // the text is selected; the browser would not let us copy it
  }
});

// Logging out takes along what the rater page kept in this browser; not without a word where it was never sent.
document.addEventListener("submit", (event) => {
  const name = event.target.dataset.logout;
  if (name === undefined) return;
  let kept = [];
  let drafts = [];
  try {
    drafts = Object.keys(localStorage).filter((key) => key.startsWith(`steersman-draft:${name}/`));
    kept = Object.keys(localStorage).filter((key) => key.startsWith(`steersman-unsent:${name}/`));
  } catch {
    return; // this browser keeps nothing for us
  }
  const isWritten = drafts.some((key) => /"(?:reason|text|words) 1":"[^"]/.test(localStorage.getItem(key)));
  const asks = kept.length ? event.target.dataset.question : isWritten ? event.target.dataset.drafts : "";
  if (asks && !window.confirm(asks)) {
    event.preventDefault();
    event.stopImmediatePropagation();
    return;
  }
  for (const key of [...kept, ...drafts]) localStorage.removeItem(key);
});

// A form is sent once per click; one with data-confirm asks first.
document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = event.submitter?.dataset.confirm || form.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
    return;
  }
  if (form.method === "post" && !form.hasAttribute("hx-post")) {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  }
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
