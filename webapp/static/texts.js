// The texts on the rater page: formatted or as written, and code that can be copied. Without it they are formatted.
"use strict";

const texts = {
  toggles: new Set(), // what is switched on, by name; on <body> as a class, on the buttons as aria-pressed

  set(name, isOn) {
    this.toggles[isOn ? "add" : "delete"](name);
    document.body.classList.toggle(name, isOn);
    for (const button of document.querySelectorAll(`[data-toggle="${name}"]`)) button.ariaPressed = String(isOn);
    document.dispatchEvent(new CustomEvent("text-toggle", { detail: { name, isOn } }));
  },

  // For this rater's next visits; without a connection until the page is left.
  async keep(name) {
    try {
      await post(addresses.toggleAt, { name, is_on: this.toggles.has(name) ? "yes" : "" });
    } catch {
      // it is only a look
    }
  },

  // What the server cannot know of an item: the state of the buttons on it, and that code can be copied here.
  prepare(item) {
    if (!item) return;
    for (const button of item.querySelectorAll("[data-toggle]")) {
      button.ariaPressed = String(this.toggles.has(button.dataset.toggle));
    }
    const copy = document.getElementById("copy-code").content;
    for (const code of item.querySelectorAll(".code:not(:has(button))")) code.append(copy.cloneNode(true));
    document.dispatchEvent(new CustomEvent("texts-prepared"));
  },
};

document.addEventListener("click", async (event) => {
  const toggle = event.target.closest("[data-toggle]");
  if (toggle) {
    const name = toggle.dataset.toggle;
    texts.set(name, !texts.toggles.has(name));
    if ("keeps" in toggle.dataset) texts.keep(name);
  }
  const copy = event.target.closest(".code > button");
  if (!copy) return;
  const code = copy.parentElement.querySelector("code");
  let said = copy.dataset.done;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    said = copy.dataset.failed; // the code is selected; the browser would not let us copy it
  }
  copy.textContent = said;
});

new MutationObserver(() => texts.prepare(document.getElementById("item"))).observe(
  document.getElementById("item").parentNode,
  { childList: true },
);
for (const name of ["as-written", "unlinked"]) {
  if (document.body.classList.contains(name)) texts.toggles.add(name); // as this rater left it
}
texts.prepare(document.getElementById("item"));
