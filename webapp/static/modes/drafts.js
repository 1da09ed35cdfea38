// What is being said of an item and not sent yet, kept in this browser: flags, a reason, places and the like survive a
// reload, a log-in that ran out, a closed tab. Gone once the verdict is on its way; back where the server refuses it.
"use strict";

{
  const KEEP = `steersman-draft:${document.getElementById("keys").dataset.unsent}`;
  const MOST = 3; // items: the one that is judged, and one or two that are looked at again
  const OWN = new Set(["csrfmiddlewaretoken", "token", "submission_id", "active_ms"]); // the page's, not the rater's

  const form = () => document.getElementById("verdict");
  const tokenOf = (of) => of?.elements.token?.value ?? document.getElementById("item")?.dataset.judged ?? "";

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

  const others = (token) => read().filter((draft) => draft.token !== token);
  const isBox = (one) => /^(checkbox|radio)$/.test(one.type);
  const sent = new Map(); // submission id -> the draft that it was made of

  // The controls by which something is said, each under a name of its own; another form may lack some of them.
  function controls(of) {
    const found = new Map();
    for (const one of of.elements) {
      if (!one.name || one.type === "submit" || OWN.has(one.name)) continue;
      const name = isBox(one) ? `${one.name}=${one.value}` : one.name;
      let number = 1;
      while (found.has(`${name} ${number}`)) number += 1; // places of a ranking
      found.set(`${name} ${number}`, one);
    }
    return found;
  }

  function keep(of) {
    const token = tokenOf(of);
    if (!token || of.dataset.said || of !== form()) return; // a text that is taken off the page says once more "change"
    const said = {};
    for (const [name, one] of controls(of)) said[name] = isBox(one) ? one.checked : one.value;
    write([...others(token), { token, said }]);
  }

  // ``of``: the form by which the item on the page was judged, skipped or kept.
  function drop(of) {
    const token = tokenOf(of);
    const draft = read().find((one) => one.token === token);
    const id = of?.elements.submission_id?.value;
    if (draft && id) sent.set(id, draft);
    if (form()) form().dataset.said = "yes";
    write(others(token));
  }

  function bringBack(id) {
    const draft = sent.get(id);
    if (draft) write([...others(draft.token), draft]);
  }

  function restore() {
    const of = form();
    if (!of) return;
    delete of.dataset.said;
    if (of.dataset.drafted) return;
    of.dataset.drafted = "yes";
    const draft = read().find(({ token }) => token && token === tokenOf(of));
    if (!draft?.said) return;
    for (const [name, one] of controls(of)) {
      if (!(name in draft.said)) continue; // since the draft was kept, an admin has added a flag or an axis
      if (isBox(one)) one.checked = draft.said[name];
      else one.value = draft.said[name];
    }
  }

  for (const name of ["input", "change"]) {
    document.addEventListener(name, (event) => {
      if (event.target.form?.id === "verdict") keep(event.target.form);
    });
  }
  document.addEventListener("item-shown", restore);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#keep")) drop(form()); // it stays as it was
  }, true);
  document.addEventListener("item-judged", (event) => drop(event.detail));
  document.addEventListener("item-refused", (event) => bringBack(event.detail));
}
