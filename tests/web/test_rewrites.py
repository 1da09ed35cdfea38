"""Answers written anew: kept as demonstrations with their author and source, exact, and out of reward training."""

import re
from uuid import uuid4

import pytest
from django.test import Client

from webapp.errors import ChoiceInvalid, NotEnoughFeedback, RemarkInvalid, SubmissionConflict
from webapp.feedback.models import Rating
from webapp.feedback.modes import Extras
from webapp.feedback.selectors import demonstrations, own_item
from webapp.feedback.services import make_items, revise, submit
from webapp.projects.services import update_project
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import freeze


def rewrite(studio, project, text=" A dull film."):
    (prompt,) = studio.prompts(project, 1)
    samples = studio.samples(prompt, 1, [text])
    (item,) = make_items(project=project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: "rewrite"})
    return item


def say(rater, presentation, text="", choice="rewritten", submission_id=None, act=submit, **more):
    return act(
        rater=rater,
        project=presentation.slot.project,
        token=presentation.token,
        submission_id=submission_id or uuid4(),
        choice=choice,
        extras=Extras(text=text),
        **more,
    )


def test_a_new_text_is_a_demonstration_with_author_prompt_and_the_answer_that_it_replaces(studio):
    project = studio.ready_project()
    items = [rewrite(studio, project) for _ in range(2)]
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    rating = say(ada, presentation, " A film\r\nthat I loved.").rating
    assert say(ada, studio.shown(ada, project), choice="1").rating.verdict == 1
    (found,) = demonstrations(project)
    item = next(item for item in items if item.pk == rating.comparison_id)
    assert (found.text, found.author, found.source) == (" A film\nthat I loved.", ada.pk, "human")
    assert (found.prompt, found.prompt_text) == (item.prompt_id, item.prompt.text)
    assert (found.sample, found.sample_text, found.rating) == (item.first_id, " A dull film.", rating.pk)
    assert demonstrations(project, ["demo"]) == []
    assert own_item(ada, project, presentation.token).extras.text == found.text


def test_a_text_changed_later_is_the_demonstration_from_then_on(studio):
    project = studio.ready_project()
    rewrite(studio, project)
    ada = studio.rater(project)
    presentation, key = studio.shown(ada, project), uuid4()
    say(ada, presentation, "one", submission_id=key)
    assert say(ada, presentation, "one", submission_id=key).is_duplicate
    for other in ({"text": "two"}, {"choice": "1"}):
        with pytest.raises(SubmissionConflict):
            say(ada, presentation, **other)
    say(ada, presentation, "two", act=revise)
    assert [found.text for found in demonstrations(project)] == ["two"]
    say(ada, presentation, choice="1", act=revise)
    assert demonstrations(project) == []
    assert Rating.objects.count() == 3


@pytest.mark.parametrize(
    ("choice", "text", "error", "said"),
    [
        ("rewritten", " \r\n", RemarkInvalid, "is empty"),
        ("rewritten", "A dull film.", RemarkInvalid, "as it stood"),
        ("rewritten", "x" * 20_001, RemarkInvalid, "20001 characters: 20000 at most"),
        ("2", "text", ChoiceInvalid, "good as it is"),
    ],
)
def test_what_is_no_rewriting_is_refused_with_the_cure(studio, choice, text, error, said):
    project = studio.ready_project()
    rewrite(studio, project)
    ada = studio.rater(project)
    with pytest.raises(error, match=said):
        say(ada, studio.shown(ada, project), text, choice)
    assert Rating.objects.count() == 0


def test_rewrites_are_no_ratings_for_a_reward_model(studio):
    project = studio.ready_project()
    rewrite(studio, project)
    ada = studio.rater(project)
    say(ada, studio.shown(ada, project), "better")
    assert usable_ratings(project).total == 0
    with pytest.raises(NotEnoughFeedback):
        freeze(actor=None, project=project)
    studio.items(project, pairs=1)
    studio.rate_all(ada, project)
    assert usable_ratings(project).total == 1
    assert freeze(actor=None, project=project).counts["total"] == 1


def test_a_plain_form_writes_and_changes_and_lists_show_the_text(studio):
    project = studio.ready_project()
    update_project(actor=studio.admin, project=project, rewrite_question="Write it better.")
    rewrite(studio, project, " <b>dull</b>")
    client = Client()
    client.force_login(studio.rater(project))
    address = f"/p/{project.slug}/rate/"
    html = client.get(address).content.decode()
    assert "Write it better." in html
    assert 'name="text"' in html
    assert ">\n &lt;b&gt;dull&lt;/b&gt;</textarea>" in html, "with the space that it begins with"
    fields = {name: re.search(rf'name="{name}" value="([^"]*)"', html)[1] for name in ("token", "submission_id")}
    answer = client.post(address, {**fields, "choice": "rewritten", "text": " <b>dull</b>"}, follow=True)
    assert "as it stood" in answer.content.decode()
    assert client.post(address, {**fields, "choice": "rewritten", "text": " <i>fine</i>"}).status_code == 302
    rating = Rating.objects.get()
    assert rating.details == {"text": " <i>fine</i>"}
    admin = Client()
    admin.force_login(studio.admin)
    for page in (
        client.get(f"/p/{project.slug}/history/"),
        client.get(f"/p/{project.slug}/history/{fields['token']}/"),
        admin.get(f"/p/{project.slug}/ratings/"),
        admin.get(f"/p/{project.slug}/ratings/{rating.pk}/"),
    ):
        assert "&lt;i&gt;fine&lt;/i&gt;" in page.content.decode()
