// A word about a break after so many minutes of rating. It stands at the edge, takes no focus and stops nothing.
"use strict";

{
  const STAYED_MS = 300_000; // without a key, a touch or a scroll for longer: was away, and has rested
  const LATER_MS = 600_000;
  const KEPT = "steersman-rested";
  const box = document.getElementById("rest");
  const wanted = Number(document.getElementById("keys").dataset.rest) * 60_000;
  let last = Date.now();

  const kept = {
    get ms() {
      try {
        return Number(sessionStorage.getItem(KEPT)) || 0;
      } catch {
        return this.without ?? 0;
      }
    },
    set ms(value) {
      try {
        sessionStorage.setItem(KEPT, value);
      } catch {
        this.without = value; // no storage: counted as long as this page lasts
      }
    },
  };

  function count() {
    const gap = Date.now() - last;
    last += gap;
    kept.ms = gap > STAYED_MS ? 0 : kept.ms + gap;
    if (!wanted || kept.ms < wanted || !box.hidden || "paused" in document.getElementById("item").dataset) return;
    box.querySelector("p").textContent = word("rested", { count: Math.round(kept.ms / 60_000) });
    box.hidden = false;
  }

  function put(ms) {
    kept.ms = ms;
    box.hidden = true;
  }

  for (const name of ["keydown", "pointerdown"]) addEventListener(name, count, { capture: true, passive: true });
  document.addEventListener("click", ({ target }) => {
    if (target.closest("#go-on")) put(0);
    const chosen = target.closest("[data-break]")?.dataset.break;
    if (chosen === "later") put(wanted - LATER_MS);
    if (chosen !== "pause") return;
    put(0);
    document.getElementById("pause").click();
  });
  document.addEventListener("texts-prepared", () => {
    if ("paused" in document.getElementById("item").dataset) put(0);
  });
}
