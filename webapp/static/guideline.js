// The rater page: where an item comes under a newer guideline than the drawer holds, the drawer follows it.
"use strict";

async function followGuideline() {
  const item = document.getElementById("item");
  const drawer = document.getElementById("guideline");
  if (!(Number(item?.dataset.guideline) > Number(drawer.dataset.version))) return;
  const { version } = drawer.dataset;
  drawer.dataset.version = item.dataset.guideline; // once for each version
  let answer;
  let text;
  try {
    answer = await fetch(location.pathname, { headers: { "X-Requested-With": "fetch" } });
    text = await answer.text();
  } catch {
    drawer.dataset.version = version; // no connection: with the next item once more
    return;
  }
  const page = new DOMParser().parseFromString(text, "text/html");
  if (!answer.ok || !page.getElementById("guideline")) {
    location.reload(); // the item is still this rater's: the whole page comes with both
    return;
  }
  for (const id of ["guideline", "open-guideline"]) {
    const here = document.getElementById(id);
    const there = page.getElementById(id);
    here.replaceChildren(...there.childNodes);
    Object.assign(here.dataset, there.dataset); // with what rate.js sends once it is read
  }
  const { read, changed } = document.getElementById("open-guideline").dataset;
  if (read && changed && !document.querySelector("dialog[open]")) open(drawer); // to be read once before going on
}

// Whatever puts the next item in place.
new MutationObserver(followGuideline).observe(document.getElementById("item").parentNode, { childList: true });
