"""A plain form that is refused comes back with all that was written in it, whatever was wrong, in every mode."""

import re

import pytest

from tests.studio import Studio, open_studio
from tests.web.rater_pages import HTMX, checked, field_of, look, url
from webapp.feedback.models import Presentation, Rating, Report, Skip
from webapp.projects.models import Rule

pytestmark = pytest.mark.django_db
LONG = "Ж" * 2001
REASON = "because\r\n<b>it</b> is so"


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.project.flags = ["spam", "rude"]
    studio.project.save()
    return studio


def refused(answer, *written: str) -> str:
    """The page that says no, on which each of ``written`` stands."""
    html = answer.content.decode()
    assert answer.status_code == 422
    assert 'id="verdict"' in html
    assert [piece for piece in written if piece not in html] == []
    assert not Rating.objects.exists()
    return html


def test_a_reason_that_is_too_long_is_named_and_stays(studio, rater):
    studio.add_items(pairs=2)
    _, fields = look(rater, studio)
    answer = rater.post(url(studio), {**fields, "choice": "2", "flags": ["rude", "no such"], "reason": LONG})
    html = refused(answer, "There is no flag &#x27;no such&#x27;", LONG)
    assert (checked(html), field_of(html, "token")) == (["rude"], fields["token"])
    answer = rater.post(url(studio), {**fields, "choice": "2", "reason": LONG})
    refused(answer, "2001 characters: 2000 at most", LONG)
    # 2000 characters of which a form makes more, since it sends each end of a line as two
    fits = "\r\n".join(["x" * 999, "y" * 1000])
    assert rater.post(url(studio), {**fields, "choice": "2", "reason": fits}).status_code == 302
    assert len(Rating.objects.get().reason) == 2000


def test_what_no_form_understands_keeps_what_was_written_too(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    for spoilt in ({"choice": ""}, {"submission_id": "x"}, {"active_ms": "long"}, {"choice": "9"}, {"reason": "a\0b"}):
        sent = {**fields, "choice": "2", "flags": "spam", "reason": REASON} | spoilt
        html = refused(
            rater.post(url(studio), sent), "a\ufffdb" if "reason" in spoilt else "&lt;b&gt;it&lt;/b&gt; is so"
        )
        assert checked(html) == ["spam"]
    assert rater.post(url(studio), {**fields, "token": "x", "choice": "2"}).status_code == 302, "of no item: the next"
    answer = rater.post(url(studio), {**fields, "choice": ""}, headers=HTMX)
    assert "<html" not in answer.content.decode(), "a script has kept it, and gets the fragment"


def test_places_scores_passages_and_texts_stay(studio, rater):
    studio.project.axes = ["helpful", "clear"]
    studio.project.save()
    Rule.objects.create(project=studio.project, text="It is short.")
    sent = {
        "ranking": {"choice": "ranked", "place": ["2", "", "1"], "reason": REASON},
        "single": {"choice": "scored", "overall": "4", "axis:helpful": "2", "axis:clear": "9"},
        "rule": {"choice": "2", "evidence": " ".join(f"{2 * n}-{2 * n + 1}" for n in range(21))},
        "rewrite": {"choice": "rewritten", "text": "x" * 20_001, "reason": REASON},
    }
    texts = {"ranking": ["One.", "Two.", "Three."]}
    pages = {}
    for kind, values in sent.items():
        item = studio.add_item(f"Opening of {kind}", *texts.get(kind, ["A text. " * 9]), kind=kind)
        _, fields = look(rater, studio)
        assert Presentation.objects.get(token=fields["token"]).slot.comparison == item
        pages[kind] = refused(rater.post(url(studio), {**fields, **values}))
        rater.post(url(studio, "rate/skip/"), {"token": fields["token"]})
    assert re.findall(r'<option value="(\d)" selected', pages["ranking"]) == ["2", "1"]
    assert "&lt;b&gt;it&lt;/b&gt;" in pages["ranking"]
    assert re.findall(r'name="([^"]*)" value="(\d)" checked', pages["single"]) == [
        ("overall", "4"),
        ("axis:helpful", "2"),
    ]
    assert f'name="evidence" value="{sent["rule"]["evidence"]}"' in pages["rule"]
    assert "21 passages are marked: 20 at most" in pages["rule"]
    assert 'data-most="20"' in pages["rule"]
    assert "x" * 20_001 in pages["rewrite"]
    assert "20001 characters: 20000 at most" in pages["rewrite"]


def test_a_passage_that_stands_nowhere_stays_in_its_field(studio, rater):
    Rule.objects.create(project=studio.project, text="It is short.")
    studio.add_item("Opening", "A text.", kind="rule")
    _, fields = look(rater, studio)
    answer = rater.post(url(studio), {**fields, "choice": "2", "quote": 'no "such" words'})
    refused(answer, "stands nowhere in the answer", 'name="quote"', 'value="no &quot;such&quot; words"')
    refused(rater.post(url(studio), {**fields, "choice": "2", "quote": "x" * 20_001}), "20001 characters", "x" * 20_001)


def test_words_of_a_report_that_are_too_many_stay_and_nothing_is_reported(studio, rater):
    studio.add_items(pairs=2)
    _, fields = look(rater, studio)
    words = "It names <her> " + "x" * 300
    answer = rater.post(url(studio, "rate/report/"), {"token": fields["token"], "words": words})
    html = refused(answer, "at most 300 characters (it has 315)", "It names &lt;her&gt; xxx")
    assert field_of(html, "token") == fields["token"]
    assert re.search(r'<details class="why" open', html)
    answer = rater.post(url(studio, "rate/report/"), {"token": fields["token"], "words": words}, headers=HTMX)
    assert (answer.status_code, "at most 300 characters" in answer.content.decode()) == (422, True)
    assert not Report.objects.exists()
    assert not Skip.objects.exists()
    assert field_of(html, "next") == url(studio), "a change of language leads to a page, not to where reports are sent"
    language = {"language": "de", "next": field_of(html, "next")}
    assert rater.post("/language/", language, follow=True).status_code == 200


def test_a_change_that_is_refused_stays_on_the_page_of_what_was_judged(studio, rater):
    studio.add_item("Opening", "Dull.", kind="rewrite")
    _, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "rewritten", "text": "Better."})
    address = url(studio, f"history/{fields['token']}/")
    sent = {"submission_id": fields["submission_id"][::-1], "choice": "rewritten", "text": "Best.", "reason": LONG}
    answer = rater.post(address, sent)
    html = answer.content.decode()
    assert answer.status_code == 422
    assert ">\nBest.</textarea>" in html
    assert LONG in html
    assert "You said: rewritten." in html
    assert Rating.objects.get().details == {"text": "Better."}
