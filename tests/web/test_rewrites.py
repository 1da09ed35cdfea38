"""Answers written anew: kept as demonstrations with their author and source, exact, and out of reward training."""

from uuid import uuid4

import pytest

from tests.studio import enter, fields_of
from webapp.errors import ChoiceInvalid, NotEnoughFeedback, RemarkInvalid, SubmissionConflict
from webapp.feedback.models import Rating, Skip
from webapp.feedback.modes import Extras
from webapp.feedback.selectors import demonstrations, own_item
from webapp.feedback.services import revise
from webapp.projects.services import update_project
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import freeze


def rewrite(studio, project, text=" A dull film."):
    return studio.ask(project, "rewrite", text)


def test_a_new_text_is_a_demonstration_with_author_prompt_and_the_answer_that_it_replaces(studio):
    project = studio.ready_project()
    items = [rewrite(studio, project) for _ in range(2)]
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    rating = studio.say(ada, presentation, "rewritten", Extras(text=" A film\r\nthat I loved.")).rating
    assert studio.say(ada, studio.shown(ada, project), "1").rating.verdict == 1
    (found,) = demonstrations(project)
    item = next(item for item in items if item.pk == rating.comparison_id)
    assert (found.text, found.author, found.source) == (" A film\nthat I loved.", ada.pk, "human")
    assert (found.prompt, found.prompt_text) == (item.prompt_id, item.prompt.text)
    assert (found.sample, found.sample_text, found.rating) == (item.first_id, " A dull film.", rating.pk)
    assert demonstrations(project, ["demo"]) == []
    assert own_item(ada, project, presentation.token).extras.text == found.text


def test_a_text_that_was_begun_before_the_answer_was_called_good_is_kept_as_a_draft_and_no_demonstration(studio):
    project = studio.ready_project()
    rewrite(studio, project)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    rating = studio.say(ada, presentation, "1", Extras(text=" A film\r\nthat")).rating
    assert (rating.verdict, rating.details) == (1, {"draft": " A film\nthat"})
    assert demonstrations(project) == []
    entry = own_item(ada, project, presentation.token)
    assert (entry.choice, entry.extras.text) == ("1", " A film\nthat")
    client, address = enter(ada), f"/p/{project.slug}/history/"
    assert "what you wrote is kept as a draft" in client.get(address).content.decode()
    html = client.get(f"{address}{presentation.token}/").content.decode()
    assert ">\n A film\nthat</textarea>" in html
    saved = studio.say(ada, presentation, "rewritten", Extras(text=entry.extras.text), act=revise).rating
    assert saved.details == {"text": " A film\nthat"}
    for untouched in (" A dull film.", "", "A dull film. "):
        assert studio.say(ada, presentation, "1", Extras(text=untouched), act=revise).rating.details == {}
    with pytest.raises(RemarkInvalid, match="20001 characters: 20000 at most"):
        studio.say(ada, presentation, "1", Extras(text="x" * 20_001), act=revise)


def test_an_answer_longer_than_a_new_text_may_be_can_be_called_good(studio):
    project = studio.ready_project()
    answer = "x" * 20_001
    rewrite(studio, project, answer)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    saved = studio.say(ada, presentation, "1", Extras(text=answer)).rating  # as a page sends it: it stands in the form
    assert (saved.verdict, saved.details) == (1, {})
    with pytest.raises(RemarkInvalid, match="20002 characters: 20000 at most"):
        studio.say(ada, presentation, "1", Extras(text=answer + "y"), act=revise)


def test_a_text_changed_later_is_the_demonstration_from_then_on(studio):
    project = studio.ready_project()
    rewrite(studio, project)
    ada = studio.rater(project)
    presentation, key = studio.shown(ada, project), uuid4()
    studio.say(ada, presentation, "rewritten", Extras(text="one"), submission_id=key)
    assert studio.say(ada, presentation, "rewritten", Extras(text="one"), submission_id=key).is_duplicate
    for choice, text in (("rewritten", "two"), ("1", "")):
        with pytest.raises(SubmissionConflict):
            studio.say(ada, presentation, choice, Extras(text=text))
    studio.say(ada, presentation, "rewritten", Extras(text="two"), act=revise)
    assert [found.text for found in demonstrations(project)] == ["two"]
    studio.say(ada, presentation, "1", act=revise)
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
        studio.say(ada, studio.shown(ada, project), choice, Extras(text=text))
    assert Rating.objects.count() == 0


def test_rewrites_are_no_ratings_for_a_reward_model(studio):
    project = studio.ready_project()
    rewrite(studio, project)
    ada = studio.rater(project)
    studio.say(ada, studio.shown(ada, project), "rewritten", Extras(text="better"))
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
    client = enter(studio.rater(project))
    address = f"/p/{project.slug}/rate/"
    html = client.get(address).content.decode()
    assert "Write it better." in html
    assert 'name="text"' in html
    assert ">\n &lt;b&gt;dull&lt;/b&gt;</textarea>" in html, "with the space that it begins with"
    fields = fields_of(html)
    answer = client.post(address, {**fields, "choice": "rewritten", "text": " <b>dull</b>"}, follow=True)
    assert "as it stood" in answer.content.decode()
    assert client.post(address, {**fields, "choice": "rewritten", "text": " <i>fine</i>"}).status_code == 302
    rating = Rating.objects.get()
    assert rating.details == {"text": " <i>fine</i>"}
    admin = enter(studio.admin)
    for page in (
        client.get(f"/p/{project.slug}/history/"),
        client.get(f"/p/{project.slug}/history/{fields['token']}/"),
        admin.get(f"/p/{project.slug}/ratings/"),
        admin.get(f"/p/{project.slug}/ratings/{rating.pk}/"),
    ):
        assert "&lt;i&gt;fine&lt;/i&gt;" in page.content.decode()


def test_a_plain_form_that_skips_keeps_what_was_begun_until_it_is_undone(studio):
    project = update_project(actor=studio.admin, project=studio.ready_project(), flags=["spam"])
    for number in range(5):
        rewrite(studio, project, f" Dull film {number}.")
    ada = studio.rater(project)
    client, rate = enter(ada), f"/p/{project.slug}/rate/"
    tokens = []
    for number in range(5):
        page = client.get(rate)
        text = page.context["item"].answers[0] if number == 0 else f" Begun {number}\r\n"
        fields = fields_of(page.content.decode())
        tokens.append(fields["token"])
        begun = {"text": text, "reason": "" if number == 0 else "So far.", "flags": ["spam", "no such"][: 2 * number]}
        because = "language" if number == 4 else ""
        answer = client.post(f"{rate}skip/", {**fields, "because": because, **begun}, follow=True)
        said = "What you wrote is kept: undo brings it back." in answer.content.decode()
        assert said == (number > 0), "an answer that stands as it came is no draft"
    assert list(Skip.objects.order_by("id").values_list("reason", flat=True)) == ["", "", "", "", "language"]
    assert not Rating.objects.exists()
    undone = client.get(f"{rate}undo/", follow=True).content.decode()
    assert ">\n Begun 4\n</textarea>" in undone
    assert ">So far.</textarea>" in undone
    assert 'value="spam" data-flag="1" checked' in undone
    pages = [client.get(f"/p/{project.slug}/history/{token}/").content.decode() for token in tokens]
    assert [f" Begun {n}\n" in page for n, page in enumerate(pages)] == [False, False, True, True, True], (
        "the last three"
    )
    here = f"/p/{project.slug}/history/{tokens[-1]}/"
    client.post(here, {**fields_of(undone), "choice": "rewritten", "text": " Begun, and done."})
    assert Rating.objects.get().details == {"text": " Begun, and done."}
    assert "Begun 4" not in client.get(here).content.decode()
    refused = client.post(f"{rate}skip/", {**fields, "because": "no such", "text": " Not lost.", "reason": "So far."})
    assert refused.status_code == 422
    assert ">\n Not lost.</textarea>" in refused.content.decode()
    assert ">So far.</textarea>" in refused.content.decode()
    assert client.post(f"{rate}skip/", {"token": tokens[0], "because": "no such"}).status_code == 422
    assert client.post(f"{rate}skip/", {"token": str(uuid4()), "because": ""}).status_code == 404
