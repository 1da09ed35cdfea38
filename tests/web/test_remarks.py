"""Flags and a reason beside a verdict of any mode: stored with it, told again, exact, never in the way."""

import re
from uuid import uuid4

import pytest

from tests.studio import enter, fields_of, values_of
from webapp.errors import RemarkInvalid, SettingsRefused, SubmissionConflict
from webapp.feedback.models import Presentation, Rating
from webapp.feedback.modes import Extras
from webapp.feedback.selectors import own_item
from webapp.feedback.services import revise, submit
from webapp.projects.services import update_project

FLAGS = ["spam", "personal data", "harmful"]


@pytest.fixture
def flagged(studio):
    project = studio.ready_project()
    return update_project(actor=studio.admin, project=project, flags=FLAGS)


def test_flags_and_a_reason_are_kept_with_the_verdict_and_told_again(studio, flagged):
    studio.items(flagged, pairs=1)
    ada = studio.rater(flagged)
    presentation = studio.shown(ada, flagged)
    rating = studio.say(ada, presentation, "2", Extras(("harmful", "spam"), "  It sells\r\nsomething.\0 ")).rating
    assert (rating.flags, rating.reason) == (["spam", "harmful"], "It sells\nsomething.\ufffd")
    entry = own_item(ada, flagged, presentation.token)
    assert entry.extras == Extras(("spam", "harmful"), "It sells\nsomething.\ufffd")


def test_the_same_verdict_with_another_remark_is_another_verdict(studio, flagged):
    studio.items(flagged, singles=1)
    ada = studio.rater(flagged)
    presentation, key = studio.shown(ada, flagged), uuid4()
    said = Extras(("spam",), "why")
    first = studio.say(ada, presentation, "2", said, submission_id=key)
    assert studio.say(ada, presentation, "2", said, submission_id=key).is_duplicate
    for other in (Extras(), Extras(("spam",)), Extras(("spam", "harmful"), "why"), Extras(("spam",), "Why")):
        with pytest.raises(SubmissionConflict):
            studio.say(ada, presentation, "2", other, submission_id=key)
    changed = studio.say(ada, presentation, "2", Extras(("harmful",), ""), act=revise).rating
    assert (changed.revision, changed.verdict, changed.flags) == (2, first.rating.verdict, ["harmful"])
    first.rating.refresh_from_db()
    assert (first.rating.flags, first.rating.is_current) == (["spam"], False)


def test_a_verdict_that_was_stored_is_not_refused_when_it_comes_again_after_its_flag_was_taken_away(studio, flagged):
    studio.items(flagged, pairs=2)
    ada = studio.rater(flagged)
    presentation, key, said = studio.shown(ada, flagged), uuid4(), Extras(("spam",), "why")
    stored = studio.say(ada, presentation, "2", said, submission_id=key).rating
    update_project(actor=studio.admin, project=flagged, flags=["harmful"])
    for act in (submit, revise):
        again = studio.say(ada, Presentation.objects.get(), "2", said, act=act, submission_id=key)
        assert (again.rating, again.is_duplicate) == (stored, True)
    with pytest.raises(RemarkInvalid):
        studio.say(ada, Presentation.objects.get(), "2", said)
    other = studio.shown(ada, flagged)
    with pytest.raises(RemarkInvalid):
        studio.say(ada, other, "2", said, submission_id=key)
    assert Rating.objects.count() == 1


def test_a_flag_that_was_given_stays_when_the_verdict_is_changed_after_the_project_has_dropped_it(studio, flagged):
    studio.items(flagged, pairs=1)
    ada = studio.rater(flagged)
    presentation = studio.shown(ada, flagged)
    studio.say(ada, presentation, "2", Extras(("spam", "harmful")))
    update_project(actor=studio.admin, project=flagged, flags=["harmful", "rude"])
    client, address = enter(ada), f"/p/{flagged.slug}/history/{presentation.token}/"
    html = client.get(address).content.decode()
    assert re.findall(r'value="([^"]*)" data-flag="(\d)"( checked)?', html) == [
        ("harmful", "1", " checked"),
        ("rude", "2", ""),
        ("spam", "3", " checked"),
    ]
    presentation = Presentation.objects.get()
    same = studio.say(ada, presentation, "2", Extras(("harmful", "spam")), act=revise)
    assert same.is_duplicate, "the order is no part of what was said"
    fields = {"submission_id": fields_of(html)["submission_id"], "choice": "5", "flags": ["harmful", "rude", "spam"]}
    assert client.post(address, fields).status_code == 302
    assert Rating.objects.get(revision=2).flags == ["harmful", "rude", "spam"]
    studio.say(ada, presentation, "5", Extras(("rude",)), act=revise)
    with pytest.raises(RemarkInvalid, match="no flag 'spam' here"):  # taken off, it is gone
        studio.say(ada, presentation, "5", Extras(("rude", "spam")), act=revise)


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        (Extras(("rude",)), "no flag 'rude' here \\(spam, personal data, harmful\\)"),
        (Extras(reason="x" * 2001), "2001 characters: 2000 at most"),
    ],
)
def test_what_cannot_be_kept_is_named_and_nothing_is_stored(studio, flagged, extras, said):
    studio.items(flagged, pairs=1)
    ada = studio.rater(flagged)
    with pytest.raises(RemarkInvalid, match=said):
        studio.say(ada, studio.shown(ada, flagged), "2", extras)
    assert Rating.objects.count() == 0


def test_a_flag_without_words_or_too_long_is_no_setting(studio, flagged):
    for flags in ([""], ["x" * 41], [str(n) for n in range(10)]):
        with pytest.raises(SettingsRefused, match="flags"):
            update_project(actor=studio.admin, project=flagged, flags=flags)


# --- Pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pairs", "singles"])
def test_a_plain_form_sends_them_and_every_list_shows_them(studio, flagged, kind):
    studio.items(flagged, **{kind: 1})
    ada = studio.rater(flagged)
    client, address = enter(ada), f"/p/{flagged.slug}/rate/"
    html = client.get(address).content.decode()
    assert re.findall(r'name="flags" value="([^"]*)"', html) == FLAGS
    fields = fields_of(html)
    answer = client.post(
        address, {**fields, "choice": "3", "flags": ["spam", "harmful"], "reason": "<b>bold</b> of them"}
    )
    assert answer.status_code == 302
    rating = Rating.objects.get()
    assert (rating.flags, rating.reason) == (["spam", "harmful"], "<b>bold</b> of them")
    admin = enter(studio.admin)
    pages = [
        client.get(f"/p/{flagged.slug}/history/"),
        admin.get(f"/p/{flagged.slug}/ratings/"),
        admin.get(f"/p/{flagged.slug}/ratings/{rating.pk}/"),
    ]
    for page in pages:
        html = page.content.decode()
        assert "&lt;b&gt;bold&lt;/b&gt; of them" in html
        assert "harmful" in html
        assert "personal data" not in html
    html = client.get(f"/p/{flagged.slug}/history/{fields['token']}/").content.decode()
    assert re.findall(r'value="([^"]*)" data-flag="\d" checked', html) == ["spam", "harmful"]
    assert ">&lt;b&gt;bold&lt;/b&gt; of them</textarea>" in html


def test_a_project_without_flags_has_no_button_for_them(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    html = enter(studio.rater(project)).get(f"/p/{project.slug}/rate/").content.decode()
    assert 'id="flags"' not in html
    assert 'name="reason"' in html


def test_an_admin_writes_flags_one_a_line(studio):
    project = studio.ready_project()
    admin, address = enter(studio.admin), f"/p/{project.slug}/settings/modes/"
    values = values_of(admin.get(address).content.decode())
    assert admin.post(address, values | {"flags": " spam \r\n\r\nwrong language\r\n"}).status_code == 302
    project.refresh_from_db()
    assert project.flags == ["spam", "wrong language"]
    assert ">spam\nwrong language</textarea>" in re.sub(r">\s+spam", ">spam", admin.get(address).content.decode())
    for flags, said in (
        ("a\na", "stands there twice"),
        ("x" * 41, "41 characters: 40 at most"),
        ("1\n2\n3\n4\n5\n6\n7\n8\n9\n10", "10 lines: 9 at most"),
    ):
        answer = admin.post(address, values | {"flags": flags})
        assert (answer.status_code, said in answer.content.decode()) == (422, True)
