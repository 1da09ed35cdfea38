// What is being said of an item and not sent yet, kept in this browser: flags, a reason, places and the like survive a
// reload, a log-in that ran out, a closed tab. It goes along with the verdict, and is a draft again where the server
// refuses that. What was written and not sent, since the item was skipped, reported or kept as it was, stays.
"use strict";

{
  const KEEP = `steersman-draft:${document.getElementById("keys").dataset.unsent}`;
  const MOST = 30; // items: more than can be undone
  const OWN = new Set(["csrfmiddlewaretoken", "token", "submission_id", "active_ms"]); // the page's, not the rater's
  const WORDS = /^(?:reason|text|evidence|words) /; // what means the same however the item is shown

  const form = () => document.getElementById("verdict");
  const item = () => document.getElementById("item");
  const token = () => form()?.elements.token?.value ?? item()?.dataset.judged ?? "";
  const about = () => item()?.dataset.about ?? "";

  function read() {
    try {
      return JSON.parse(localStorage.getItem(KEEP) || "[]");
    } catch {
      return [];
    }
  }

  function write(drafts) {
    try {
      if (drafts.length) localStorage.setItem(KEEP, JSON.stringify(drafts.slice(-MOST)));
      else localStorage.removeItem(KEEP);
    } catch {
      // no storage, or a full one: what is written lasts as long as the page
    }
  }

  const isOf = (one) => (draft) => draft.token === one.token || (one.about && draft.about === one.about);
  const others = (one) => read().filter((draft) => !isOf(one)(draft));
  const isBox = (one) => /^(checkbox|radio)$/.test(one.type);

  // What is on the page, by name; of two drafts of an item the later one.
  function here() {
    return read().findLast(isOf({ token: token(), about: about() }));
  }

  function put(draft, said) {
    const kept = Object.keys(said).length ? [{ token: draft.token, about: draft.about, said }] : [];
    write([...others(draft), ...kept]);
  }

  // The controls by which something is said, each under a name of its own; another form may lack some of them.
  function controls() {
    const found = new Map();
    for (const one of [...(form()?.elements ?? []), ...(document.getElementById("report")?.elements ?? [])]) {
      if (!one.name || one.type === "submit" || OWN.has(one.name)) continue;
      const name = isBox(one) ? `${one.name}=${one.value}` : one.name;
      let number = 1;
      while (found.has(`${name} ${number}`)) number += 1; // places of a ranking
      found.set(`${name} ${number}`, one);
    }
    return found;
  }

  function keep() {
    if (!token() || !form() || form().dataset.said) return; // a text that is taken off the page says once more "change"
    const said = {};
    for (const [name, one] of controls()) said[name] = isBox(one) ? one.checked : one.value;
    put({ token: token(), about: about() }, said);
  }

  const pick = (said, isWanted) => Object.fromEntries(Object.entries(said).filter(([name]) => isWanted(name)));

  // Judged or passed by: what is sent goes with ``entry``, the rest stays.
  function send(sent, entry) {
    if (form()) form().dataset.said = "yes";
    const draft = here();
    if (!draft) return;
    const isSent = { verdict: (name) => name !== "words 1", report: (name) => name === "words 1" }[sent.id] ?? (() => false);
    entry.draft = { token: draft.token, about: draft.about, said: pick(draft.said, isSent) };
    const rest = pick(draft.said, (name) => !isSent(name) && (sent.id !== "verdict" || draft.said[name]));
    put(draft, Object.values(rest).some(Boolean) ? rest : {});
  }

  // It stays as it was; words that were written meanwhile are not thrown away.
  function leave() {
    if (form()) form().dataset.said = "yes";
    const draft = here();
    if (!draft) return;
    const changed = new Set();
    for (const [name, one] of controls()) if (one.value !== one.defaultValue) changed.add(name);
    put(draft, pick(draft.said, (name) => WORDS.test(name) && changed.has(name)));
  }

  function bringBack({ draft }) {
    if (draft) put(draft, { ...read().find(isOf(draft))?.said, ...draft.said });
  }

  function restore() {
    const of = form();
    if (!of) return;
    delete of.dataset.said;
    if (of.dataset.drafted) return;
    of.dataset.drafted = "yes";
    const draft = here();
    if (!draft?.said) return;
    const isSame = draft.token === token(); // else it was handed back and drawn anew, perhaps in another order
    for (const [name, one] of controls()) {
      if (!(name in draft.said) || !(isSame || WORDS.test(name))) continue; // a flag or an axis may be newer than the draft
      if (isBox(one)) one.checked = draft.said[name];
      else one.value = draft.said[name];
    }
    const report = document.querySelector("#report .why"); // what was judged can not be reported any more
    if (report && draft.said["words 1"]) report.open = true; // in sight, as they go along with a report
    if (!isSame && draft.said["reason 1"] && /^(?:pair|ranking)$/.test(item().dataset.kind)) {
      document.getElementById("reason").open = true; // it may say A of what stands as B now: not to be sent unseen
      document.getElementById("reason-order").hidden = false;
    }
  }

  for (const name of ["input", "change"]) {
    document.addEventListener(name, (event) => {
      if (["verdict", "report"].includes(event.target.form?.id)) keep();
    });
  }
  document.addEventListener("item-shown", restore);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#keep")) leave();
  }, true);
  document.addEventListener("item-judged", ({ detail }) => send(detail.form, detail.entry));
  document.addEventListener("item-refused", ({ detail }) => bringBack(detail));
}
