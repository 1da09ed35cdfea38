"""Two hundred hostile texts as prompt, answer, name, question and label: none becomes more than text."""

import time
from uuid import uuid4

import pytest
from django.template.loader import render_to_string

from tests.hostile import HOSTILE
from tests.markup import see
from webapp.feedback.modes import mode_of
from webapp.feedback.selectors import ShownItem
from webapp.projects.models import Guideline, Project
from webapp.typeset import typeset, typeset_anew
from webapp.typeset.markdown import ATTRIBUTES, TAGS

OF_MARKS = {"class", "data-mark", "title", "hidden"}


def test_there_are_two_hundred_hostile_texts_all_different():
    assert len(set(HOSTILE.values())) == len(HOSTILE) >= 200


def test_no_hostile_text_becomes_more_than_text():
    for name, text in HOSTILE.items():
        shown = typeset(text)
        raw = see(shown.raw)
        assert raw.text == text, name
        assert {tag for tag, _ in raw.elements} <= {"span"}, name
        assert not raw.strays, name
        found = see(shown.formatted or "")
        assert not found.strays, name
        assert not found.opened, name
        for tag, attributes in found.elements:
            assert tag in TAGS, (name, tag)
            allowed = ATTRIBUTES.get(tag, set()) | (OF_MARKS if tag == "span" else set())
            assert set(attributes) <= allowed, (name, tag, attributes)


def test_no_word_of_a_hostile_text_is_left_out_by_formatting():
    checked = 0
    for name, text in HOSTILE.items():
        html = typeset(text).formatted
        if html is None or "&" in text or "$" in text or "\\" in text:
            continue
        found = see(html).text
        words = {
            word
            for word in "".join(char if char.isalnum() else " " for char in text).split()
            if word.isascii() and word.isalpha()
        }
        assert not {word for word in words if word not in found}, name
        checked += 1
    assert checked > 60


def test_no_hostile_text_holds_a_page_up():
    for name, text in HOSTILE.items():
        begin = time.thread_time()
        typeset_anew(text)
        took = time.thread_time() - begin
        assert took < 1.0, f"{name} took {took:.2f} s of one core"  # 0.15 s at most on an idle one


@pytest.fixture
def rate_page(settings):
    """The rater page with these texts, rendered without a database."""
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }

    def render(name: str, text: str = "x") -> str:
        project = Project(name=name, slug="p")
        item = ShownItem(
            kind="pair",
            question=name,
            prompt_label=name,
            prompt_text=text,
            answers=(text, text),
            token=uuid4(),
            guideline_version=1,
        )
        mode = mode_of("pair")
        return render_to_string(
            "feedback/rate.html",
            {
                "project": project,
                "item": item,
                "mode": mode,
                "bar": mode.bar,
                "guideline": Guideline(version=1),
                "guideline_html": "",
            },
        )

    return render


def test_a_hostile_name_question_or_label_adds_no_element(rate_page):
    expected = see(rate_page("x")).elements
    for name, text in HOSTILE.items():
        assert see(rate_page(text[:200])).elements == expected, name


def test_a_hostile_text_stays_between_its_own_tags(rate_page):
    frame = [
        element for element in see(rate_page("x")).elements if element[0] in ("form", "button", "article", "dialog")
    ]
    for name, text in HOSTILE.items():
        if len(text) < 2000:  # the long ones are among those above
            found = see(rate_page("x", text)).elements
            assert [one for one in found if one[0] in ("form", "button", "article", "dialog")] == frame, name
