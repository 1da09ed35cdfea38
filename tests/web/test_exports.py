"""The download of ratings: a line of JSON for each revision of every mode, raters by pseudonym, in constant queries."""

import json

from tests.studio import enter
from webapp.feedback.exports import rating_lines
from webapp.feedback.modes import Extras
from webapp.feedback.services import revise, submit
from webapp.projects.services import update_modes

SAID = {
    "pair": ("2", Extras(("spam",), "because")),
    "single": ("4", Extras(scores={"helpful": "5"})),
    "ranking": ("3,1,2", Extras()),
    "rule": ("2", Extras(evidence=("0-6",))),
    "rewrite": ("rewritten", Extras(text="anew")),
}
ANSWERS = {"pair": 2, "ranking": 3}


def rated(studio):
    settings = {"flags": ["spam"], "axes": ["helpful"], "rules": ["It is short."]}
    project = update_modes(actor=studio.admin, project=studio.ready_project(), **settings)
    for kind in SAID:
        studio.ask(project, kind, *(f"answer {n}" for n in range(ANSWERS.get(kind, 1))))
    ada = studio.rater(project)
    return project, ada, [rate(studio, studio.shown(ada, project)) for _ in SAID]


def rate(studio, presentation, act=submit, choice=None):
    pressed, extras = SAID[presentation.slot.comparison.kind]
    return studio.say(presentation.rater, presentation, choice or pressed, extras, act=act).rating


def test_a_line_holds_all_that_was_said_and_of_what(studio):
    project, ada, ratings = rated(studio)
    again = rate(studio, ratings[0].presentation, revise, choice="6")
    lines = [json.loads(line) for line in rating_lines(project)]
    assert [line["rating"] for line in lines] == [str(rating.pk) for rating in (*ratings, again)]
    assert [(line["revision"], line["is_current"]) for line in (lines[0], lines[-1])] == [(1, False), (2, True)]
    by_mode = {line["mode"]: line for line in lines}
    assert set(by_mode) == set(SAID)
    assert (by_mode["pair"]["flags"], by_mode["pair"]["reason"]) == (["spam"], "because")
    assert by_mode["single"]["details"] == {"axes": {"helpful": 5}}
    assert by_mode["rewrite"]["details"] == {"text": "anew"}
    assert (by_mode["rule"]["rule"], by_mode["rule"]["details"]["evidence"]) == ("It is short.", [[0, 6]])
    ranking = by_mode["ranking"]
    shown = [ranking["answers"][index]["sample"] for index in ranking["shown_order"]]
    assert [ranking["details"]["places"][sample] for sample in shown] == [3, 1, 2]
    pair = by_mode["pair"]
    left, right = (pair["answers"][index]["sample"] for index in pair["shown_order"])
    assert (pair["verdict"] < 0) == (left < right), (
        "6: the right one is better; samples stand in the order of their ids"
    )
    assert len({line["rater"] for line in lines}) == 1
    assert ada.username not in json.dumps(lines)
    assert str(ada.pk) not in json.dumps(lines)


def test_the_download_is_for_admins_and_costs_few_queries(studio, django_assert_max_num_queries):
    project, ada, _ = rated(studio)
    assert enter(ada).get(f"/p/{project.slug}/ratings.jsonl").status_code == 404
    client = enter(studio.admin)
    answer = client.get(f"/p/{project.slug}/ratings.jsonl")
    assert answer["Content-Disposition"] == f'attachment; filename="{project.slug}-ratings.jsonl"'
    assert len(answer.content.splitlines()) == 5
    assert "ratings.jsonl" in client.get(f"/p/{project.slug}/ratings/").content.decode()
    with django_assert_max_num_queries(2):
        assert len(list(rating_lines(project))) == 5
