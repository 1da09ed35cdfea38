// What is being said of an item and not sent yet, kept in this browser: flags, a reason, places and the like survive a
// reload, a log-in that ran out, a closed tab. Gone once the verdict is on its way.
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
  const controls = (of) => [...of.elements].filter((one) => one.name && one.type !== "submit" && !OWN.has(one.name));

  function keep(of) {
    const token = tokenOf(of);
    if (!token || of.dataset.said || of !== form()) return; // a text that is taken off the page says once more "change"
    const values = controls(of).map((one) => (/^(checkbox|radio)$/.test(one.type) ? one.checked : one.value));
    write([...others(token), { token, values }]);
  }

  // ``of``: the form by which the item on the page was judged, skipped or kept.
  function drop(of) {
    if (form()) form().dataset.said = "yes";
    write(others(tokenOf(of)));
  }

  function restore() {
    const of = form();
    if (!of) return;
    delete of.dataset.said;
    if (of.dataset.drafted) return;
    of.dataset.drafted = "yes";
    const draft = read().find(({ token }) => token && token === tokenOf(of));
    const found = controls(of);
    if (!draft || draft.values.length !== found.length) return; // none, or of another form
    found.forEach((one, index) => {
      if (/^(checkbox|radio)$/.test(one.type)) one.checked = draft.values[index];
      else one.value = draft.values[index];
    });
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
}
