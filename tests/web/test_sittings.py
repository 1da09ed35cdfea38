"""What a pause shows of the sitting: how many, how long, which verdicts."""

from uuid import uuid4

import pytest
from django.db import connection

from tests.studio import open_studio
from tests.web.rater_pages import HTMX, enter, look, url
from webapp.feedback.models import Rating
from webapp.feedback.services import claim, submit
from webapp.feedback.sittings import Sitting, last_sitting, words_for

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio():
    return open_studio()


def judge(studio, choice, active_ms):
    user, project = studio.raters["ada"], studio.project
    presentation = claim(rater=user, project=project)
    submit(
        rater=user,
        project=project,
        token=presentation.token,
        submission_id=uuid4(),
        choice=choice,
        active_ms=active_ms,
    )


def make_older(rating: Rating, minutes: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger fires
        cursor.execute(
            "UPDATE feedback_rating SET created_at = created_at - make_interval(mins => %s) WHERE id = %s",
            [minutes, rating.pk],
        )
        cursor.execute("SET LOCAL session_replication_role = origin")


def test_a_sitting_counts_verdicts_time_and_skips_since_the_last_long_break(studio):
    rater = enter(studio, "ada")
    user, project = studio.raters["ada"], studio.project
    assert last_sitting(user, project) == Sitting(0, 0, 0.0, [])
    studio.add_items(pairs=7)
    for choice, active_ms in (("1", 4000), ("7", 8000), ("6", 30_000), ("0", None), ("4", 18_000)):
        judge(studio, choice, active_ms)
    first = Rating.objects.earliest("id")
    make_older(first, minutes=31)  # another sitting
    _, fields = look(rater, studio)
    rater.post(url(studio, "rate/skip/"), {"token": fields["token"]}, headers=HTMX)
    found = last_sitting(user, project)
    assert (found.count, found.skipped, found.active_seconds) == (4, 1, 56.0)
    assert found.verdicts == [("equal", 1), ("B better", 2), ("both bad", 1)]
    assert found.seconds_each == 14.0
    _, fields = look(rater, studio)
    rater.post(url(studio, "rate/report/"), {"token": fields["token"]}, headers=HTMX)
    found = last_sitting(user, project)
    assert (found.skipped, found.reported) == (1, 1)
    page = rater.post(url(studio, "rate/pause/"), headers=HTMX).content.decode()
    assert "<dt>Reported</dt><dd>1</dd>" in page


@pytest.mark.parametrize(
    ("kind", "verdict", "both_bad", "first_is_left", "words"),
    [
        ("pair", 3, False, True, "A better"),
        ("pair", 1, False, False, "B better"),
        ("pair", -2, False, True, "B better"),
        ("pair", -2, False, False, "A better"),
        ("pair", 0, False, True, "equal"),
        ("pair", 0, True, False, "both bad"),
        ("single", 1, False, True, "bad"),
        ("single", 5, False, True, "excellent"),
        ("ranking", 0, False, True, "ranking"),
    ],
)
def test_a_verdict_is_told_without_its_strength(kind, verdict, both_bad, first_is_left, words):
    assert words_for(kind=kind, verdict=verdict, both_bad=both_bad, first_is_left=first_is_left) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (3900, "1 h 5 min")]
)
def test_a_time_is_told_as_one_says_it(seconds, words):
    assert Sitting(1, 0, seconds, []).time == words


def test_a_pause_shows_the_sitting_with_and_without_javascript(studio):
    rater = enter(studio, "ada")
    studio.add_items(pairs=2)
    judge(studio, "2", 5000)
    for html in (
        rater.post(url(studio, "rate/pause/"), headers=HTMX).content.decode(),
        rater.post(url(studio, "rate/pause/"), follow=True).content.decode(),
    ):
        assert "<dt>Rated</dt><dd>1</dd>" in html
        assert "<dt>A better</dt><dd>1</dd>" in html
        assert "5.0 s" in html
