"""Named axes of a single answer: beside the overall score, which alone is learned from; each may be left out."""

import json
import re
from uuid import uuid4

import pytest
from django.urls import reverse

from rlhf_core.records import ScoredResponse
from tests.studio import enter, fields_of
from webapp.errors import ChoiceInvalid, RemarkInvalid, SettingsRefused, SubmissionConflict
from webapp.feedback.exports import rating_lines
from webapp.feedback.models import Rating
from webapp.feedback.modes import Extras, verdict_in_words
from webapp.feedback.selectors import own_item
from webapp.feedback.services import revise
from webapp.projects.services import update_project
from webapp.quality.services import feedback_records, freeze

AXES = ["helpful", "truthful"]


@pytest.fixture
def scaled(studio):
    return update_project(actor=studio.admin, project=studio.ready_project(), axes=AXES)


def test_scores_are_kept_by_name_and_the_overall_score_is_learned_from(studio, scaled):
    studio.items(scaled, singles=1)
    ada = studio.rater(scaled)
    presentation = studio.shown(ada, scaled)
    rating = studio.say(ada, presentation, "4", Extras(scores={"truthful": "1", "helpful": "5"})).rating
    assert (rating.verdict, rating.details) == (4, {"axes": {"helpful": 5, "truthful": 1}})
    assert verdict_in_words(rating) == "4 of 5, helpful 5, truthful 1"
    assert own_item(ada, scaled, presentation.token).extras.scores == {"helpful": 5, "truthful": 1}
    (record,) = feedback_records(freeze(actor=None, project=scaled))
    assert isinstance(record, ScoredResponse)
    assert (record.score, record.weight) == (4, 1.0)


def test_an_axis_may_be_left_out_and_another_score_is_another_verdict(studio, scaled):
    studio.items(scaled, singles=1)
    ada = studio.rater(scaled)
    presentation, key, scored = studio.shown(ada, scaled), uuid4(), Extras(scores={"helpful": "3"})
    assert studio.say(ada, presentation, "4", scored, submission_id=key).rating.details == {"axes": {"helpful": 3}}
    assert studio.say(ada, presentation, "4", Extras(scores={"helpful": 3}), submission_id=key).is_duplicate
    for scores in ({}, {"helpful": "4"}, {"helpful": "3", "truthful": "3"}):
        with pytest.raises(SubmissionConflict):
            studio.say(ada, presentation, "4", Extras(scores=scores))
    assert studio.say(ada, presentation, "4", act=revise).rating.details == {}


def test_what_is_no_score_or_no_axis_is_named(studio, scaled):
    studio.items(scaled, singles=1)
    ada = studio.rater(scaled)
    presentation = studio.shown(ada, scaled)
    for scores, said in (
        ({"kind": "3"}, "no axis 'kind' here \\(helpful, truthful\\)"),
        ({"helpful": "6"}, "score of 'helpful' is '6'"),
        ({"helpful": ""}, "score of 'helpful' is ''"),
    ):
        with pytest.raises(RemarkInvalid, match=said):
            studio.say(ada, presentation, "4", Extras(scores=scores))
    with pytest.raises(ChoiceInvalid):
        studio.say(ada, presentation, "", Extras(scores={"helpful": "3"}))
    assert Rating.objects.count() == 0
    with pytest.raises(SettingsRefused, match="axes"):
        update_project(actor=studio.admin, project=scaled, axes=list("abcdef"))


def test_a_plain_form_has_a_scale_for_each_and_shows_what_was_said(studio, scaled):
    studio.items(scaled, singles=1)
    client = enter(studio.rater(scaled))
    address = f"/p/{scaled.slug}/rate/"
    html = client.get(address).content.decode()
    assert re.findall(r"<legend>([^<]*)<", html) == ["Overall", "helpful", "truthful"]
    fields = fields_of(html)
    answer = client.post(address, {**fields, "choice": "scored", "axis:helpful": "2"}, follow=True)
    assert "1 to 5" in answer.content.decode()
    sent = {**fields, "choice": "scored", "overall": "5", "axis:helpful": "2", "axis:truthful": "4"}
    assert client.post(address, sent).status_code == 302
    assert Rating.objects.get().details == {"axes": {"helpful": 2, "truthful": 4}}
    html = client.get(f"/p/{scaled.slug}/history/{fields['token']}/").content.decode()
    found = re.findall(r'name="([^"]*)" value="(\d)" checked', html)
    assert found == [("overall", "5"), ("axis:helpful", "2"), ("axis:truthful", "4")]
    assert "helpful 2" in client.get(f"/p/{scaled.slug}/history/").content.decode()


def test_pairs_of_a_project_with_axes_are_rated_as_ever(studio, scaled):
    studio.items(scaled, pairs=1)
    ada = studio.rater(scaled)
    html = enter(ada).get(f"/p/{scaled.slug}/rate/").content.decode()
    assert "<legend>" not in html
    assert re.findall(r'name="choice" value="(\d)"', html) == list("12345670")


def test_lists_name_the_axes_in_the_order_of_the_project_and_then_those_that_it_has_given_up(studio):
    axes = ["truthful", "kind", "helpful"]  # a database would name them kind, helpful, truthful
    project = update_project(actor=studio.admin, project=studio.ready_project(), axes=axes)
    studio.items(project, singles=1)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    said = Extras(scores={"helpful": "3", "kind": "2", "truthful": "1"})
    rating = studio.say(ada, presentation, "4", said).rating
    own, admin = enter(ada), enter(studio.admin)
    pages = [
        (own, f"/p/{project.slug}/history/"),
        (own, f"/p/{project.slug}/history/{presentation.token}/"),
        (admin, f"/p/{project.slug}/ratings/"),
        (admin, reverse("runs:rating", args=[project.slug, rating.pk])),
    ]
    for client, address in pages:
        assert ", truthful 1, kind 2, helpful 3" in client.get(address).content.decode(), address
    (line,) = (json.loads(line) for line in rating_lines(project))
    assert line["words"] == "4 of 5, truthful 1, kind 2, helpful 3"
    project = update_project(actor=studio.admin, project=project, axes=["helpful", "truthful"])
    assert ", helpful 3, truthful 1, kind 2" in own.get(pages[0][1]).content.decode()
