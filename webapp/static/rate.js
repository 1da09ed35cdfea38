// The rater page: one key, one verdict. Without this file the page is a plain form.
"use strict";

const LOOK_MS = 300; // a verdict sooner than this after the item appeared was meant for the one before it
const HEARTBEAT_MS = 60_000;
const IDLE_MS = 300_000; // a page left alone gives its item back
const RETRIES_MS = [1000, 2000, 4000, 8000, 15_000, 30_000, 30_000, 30_000, 30_000, 30_000];
const KEPT = "steersman-verdict";

const byId = (id) => document.getElementById(id);
let sending = null; // the button whose verdict is on its way
let kept = null; // the verdict of an earlier page of this tab, until it is answered
let tries = 0;
let retryTimer = 0;
let slowTimer = 0;
let shownAt = 0; // of this item, in performance.now()
let activeMs = 0; // seen so far, without the time since `countedFrom`
let countedFrom = 0;
let lastMove = performance.now();

// --- What the page says about itself ---------------------------------------------------------------------------------

function say(text, isTrouble = false) {
  const saved = byId("saved");
  saved.textContent = text;
  saved.classList.toggle("trouble", isTrouble);
}

function tell(text, { logIn = false, resend = false } = {}) {
  const box = byId("trouble");
  box.querySelector("p").textContent = text;
  box.querySelector("a").hidden = !logIn;
  box.querySelector("button").hidden = !resend;
  box.hidden = !text;
}

function markReady(item) {
  const early = LOOK_MS - (performance.now() - shownAt); // the clock of time-outs may run ahead by a fraction
  if (early > 0) setTimeout(markReady, Math.ceil(early), item);
  else item.setAttribute("aria-busy", "false");
}

function beginItem(isFirst) {
  const item = byId("item");
  shownAt = countedFrom = performance.now();
  activeMs = 0;
  item.setAttribute("aria-busy", "true");
  setTimeout(markReady, LOOK_MS, item);
  if (isFirst) return;
  const prompt = byId("shown-prompt");
  const kind = { pair: "Next pair. ", single: "Next answer. " }[item.dataset.kind] || "";
  byId("announce").textContent = `${byId("progress").textContent}. ${kind}${prompt ? prompt.textContent.slice(0, 300) : ""}`;
}

function secondsSeen() {
  return Math.round(activeMs + (document.hidden ? 0 : performance.now() - countedFrom));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) activeMs += performance.now() - countedFrom;
  else countedFrom = performance.now();
});

// --- Sending ---------------------------------------------------------------------------------------------------------

const isOurs = (form) => form.id === "verdict" || form.id === "skip";

// Before htmx: once per item, and not before it can have been seen.
document.addEventListener(
  "submit",
  (event) => {
    if (!isOurs(event.target)) return;
    if (sending || performance.now() - shownAt < LOOK_MS) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    sending = event.submitter;
    sending.classList.add("chosen");
    const field = event.target.elements.active_ms;
    if (field) field.value = secondsSeen();
    slowTimer = setTimeout(() => say("saving …"), 400);
  },
  true,
);

function again() {
  clearTimeout(retryTimer);
  if (kept) {
    postKept();
    return;
  }
  const button = sending;
  if (!button || !button.isConnected) return;
  sending = null;
  shownAt = -LOOK_MS;
  button.click();
}

function failed(text) {
  say("not saved", true);
  if (tries < RETRIES_MS.length) {
    tell(`${text} Your verdict is kept here and sent again by itself.`, { resend: true });
    retryTimer = setTimeout(again, RETRIES_MS[tries]);
    tries += 1;
  } else {
    tell(`${text} Your verdict is kept on this page.`, { resend: true });
  }
}

function keepVerdict() {
  const form = sending?.form;
  if (!form) return;
  const values = { reason: "", choice: "" };
  for (const name of ["token", "submission_id", "active_ms"]) values[name] = form.elements[name]?.value;
  values[sending.name] = sending.value;
  sessionStorage.setItem(KEPT, JSON.stringify({ url: form.getAttribute("hx-post"), page: location.pathname, values }));
}

function sendKept() {
  const found = JSON.parse(sessionStorage.getItem(KEPT) || "null");
  if (found?.page !== location.pathname) return;
  kept = found;
  sending = document.createElement("button"); // nothing else is sent meanwhile
  postKept();
}

function postKept() {
  say("saving …");
  htmx.ajax("POST", kept.url, { target: "#item", swap: "outerHTML", values: kept.values });
}

function forgetKept() {
  kept = null;
  sessionStorage.removeItem(KEPT);
}

document.addEventListener("htmx:beforeSwap", (event) => {
  // A re-check of the empty page must not pull an item away that came in the meantime.
  if (event.detail.target.id === "item" && event.detail.requestConfig.verb === "get" && byId("verdict")) {
    event.detail.shouldSwap = false;
  }
});

document.addEventListener("htmx:afterRequest", (event) => {
  const { xhr, target, requestConfig } = event.detail;
  if (target.id !== "item" || requestConfig.verb !== "post") return;
  clearTimeout(slowTimer);
  if (xhr.status === 200 || xhr.status === 409 || xhr.status === 422) {
    clearTimeout(retryTimer);
    forgetKept();
    sending = null;
    tries = 0;
    shownAt = performance.now(); // the second press of a double one must not fall on the next item
    tell("");
    say(xhr.status === 200 ? "saved" : "");
    return;
  }
  if (xhr.status === 401) {
    keepVerdict();
    say("not saved", true);
    tell("You are logged out. Log in again: your verdict is kept in this tab and sent right after.", { logIn: true });
  } else if (xhr.status === 403 && kept) {
    say("not saved", true);
    tell("The server refuses the verdict that this tab keeps. Log in again to send it.", { logIn: true });
  } else if (xhr.status === 403) {
    keepVerdict();
    location.reload(); // logged in anew in another tab: a fresh page knows the new key, and sends what was kept
  } else if (xhr.status === 404) {
    forgetKept();
    sending = null;
    say("not saved", true);
    tell("This item is not yours to rate any more. Reload the page for the next one.");
  } else if (xhr.status === 0) {
    failed("The server cannot be reached.");
  } else {
    failed(`The server could not save it (error ${xhr.status}).`);
  }
});

// In the same breath as the swap: an item is never on the page without its time to look.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id === "item") beginItem(false);
});

window.addEventListener("online", again);
byId("trouble").querySelector("button").addEventListener("click", again);

// --- Keys ------------------------------------------------------------------------------------------------------------

function digitOf(event) {
  if (/^[0-9]$/.test(event.key)) return event.key;
  if (event.key === "=") return "4";
  const code = /^(?:Digit|Numpad)([0-9])$/.exec(event.code); // keyboards whose digits need Shift
  return code && !event.shiftKey && !/[a-z?]/i.test(event.key) ? code[1] : null;
}

document.addEventListener("keydown", (event) => {
  lastMove = performance.now();
  if (event.defaultPrevented || event.repeat || event.isComposing) return;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest("input:not([type=hidden]), textarea, select, [contenteditable]")) return;
  const key = event.key.toLowerCase();
  const opened = document.querySelector("dialog[open]");
  if (key === "g" || key === "?") {
    event.preventDefault();
    const dialog = byId(key === "g" ? "guideline" : "keys");
    if (opened) opened.close();
    if (opened !== dialog) open(dialog);
    return;
  }
  if (opened) return;
  const because = document.querySelector(".because");
  if (!because) return;
  if (key === "s" && event.shiftKey) {
    event.preventDefault();
    because.open = !because.open;
    return;
  }
  const digit = digitOf(event);
  let button = null;
  if (key === "s") button = byId("skip-plain");
  else if (digit) button = document.querySelector(because.open ? `[data-reason="${digit}"]` : `[data-key="${digit}"]`);
  if (!button) return;
  event.preventDefault();
  button.click();
});

// --- Guideline and key map -------------------------------------------------------------------------------------------

function open(dialog) {
  dialog.showModal();
  const link = byId("open-guideline");
  if (dialog.id !== "guideline" || !link.dataset.read) return;
  post(link.dataset.read, { version: link.dataset.version });
  delete link.dataset.read;
  byId("guideline-new").remove();
}

byId("open-guideline").addEventListener("click", (event) => {
  event.preventDefault();
  open(byId("guideline"));
});
byId("open-guideline").addEventListener("keydown", (event) => {
  if (event.key === " ") event.currentTarget.click(); // it is a link that says it is a button
});
byId("open-keys").addEventListener("click", () => open(byId("keys")));
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
}

// --- Heartbeat: at most once a minute, while somebody is there -------------------------------------------------------

function post(url, values) {
  const token = JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];
  return fetch(url, {
    method: "POST",
    headers: { "X-CSRFToken": token, "X-Requested-With": "fetch" },
    body: new URLSearchParams(values),
  });
}

for (const name of ["pointermove", "pointerdown", "scroll", "wheel"]) {
  addEventListener(name, () => (lastMove = performance.now()), { passive: true });
}

setInterval(async () => {
  const form = byId("verdict");
  if (!form || document.hidden || performance.now() - lastMove > IDLE_MS) return;
  const token = form.elements.token.value;
  try {
    const answer = await post(byId("keys").dataset.heartbeat, { token });
    if (form.isConnected && answer.status === 410) say("time ran out; a late verdict is kept");
    if (answer.status === 401) tell("You are logged out. Log in again to go on.", { logIn: true });
  } catch {
    // no connection: the verdict itself will tell, and its lease lasts longer than some missed beats
  }
}, HEARTBEAT_MS);

// htmx would carry "chosen" over to the next item's button of the same id for an instant, and it would fade there.
htmx.config.attributesToSettle = [];
beginItem(true);
sendKept();
