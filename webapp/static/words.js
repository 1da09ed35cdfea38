// The words that a page's scripts say, in the page's language: the server writes them into it, see webapp/page_words.py.
"use strict";

const pageWords = JSON.parse(document.getElementById("page-words").content.textContent);
const pluralForm = new Intl.PluralRules(document.documentElement.lang);

const noKeyboard = matchMedia("(max-width: 46rem)"); // where steersman.css shows no keys

// The text of this name, or where no keys are shown the one that names none, if there is one; with values in place of %(name)s; where it has several forms, `count` chooses one of them.
function word(name, values = {}) {
  const found = (noKeyboard.matches && pageWords[`${name}_by_finger`]) || pageWords[name];
  const text = typeof found === "string" ? found : (found[pluralForm.select(values.count)] ?? found.other);
  return text.replace(/%\((\w+)\)s/g, (whole, key) => values[key] ?? whole);
}
