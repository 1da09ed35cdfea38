// The rater page: one key, one verdict. Without this file the page is a plain form.
//
// The item after the one that is judged is fetched ahead and kept out of sight. A verdict goes into a list that the
// browser keeps, the next item is shown, and then the list is sent, in order, each verdict under its own submission id,
// until the server has said yes. So a dead network, a reload or a log-in that ran out lose nothing.
"use strict";

const LOOK_MS = 300; // a verdict sooner than this after the item appeared was meant for the one before it
const HINT_MS = 5000;
const TOLD_MS = 12_000;
const TIMEOUT_MS = 20_000;
const FRESH_MS = 3000;
const HEARTBEAT_MS = 60_000;
const OUTLIVES_PAGE = 32_768; // bytes: half of what browsers let all requests that outlive their page weigh together
const IDLE_MS = 300_000; // a page left alone gives its item back
const RETRIES_MS = [1000, 2000, 4000, 8000, 15_000, 30_000, 30_000, 30_000, 30_000, 30_000];

const MARKS = { 200: 'id="progress"', 404: 'id="not-found"', 409: 'id="progress"', 422: 'id="progress"' };
const FOREIGN = 1; // in place of a status: another than the studio answered, perhaps the log-in page of a network

const byId = (id) => document.getElementById(id);
const addresses = byId("keys").dataset; // rate, heartbeat, release, pause
const UNSENT = `steersman-unsent:${addresses.unsent}`;
const STEPS_BACK = "steersman-steps-back";

let ahead = null; // the next item, out of sight
let aside = null; // {item, activeMs}: what was being judged, while an earlier one is looked at again
let isWaiting = false; // the item on the page is judged, and there is none to show in its place yet
let isSending = false;
let isFetching = false;
let undoing = Promise.resolve(); // one step back after the other
let stepsBack = 0; // wanted while a verdict was on its way
let tries = 0;
let retryTimer = 0; // 0: it does not try again by itself
let hintTimer = 0;
let toldTimer = 0;
let shownAt = 0; // of this item, in performance.now()
let activeMs = 0; // seen so far, without the time since `countedFrom`
let countedFrom = 0;
let lastMove = performance.now();

// --- What the page says about itself ---------------------------------------------------------------------------------

function say(text, isTrouble = false) {
  clearTimeout(hintTimer);
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

function note(told) {
  const box = byId("told");
  clearTimeout(toldTimer);
  box.hidden = !told;
  if (!told) return;
  box.className = `notice ${told.className}`;
  box.textContent = told.textContent;
  toldTimer = setTimeout(note, TOLD_MS, null);
}

// --- The item on the page --------------------------------------------------------------------------------------------

const tokenOf = (item) => item?.querySelector("[name=token]")?.value ?? "";
const isPaused = () => "paused" in byId("item").dataset;
const isLookingBack = () => "judged" in byId("item").dataset;

function markReady(item) {
  const early = LOOK_MS - (performance.now() - shownAt); // the clock of time-outs may run ahead by a fraction
  if (early > 0) setTimeout(markReady, Math.ceil(early), item);
  else if (!isWaiting) item.setAttribute("aria-busy", "false");
}

function beginItem(seenMs = 0) {
  const item = byId("item");
  for (const button of item.querySelectorAll("#skip [form], #report [form]")) button.removeAttribute("form"); // drafts.js keeps the rest
  shownAt = countedFrom = performance.now();
  activeMs = seenMs;
  item.setAttribute("aria-busy", "true");
  setTimeout(markReady, LOOK_MS, item);
  document.dispatchEvent(new CustomEvent("item-shown")); // for what a rating mode adds to the page, see modes/
}

function announce() {
  const item = byId("item");
  const prompt = byId("shown-prompt");
  const kind = item.dataset.kind ? `${word(`next_${item.dataset.kind}`)} ` : "";
  const said = item.querySelector(".said")?.textContent || kind || `${byId("progress").textContent}. `;
  byId("announce").textContent = `${said} ${prompt ? prompt.textContent.slice(0, 300) : ""}`;
}

function show(item, seenMs = 0) {
  const focused = byId("item").contains(document.activeElement) ? document.activeElement.id : "";
  isWaiting = false;
  for (const button of item.querySelectorAll(".chosen")) button.classList.remove("chosen");
  byId("item").replaceWith(item);
  htmx.process(item);
  beginItem(seenMs); // in the same breath: an item is never on the page without its time to look
  if (focused) byId(focused)?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
  announce();
}

function millisecondsSeen() {
  return Math.round(activeMs + (document.hidden ? 0 : performance.now() - countedFrom));
}

// --- Verdicts that the server does not have yet ----------------------------------------------------------------------

let withoutStorage = null; // the list, where the browser keeps nothing for us

function unsent() {
  if (withoutStorage) return withoutStorage;
  try {
    return JSON.parse(localStorage.getItem(UNSENT) || "[]");
  } catch {
    return [];
  }
}

function keepUnsent(entries) {
  try {
    if (entries.length) localStorage.setItem(UNSENT, JSON.stringify(entries));
    else localStorage.removeItem(UNSENT);
    withoutStorage = null;
  } catch {
    withoutStorage = entries; // no storage, or a full one: they last as long as this page
  }
}

const judgedTokens = () => new Set(unsent().map((entry) => entry.values.token));

function yetToJudge() {
  const done = judgedTokens();
  const [showing, next] = [tokenOf(aside?.item ?? byId("item")), tokenOf(ahead)];
  return { showing: done.has(showing) ? "" : showing, ahead: done.has(next) ? "" : next };
}

function commit(form, button) {
  const values = {}; // by name; a list where a name stands several times
  for (const [name, value] of new FormData(form, button)) {
    if (name === "csrfmiddlewaretoken") continue;
    values[name] = name in values ? [values[name], value].flat() : value;
  }
  if (form.elements.active_ms) values.active_ms = millisecondsSeen();
  const entry = { id: values.submission_id || `skip ${values.token}`, url: form.getAttribute("action"), values };
  document.dispatchEvent(new CustomEvent("item-judged", { detail: { form, entry } })); // for modes/: its draft goes along
  keepUnsent([...unsent(), entry]);
  note(null);
  if (aside) showAside();
  else if (ahead) {
    const next = ahead;
    ahead = null;
    show(next);
  } else {
    isWaiting = true;
    button.classList.add("chosen");
    byId("item").setAttribute("aria-busy", "true");
    if (tries) tellOfTrouble();
  }
  send();
}

document.addEventListener(
  "submit",
  (event) => {
    const form = event.target;
    if (form.id === "pause-form") {
      event.preventDefault();
      event.stopImmediatePropagation();
      pause();
      return;
    }
    if (!["verdict", "skip", "report"].includes(form.id)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!isWaiting && performance.now() - shownAt >= LOOK_MS) commit(form, event.submitter);
  },
  true,
);

// --- Sending ---------------------------------------------------------------------------------------------------------

function encode(values) {
  const pairs = Object.entries(values).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  return new URLSearchParams(pairs);
}

function post(url, values, more = {}) {
  const token = JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRFToken"];
  const body = encode(values);
  const isShort = String(body).length <= OUTLIVES_PAGE; // what is longer, a browser would not send at all
  return fetch(url, {
    method: "POST",
    headers: { "X-CSRFToken": token, "X-Requested-With": "fetch", "HX-Request": "true" },
    body,
    ...more,
    keepalive: Boolean(more.keepalive) && isShort,
  });
}

async function send() {
  const [entry] = unsent();
  if (isSending || !entry) return;
  clearTimeout(retryTimer);
  retryTimer = 0;
  isSending = true;
  const slowTimer = setTimeout(say, 400, word("saving"));
  let status = 0; // no answer at all
  let text = "";
  try {
    const values = { ...entry.values, ...yetToJudge() };
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const answer = await post(entry.url, values, { signal, keepalive: true }); // who leaves at once is not cut short
    text = await answer.text();
    const isOurs = !answer.redirected && text.includes(MARKS[answer.status] ?? "");
    status = isOurs ? answer.status : FOREIGN;
  } catch {
    text = "";
  }
  clearTimeout(slowTimer);
  isSending = false;
  if (status === 200 || status === 409 || status === 422) received(entry, status, text);
  else refused(entry, status);
}

function received(entry, status, text) {
  const hadTrouble = tries > 0;
  tries = 0;
  keepUnsent(unsent().filter((other) => other.id !== entry.id));
  if (hadTrouble || isWaiting) tell("");
  if (status !== 200) giveBack(entry);
  if (isWaiting && isLookingBack() && !unsent().length) {
    changed(status, text);
    return;
  }
  if (status === 200) {
    say(word("saved_undo", { key: keyName("u") }));
    hintTimer = setTimeout(say, HINT_MS, word("saved"));
  } else say("");
  take(text);
  if (unsent().length) send();
  else if (isPaused()) handBackAll();
  else if (stepsBack) {
    for (; stepsBack; stepsBack -= 1) undo();
  }
  else if (isWaiting) location.reload();
  else fetchAhead();
}

// On a page that was opened to change one verdict.
function changed(status, text) {
  if (status === 200) {
    location.assign(byId("keep").href);
    return;
  }
  isWaiting = false;
  take(text);
  show(byId("item"));
}

// For modes/: what the server does not take is a draft again.
function giveBack(entry) {
  document.dispatchEvent(new CustomEvent("item-refused", { detail: entry }));
}

function wasJustReloaded() {
  const [loading] = performance.getEntriesByType("navigation");
  return loading?.type === "reload" && performance.now() < FRESH_MS;
}

function refused(entry, status) {
  if (status === 401) {
    say(word("not_saved"), true);
    tell(word("logged_out_kept"), { logIn: true });
  } else if (status === 403 && wasJustReloaded()) {
    say(word("not_saved"), true);
    tell(word("refused"), { logIn: true });
  } else if (status === 403) {
    startAnew(); // logged in anew in another tab: a fresh page knows the new key, and sends what was kept
  } else if (status === 404) {
    giveBack(entry);
    keepUnsent(unsent().filter((other) => other.id !== entry.id));
    isWaiting = false;
    say(word("not_saved"), true);
    tell(word("not_yours"));
    send();
  } else {
    const wait = RETRIES_MS[tries];
    if (wait) retryTimer = setTimeout(send, wait);
    tries = Math.min(tries + 1, RETRIES_MS.length);
    if (!wait) say(word("not_saved"), true);
    else say(word(status ? "not_saved_resends" : "offline_resends"), true);
    if (isWaiting || !wait || status === FOREIGN) tellOfTrouble(status);
  }
}

// What was to be undone once the verdict had arrived is undone then.
function startAnew() {
  try {
    if (stepsBack) sessionStorage.setItem(STEPS_BACK, stepsBack);
  } catch {
    // no storage: it takes the key once more
  }
  location.reload();
}

function stepsBackBefore() {
  try {
    const kept = Number(sessionStorage.getItem(STEPS_BACK));
    sessionStorage.removeItem(STEPS_BACK);
    return kept;
  } catch {
    return 0;
  }
}

function tellOfTrouble(status = 0) {
  const count = unsent().length;
  let cause = status ? word("server_error", { status }) : word("no_server");
  if (status === FOREIGN) cause = word("foreign");
  const kept = word(retryTimer || isSending ? "kept_resends" : "kept_tries", { count });
  tell(`${cause} ${kept}`, { resend: true });
}

// What a POST brings: how many today, perhaps a word about the verdict, perhaps an item.
function take(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const progress = page.getElementById("progress");
  if (progress) byId("progress").innerHTML = progress.innerHTML;
  const told = page.getElementById("told");
  if (told) note(told);
  const item = page.getElementById("item");
  if (item) arrive(item);
}

function arrive(item) {
  const token = tokenOf(item);
  if (isPaused() || judgedTokens().has(token) || (token && token === yetToJudge().showing)) return;
  if ((isWaiting && !isLookingBack()) || (token && byId("empty"))) show(item);
  else if (token && !ahead) ahead = item;
  if (document.hidden) handBack();
}

window.addEventListener("online", send);
byId("trouble").querySelector("button").addEventListener("click", send);

// --- The item after this one -----------------------------------------------------------------------------------------

function get(url) {
  return fetch(url, {
    headers: { "X-Requested-With": "fetch", "HX-Request": "true" },
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
}

async function fetchAhead() {
  const { showing } = yetToJudge();
  if (!showing || ahead || isFetching || document.hidden || unsent().length) return; // their answers bring it
  isFetching = true;
  try {
    const answer = await get(`${addresses.rate}?showing=${showing}`);
    if (answer.ok) take(await answer.text());
  } catch {
    // no connection: the next verdict will tell
  }
  isFetching = false;
}

async function handBack() {
  const token = tokenOf(ahead);
  ahead = null;
  if (!token) return;
  try {
    await post(addresses.release, { token }, { keepalive: true });
  } catch {
    // no connection: its lease runs out by itself
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    activeMs += performance.now() - countedFrom;
    handBack();
  } else {
    countedFrom = performance.now();
    send();
    fetchAhead();
  }
});
window.addEventListener("pagehide", handBack);
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload(); // kept by the browser while others may have taken the item
});

// --- An empty page that looks again, by htmx -------------------------------------------------------------------------

document.addEventListener("htmx:beforeSwap", (event) => {
  // It must not pull an item away that came in the meantime.
  if (event.detail.target.id === "item" && !byId("empty")) event.detail.shouldSwap = false;
});

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.target.id !== "item") return;
  beginItem();
  announce();
  fetchAhead();
});

// --- Undo and pause --------------------------------------------------------------------------------------------------

function undo() {
  undoing = undoing.then(() => step(byId("undo")));
}

function redo() {
  undoing = undoing.then(() => (byId("redo") ? step(byId("redo")) : say(word("no_redo"))));
}

// To an act before, or from there to the one after; after the last one stands what was being judged.
async function step(link) {
  if (!link || isPaused()) return;
  if (isLookingBack() && !aside) {
    location.assign(link.href); // a page of its own, opened from the list of ratings
    return;
  }
  if (unsent().length) {
    if (link.id !== "redo") stepsBack += 1;
    send(); // what is on its way first
    return;
  }
  let answer;
  let text;
  try {
    answer = await get(link.href);
    text = await answer.text();
  } catch {
    say(word("undo_offline"), true);
    return;
  }
  if (!link.isConnected || isWaiting) return; // judged or undone meanwhile
  if (answer.status === 401) tell(word("logged_out"), { logIn: true });
  else if (answer.status === 403) location.reload(); // a first visit is due: the whole page leads there
  else if (answer.status === 204 && link.id === "redo") showAside();
  else if (answer.status === 204) say(word("no_undo"));
  else if (!answer.ok) say(word("undo_error", { status: answer.status }), true);
  else {
    const item = new DOMParser().parseFromString(text, "text/html").getElementById("item");
    if (!item) {
      say(word("undo_foreign"), true); // not the studio has answered
      return;
    }
    aside ??= { item: byId("item"), activeMs: millisecondsSeen() };
    say("");
    note(null); // it was about the act that is undone, and would lie over its item
    show(item);
  }
}

function showAside() {
  const { item, activeMs: seenMs } = aside;
  aside = null;
  show(item, seenMs);
  byId("look-again")?.click(); // on an empty page
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("#undo, #redo, #keep");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (link.id === "undo") {
    event.preventDefault();
    undo();
  } else if (link.id === "redo") {
    event.preventDefault();
    redo();
  } else if (aside) {
    event.preventDefault();
    showAside();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches("a[role=button]")) return;
  event.preventDefault();
  event.target.click(); // it is a link that says it is a button
});

function pause() {
  if (isPaused()) return;
  document.querySelector(".menu").open = false; // on a phone the button is in it
  aside = null;
  ahead = null;
  show(byId("paused").content.cloneNode(true).firstElementChild);
  history.replaceState(null, "", `${addresses.rate}?paused=1`);
  byId("go-on").focus();
  handBackAll();
}

async function handBackAll() {
  if (unsent().length) return; // it follows on what is still to be sent
  try {
    const answer = await post(addresses.pause, {}, { keepalive: true });
    if (!answer.ok || !isPaused()) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const sitting = page.getElementById("sitting");
    if (sitting) byId("sitting").replaceWith(sitting); // what was done since the last long break
  } catch {
    // no connection: the leases run out by themselves
  }
}

// --- Keys ------------------------------------------------------------------------------------------------------------

const WITH_SHIFT = { s: "#skip .because", f: "#report .why" }; // what opens: say why

function digitOf(event) {
  if (/^[0-9]$/.test(event.key)) return event.key;
  if (event.key === "=") return byId("item").dataset.kind === "pair" ? "4" : null; // equal
  const code = /^(?:Digit|Numpad)([0-9])$/.exec(event.code); // keyboards whose digits need Shift
  return code && !event.shiftKey && !/[a-z?]/i.test(event.key) ? code[1] : null;
}

function buttonOf(event, key) {
  if (key === "u") return byId("undo");
  if (key === "p") return byId(isPaused() ? "go-on" : "pause");
  if (key === "escape") return byId("keep");
  const because = document.querySelector("#skip .because");
  if (key === "s") return byId("skip-plain");
  const named = document.querySelector(`#item [data-shortcut="${CSS.escape(key)}"]`);
  if (named) return named;
  const digit = digitOf(event);
  if (!digit) return null;
  const found = document.querySelector(because?.open ? `[data-reason="${digit}"]` : `[data-key="${digit}"]`);
  if (!found) tellDigits(because?.open ? "[data-reason]" : "[data-key], .fives kbd");
  return found;
}

// Of a digit that means nothing here: which ones do.
function tellDigits(where) {
  const buttons = [...byId("item").querySelectorAll(where)];
  const digits = buttons.map(({ dataset, textContent }) => dataset.reason ?? dataset.key ?? dataset.of ?? textContent);
  const last = Math.max(0, ...digits.map(Number).filter(Boolean));
  if (!last || byId("saved").classList.contains("trouble")) return;
  const several = digits.includes("0") ? "digits_zero" : "digits";
  const names = { first: keyName("1"), last: keyName(String(last)), zero: keyName("0"), help: keyName("?") };
  say(word(last > 1 ? several : "digit", names));
  hintTimer = setTimeout(say, HINT_MS, "");
}

document.addEventListener("keydown", (event) => {
  lastMove = performance.now();
  if (event.defaultPrevented || event.repeat || event.isComposing) return;
  if (isTyping(event.target)) return;
  const key = event.key.toLowerCase();
  const opened = document.querySelector("dialog[open]");
  const isWithCtrl = (event.ctrlKey || event.metaKey) && !event.altKey;
  if (isWithCtrl && !opened && (key === "z" || key === "y")) {
    event.preventDefault();
    if (key === "y" || event.shiftKey) redo();
    else undo();
  }
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (key === "g" || key === "?") {
    event.preventDefault();
    const dialog = byId(key === "g" ? "guideline" : "keys");
    if (opened) opened.close();
    if (opened !== dialog) open(dialog);
    return;
  }
  if (opened) return;
  if (key === "u" && event.shiftKey) {
    event.preventDefault();
    redo();
    return;
  }
  const reasons = event.shiftKey && WITH_SHIFT[key] && document.querySelector(WITH_SHIFT[key]);
  if (reasons) {
    event.preventDefault();
    reasons.open = !reasons.open;
    if (reasons.open) reasons.querySelector("textarea")?.focus({ preventScroll: true });
    return;
  }
  const button = buttonOf(event, key);
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
byId("open-keys").addEventListener("click", () => open(byId("keys")));
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
}

// --- Heartbeat: at most once a minute, while somebody is there -------------------------------------------------------

for (const name of ["pointermove", "pointerdown", "scroll", "wheel"]) {
  addEventListener(name, () => (lastMove = performance.now()), { passive: true });
}

setInterval(async () => {
  if (document.hidden || performance.now() - lastMove > IDLE_MS) return;
  send(); // what is still kept here, after the page has given up trying by itself
  const { showing, ahead: next } = yetToJudge();
  if (!showing) return;
  try {
    const answer = await post(addresses.heartbeat, { token: showing, ahead: next });
    if (answer.status === 401) tell(word("logged_out"), { logIn: true });
    if (answer.status !== 410) return;
    const gone = (await answer.text()).split("\n");
    if (next && gone.includes(next) && tokenOf(ahead) === next) {
      ahead = null;
      fetchAhead();
    }
    if (gone.includes(showing) && yetToJudge().showing === showing) say(word("too_late"));
  } catch {
    // no connection: the verdict itself will tell, and its lease lasts longer than some missed beats
  }
}, HEARTBEAT_MS);

// --- To begin with ---------------------------------------------------------------------------------------------------

const judgedBefore = unsent().find((entry) => entry.values.token && entry.values.token === tokenOf(byId("item")));
if (judgedBefore) {
  isWaiting = true; // judged before the page was loaded again; what comes after it is shown once that has been sent
  document.querySelector(`[data-key="${judgedBefore.values.choice}"]`)?.classList.add("chosen");
}
beginItem();
const stepsBefore = stepsBackBefore();
if (unsent().length) {
  stepsBack = stepsBefore;
  say(word("saving"));
  send();
} else fetchAhead();
