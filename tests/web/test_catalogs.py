"""The catalogs are complete, fit their messages, and nothing of a template is left out of them."""

import gettext
import re
from collections import Counter

import pytest
from django.conf import settings

from tests.catalogs import WEBAPP, marked_in_python, marked_in_templates, read_po
from webapp.runs.core_words import core_texts

LANGUAGES = [code for code, _name in settings.LANGUAGES if code != settings.LANGUAGE_CODE]
PLACES = re.compile(r"%\(\w+\)[a-z]|%%|#(?:a|b|title|curve|curves|first|last)\b")
TAGS = re.compile(r"<[^>]*>")
SHOWN_AS_IS = {"Steersman", "Enter", "Esc", "Ctrl", "Shift", "KL", "PPO", "JSON", "manage.py", "⇧U"}
SAID_BY_ATTRIBUTES = re.compile(
    r'\s(?:aria-label|title|placeholder|alt|data-(?:confirm|said|done|failed|question|label))="([^"]*)"'
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalog_is_complete_and_fits_its_messages(language):
    entries = read_po(language)[1:]
    forms = {"de": 2, "ar": 6}[language]
    wrong = []
    for entry in entries:
        if entry.is_fuzzy or not all(entry.texts) or len(entry.texts) != (forms if entry.plural else 1):
            wrong.append(f"{entry.id!r} is fuzzy, empty or lacks a form")
        for text in entry.texts:
            said = Counter(PLACES.findall(text)), entry.plural or entry.id
            wanted = Counter(PLACES.findall(said[1]))
            fewer_will_do = entry.plural and set(said[0]) <= set(wanted)  # "two answers" needs no number
            if set(said[0]) != set(wanted) and not (fewer_will_do and text is not entry.texts[-1]):
                wrong.append(f"{text!r} has not the placeholders of {entry.id!r}")
            if not entry.plural and sorted(TAGS.findall(text)) != sorted(TAGS.findall(entry.id)) and "wide" not in text:
                wrong.append(f"{text!r} has not the elements of {entry.id!r}")
            if text[:1].isspace() != entry.id[:1].isspace() or text[-1:].isspace() != entry.id[-1:].isspace():
                wrong.append(f"{text!r} begins or ends otherwise than {entry.id!r}")
    assert not wrong, "\n".join(wrong)
    assert len(entries) > 1000


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_line_can_break_between_a_number_and_its_percent_sign(language):
    wrong = [text for entry in read_po(language)[1:] for text in entry.texts if re.search(r"[\ds] %(?!\()", text)]
    assert not wrong, "a no-break space (U+00A0) belongs before the sign:\n" + "\n".join(wrong)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalog_is_that_of_the_sources(language):
    path = WEBAPP / "locale" / language / "LC_MESSAGES" / "django.mo"
    with path.open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for entry in read_po(language)[1:]:
        if entry.plural:
            found = {compiled.ngettext(entry.id, entry.plural, count) for count in range(200)}
            assert found == set(entry.texts), f"make compilemessages: {entry.id!r}"
        else:
            assert compiled.gettext(entry.id) == entry.texts[0], f"make compilemessages: {entry.id!r}"


def test_what_the_sources_mark_stands_in_every_catalog_and_nothing_else():
    marked = {*marked_in_python(), *marked_in_templates(), *core_texts()}
    for language in LANGUAGES:
        known = {entry.id for entry in read_po(language)[1:]}
        assert not marked - known, f"make messages, then translate to {language}: {sorted(marked - known)}"
        assert not known - marked, f"make messages: not said any more: {sorted(known - marked)}"


def text_left_in(source: str) -> list[str]:
    """Words of a template that no tag translates."""
    source = re.sub(r"\{#.*?#\}|\{%\s*comment.*?endcomment\s*%\}|<code.*?</code>", " ", source, flags=re.DOTALL)
    source = re.sub(
        r"\{%\s*blocktranslate.*?endblocktranslate\s*%\}|\{%\s*block \w*class.*?endblock\s*%\}",
        " ",
        source,
        flags=re.DOTALL,
    )
    source = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.DOTALL)
    shown = [*SAID_BY_ATTRIBUTES.findall(source), re.sub(r"<[^>]*>", " ", source)]
    words = re.findall(r"[^\W\d_][^\W\d_.’'-]+", re.sub(r"&\w+;", " ", " ".join(shown)))
    return [word for word in words if word not in SHOWN_AS_IS]


def test_no_template_says_a_word_that_is_not_marked_for_translation():
    assert text_left_in('<p class="lead">Left {% translate "Done" %}</p>') == ["Left"]
    assert text_left_in('<button aria-label="Left, key U">{{ value }} <kbd>U</kbd></button>') == ["Left", "key"]
    found = {}
    for path in (WEBAPP / "templates").rglob("*.html"):
        left = text_left_in(path.read_text(encoding="utf-8"))
        if left:
            found[path.name] = left
    assert not found
