"""Plain forms lose nothing that was begun: by a skip, by a report, or where another tab has judged the item."""

import re
import uuid

import pytest

from tests.studio import Studio, open_studio
from tests.web.rater_pages import HTMX, checked, look, url
from webapp.feedback.models import Presentation, Rating, Report, Skip, Slot
from webapp.projects.models import Rule

pytestmark = pytest.mark.django_db
BEGUN = {
    "pair": {"reason": "So far.", "flags": "rude"},
    "single": {"overall": "4", "axis:helpful": "2", "axis:clear": "9"},
    "ranking": {"place": ["2", "", "1"], "reason": "So far."},
    "rule": {"quote": "A text.", "evidence": "2-3 4-5"},
    "rewrite": {"text": "Begun.", "reason": ""},
    "turns": {"turn:1": "2"},
}


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.project.flags = ["spam", "rude"]
    studio.project.axes = ["helpful", "clear"]
    studio.project.save()
    Rule.objects.create(project=studio.project, text="It is short.")
    return studio


def add(studio: Studio, kind: str) -> None:
    texts = {"ranking": ["One.", "Two.", "Three."], "pair": ["One.", "Two."]}
    studio.add_item(f"Opening of {kind}", *texts.get(kind, ["A text. " * 9]), kind=kind)


def stands(html: str, kind: str) -> bool:
    """Whether what was BEGUN stands in the page's form."""
    found = {
        "pair": lambda: ">So far.</textarea>" in html and checked(html) == ["rude"],
        "single": lambda: (
            re.findall(r'name="([^"]*)" value="(\d)" checked', html) == [("overall", "4"), ("axis:helpful", "2")]
        ),
        "ranking": lambda: (
            re.findall(r'<option value="(\d)" selected', html) == ["2", "1"] and ">So far.</textarea>" in html
        ),
        "rule": lambda: 'name="evidence" value="2-3 4-5"' in html and 'value="A text."' in html,
        "rewrite": lambda: ">\nBegun.</textarea>" in html,
        "turns": lambda: re.findall(r'name="turn:1" value="(\d)"[^>]* checked', html) == ["2"],
    }
    return found[kind]()


@pytest.mark.parametrize("way", ["skip", "report"])
@pytest.mark.parametrize("kind", BEGUN)
def test_what_was_begun_comes_back_by_undo(studio, rater, kind, way):
    add(studio, kind)
    _, fields = look(rater, studio)
    sent = {**fields, **BEGUN[kind], "words": "It names a person."}
    answer = rater.post(url(studio, f"rate/{way}/"), {**sent, "because": ""}, follow=True).content.decode()
    said = "What you wrote is kept" if way == "skip" else "What else you wrote is kept"
    assert f"{said}: undo brings it back." in answer
    assert Skip.objects.count() == 1
    assert list(Report.objects.values_list("words", flat=True)) == (["It names a person."] if way == "report" else [])
    assert stands(rater.get(url(studio, "rate/undo/"), follow=True).content.decode(), kind)
    assert not Rating.objects.exists()


@pytest.mark.parametrize("way", ["skip", "report"])
def test_where_nothing_was_begun_nothing_is_said_to_be_kept(studio, rater, way):
    for kind in BEGUN:
        add(studio, kind)
    for kind in BEGUN:
        html, fields = look(rater, studio)
        text = {"text": "A text. " * 9} if 'id="rewrite-text"' in html else {}
        sent = {**fields, "because": "", "reason": " ", "place": ["", ""], "evidence": "", "quote": "", **text}
        answer = rater.post(url(studio, f"rate/{way}/"), sent, follow=True).content.decode()
        assert "undo brings it back" not in answer, kind
    assert Skip.objects.count() == len(BEGUN)
    if way == "report":
        assert "Reported. You do not get it again; an admin looks at it." in answer


def test_a_script_keeps_what_was_begun_itself(studio, rater):
    add(studio, "pair")
    _, fields = look(rater, studio)
    rater.post(url(studio, "rate/report/"), {"token": fields["token"], "reason": "So far."}, headers=HTMX)
    assert "So far." not in rater.get(url(studio, "rate/undo/"), follow=True).content.decode()


def test_a_refused_report_shows_what_was_begun_too(studio, rater):
    for kind in BEGUN:
        add(studio, kind)
        _, fields = look(rater, studio)
        sent = {**fields, **BEGUN[kind], "words": "x" * 301}
        answer = rater.post(url(studio, "rate/report/"), sent)
        html = answer.content.decode()
        assert answer.status_code == 422
        assert stands(html, kind)
        assert ">\n" + "x" * 301 + "</textarea>" in html
        rater.post(url(studio, "rate/skip/"), {"token": fields["token"]})
    assert not Report.objects.exists()


def test_the_end_of_a_line_in_a_report_is_one_character(studio, rater):
    add(studio, "pair")
    _, fields = look(rater, studio)
    words = "\r\n".join(["x" * 149, "y" * 150])
    rater.post(url(studio, "rate/report/"), {**fields, "words": words})
    assert Report.objects.get().words == words.replace("\r\n", "\n")


@pytest.mark.parametrize("way", ["skip/", "report/", ""])
@pytest.mark.parametrize("kind", BEGUN)
def test_what_was_written_is_not_lost_where_another_tab_has_judged_the_item(studio, rater, kind, way):
    add(studio, kind)
    _, fields = look(rater, studio)
    choices = {"ranking": "1,2,3", "turns": "1", "rewrite": "1", "single": "5"}
    other = {"token": fields["token"], "submission_id": fields["submission_id"], "choice": choices.get(kind, "2")}
    other |= {"flags": "spam", "reason": "Before."} if kind == "pair" else {}
    assert rater.post(url(studio), other, headers=HTMX).status_code == 200
    stored = Rating.objects.get()
    begun = {**BEGUN[kind], "axis:clear": "3"} if kind == "single" else dict(BEGUN[kind])
    begun |= {"place": ["2", "1", "3"]} if kind == "ranking" else {}
    verdicts = {"single": "scored", "ranking": "ranked", "turns": "judged", "rewrite": "rewritten", "rule": "1"}
    sent = {
        **fields,
        **begun,
        "submission_id": "00000000-0000-4000-8000-000000000000",
        "words": "Names <her>.",
        "because": "",
    }
    answer = rater.post(url(studio, f"rate/{way}" if way else "rate/"), {**sent, "choice": verdicts.get(kind, "6")})
    html = answer.content.decode()
    assert answer.status_code == 409
    assert "You have answered this item already, perhaps in another tab" in html
    assert "“Names &lt;her&gt;.”" in html, "no field for it: to be copied"
    address = url(studio, f"history/{fields['token']}/")
    assert f'action="{address}?then=rate"' in html
    if kind == "pair":
        assert ">Before.\nSo far.</textarea>" in html
        assert checked(html) == ["spam", "rude"]
    elif kind == "single":
        assert re.findall(r'name="([^"]*)" value="(\d)" checked', html) == [
            ("overall", "4"),
            ("axis:helpful", "2"),
            ("axis:clear", "3"),
        ]
    elif kind == "ranking":
        assert re.findall(r'<option value="(\d)" selected', html) == ["2", "1", "3"]
    else:
        assert stands(html, kind)
    assert Rating.objects.get() == stored, "nothing is changed yet"
    assert not Skip.objects.exists()
    bare = {"token": fields["token"], "submission_id": sent["submission_id"], "because": ""}
    assert rater.post(url(studio, "rate/skip/"), bare).status_code == 302, "nothing to lose: on to the next"


def test_what_was_written_into_an_item_that_can_no_longer_be_changed_is_shown_to_be_copied(studio, rater, monkeypatch):
    add(studio, "pair")
    _, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
    monkeypatch.setattr("webapp.feedback.selectors.may_revise", lambda *_: False)
    answer = rater.post(url(studio, "rate/skip/"), {**fields, "because": "", "reason": "Much <i>thought</i>."})
    html = answer.content.decode()
    assert answer.status_code == 409
    assert 'id="verdict"' not in html
    assert "This was not saved; copy it if you need it." in html
    assert "“Much &lt;i&gt;thought&lt;/i&gt;.”" in html


def test_closed_where_no_words_were_written_leads_to_the_next(studio, rater, monkeypatch):
    add(studio, "rewrite")
    _, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX)
    monkeypatch.setattr("webapp.feedback.selectors.may_revise", lambda *_: False)
    sent = {**fields, "because": "", "text": "A text. " * 9, "flags": "rude"}
    assert rater.post(url(studio, "rate/skip/"), sent).status_code == 302, "the answer as it was is not written"


def test_what_was_begun_outlives_that_the_item_was_drawn_anew(studio, rater):
    add(studio, "single")
    _, fields = look(rater, studio)
    again = Presentation.objects.get(token=fields["token"])
    again.pk, again.token = None, uuid.uuid4()
    again.save()
    Slot.objects.filter(pk=again.slot_id).update(token=again.token)
    rater.post(url(studio), {**fields, "token": again.token, "choice": "5"}, headers=HTMX)
    sent = {**fields, "overall": "2", "axis:helpful": "3", "reason": "A is short.", "because": ""}
    answer = rater.post(url(studio, "rate/skip/"), sent)
    html = answer.content.decode()
    assert answer.status_code == 409
    assert re.findall(r'name="([^"]*)" value="(\d)" checked', html) == [("overall", "2"), ("axis:helpful", "3")]
    assert '<p id="reason-order">' in html


def test_a_key_that_was_used_for_another_item_costs_nothing(studio, rater):
    add(studio, "pair")
    add(studio, "rule")
    _, first = look(rater, studio)
    rater.post(url(studio), {**first, "choice": "2"}, headers=HTMX)
    _, second = look(rater, studio)
    sent = {**second, "submission_id": first["submission_id"], "choice": "1", "reason": "Written."}
    answer = rater.post(url(studio), sent)
    assert answer.status_code == 409
    assert ">Written.</textarea>" in answer.content.decode()
    assert Rating.objects.count() == 1


@pytest.mark.parametrize("kind", BEGUN)
def test_enter_presses_no_verdict_on_the_page_that_changes_one_either(studio, rater, kind):
    add(studio, kind)
    html, fields = look(rater, studio)
    default = re.compile(
        r'<button[^>]* form="verdict"[^>]*>|<button form="verdict"[^>]*>|<button[^>]*name="choice"[^>]*>'
    )
    assert "hidden" in default.search(html)[0]
    sent = {"ranking": "1,2,3", "turns": "1", "rewrite": "1", "single": "5"}.get(kind, "2")
    rater.post(url(studio), {**fields, "choice": sent}, headers=HTMX)
    page = rater.get(url(studio, "rate/undo/"), follow=True).content.decode()
    assert "hidden" in default.search(page)[0]
