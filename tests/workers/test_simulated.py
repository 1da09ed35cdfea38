"""Simulated raters: their taste, their doubts, and that they are never taken for people."""

import random
import uuid

import pytest

from tests.studio import open_studio
from webapp.accounts.models import User
from webapp.accounts.services import hash_password
from webapp.errors import NameRefused
from webapp.feedback.models import Rating, Skip
from webapp.feedback.selectors import ShownItem
from webapp.projects.models import Membership
from webapp.quality.selectors import usable_ratings
from webapp.runs.services import ask_for_simulated_ratings
from workers import simulated
from workers.refilling import refill
from workers.simulated import RATERS, SimulatedRater, give_ratings, worth
from workers.tasks import simulate_all, simulate_ratings


def item(left: str, right: str | None) -> ShownItem:
    texts = (left,) if right is None else (left, right)
    return ShownItem("pair" if right is not None else "single", "?", "Prompt", "p", texts, uuid.uuid4(), None)


def test_kind_words_are_worth_more_and_a_denial_turns_them_round_by_half():
    assert worth("") == 0
    assert worth("A wonderful film") > worth("A film") > worth("A dull film")
    # by hand, before the curve: 2 (wonderful); -0.5 * 2; the denial reaches three words
    curve = lambda total: 4 * simulated.math.tanh(total / 4)  # noqa: E731
    assert worth("Wonderful") == pytest.approx(curve(2.0))
    assert worth("not a wonderful film") == pytest.approx(curve(-1.0))
    assert worth("isn\u2019t that so, yes, wonderful") == pytest.approx(curve(2.0))
    assert -4 <= worth("awful " * 100) < worth("awful") < worth("great") < worth("great " * 100) <= 4


def test_no_word_is_both_kind_and_unkind():
    assert not set(simulated.PRAISE) & set(simulated.BLAME)


def test_a_pair_is_decided_as_bradley_and_terry_have_it():
    rater = SimulatedRater(User(), 1.0, random.Random(0))
    difference = worth("A wonderful film") - worth("A film")
    keys = [int(rater.choose(item("A wonderful film", "A film"))) for _ in range(4000)]
    # without ties the left one wins with probability 1 / (1 + exp(-difference)) = 0.865
    beyond = 0.25  # the half-width of a tie: P(win) = 1 / (1 + exp(-(difference - beyond)))
    expected = 1 / (1 + simulated.math.exp(beyond - difference))
    assert sum(key < 4 for key in keys) / 4000 == pytest.approx(expected, abs=0.02)
    turned = [int(rater.choose(item("A film", "A wonderful film"))) for _ in range(4000)]
    assert sum(key > 4 for key in turned) / 4000 == pytest.approx(expected, abs=0.02)


def test_two_awful_answers_are_sometimes_both_bad_and_a_single_one_gets_a_low_score():
    rater = SimulatedRater(User(), 2.0, random.Random(0))
    awful = "An awful, terrible, boring waste"
    keys = [rater.choose(item(awful, awful)) for _ in range(200)]
    assert 50 < keys.count("0") < 150
    scores = [int(rater.choose(item(awful, None))) for _ in range(200)]
    assert set(scores) <= {1, 2, 3}
    kind = [int(rater.choose(item("A wonderful, superb masterpiece", None))) for _ in range(200)]
    assert set(kind) <= {3, 4, 5}


def test_ratings_are_given_drive_the_sampler_and_are_marked_as_simulated(
    project, start_sampler, steersman_data, monkeypatch
):
    _, client = start_sampler(steersman_data / "checkpoints")
    monkeypatch.setattr("workers.simulated.refill", lambda project_id: refill(project_id, client))
    assert give_ratings(project.pk, 30, seconds=60) == 30  # more than the queue holds at once
    assert Rating.objects.count() == 30
    assert set(Rating.objects.values_list("source", flat=True)) == {"simulated"}
    assert set(Rating.objects.values_list("rater__is_simulated", flat=True)) == {True}
    assert {rating.comparison.kind for rating in Rating.objects.all()} == {"pair", "single"}
    assert usable_ratings(project).simulated == 30
    assert usable_ratings(project, ["human"]).total == 0
    assert Membership.objects.filter(project=project, user__is_simulated=True).count() == len(RATERS)
    assert not any(user.has_usable_password() for user in User.objects.filter(is_simulated=True))


def test_as_many_are_given_as_were_asked_for_however_often_and_after_whatever_kill(
    project, start_sampler, steersman_data, monkeypatch
):
    _, client = start_sampler(steersman_data / "checkpoints")
    monkeypatch.setattr("workers.simulated.refill", lambda project_id: refill(project_id, client))
    simulate_ratings(str(project.pk))
    assert Rating.objects.count() == 0, "nobody has asked"
    assert ask_for_simulated_ratings(actor=None, project=project, count=15)
    assert not ask_for_simulated_ratings(actor=None, project=project, count=15)
    give_ratings(project.pk, 6, seconds=60)  # and there the worker is killed
    assert not ask_for_simulated_ratings(actor=None, project=project, count=15)
    simulate_all()
    for _ in range(2):  # a message that comes twice
        simulate_ratings(str(project.pk))
    assert Rating.objects.filter(source="simulated").count() == 15
    assert ask_for_simulated_ratings(actor=None, project=project, count=2)
    simulate_all()
    assert Rating.objects.filter(source="simulated").count() == 17


def test_the_names_of_simulated_raters_cannot_be_taken():
    for name in ("simulated-1", "Simulated-7"):
        with pytest.raises(NameRefused, match="simulated raters"):
            hash_password(username=name, password="a few words in a row")


def test_where_nothing_can_be_rated_they_stop(project, steersman_data, monkeypatch):
    monkeypatch.setattr("workers.simulated.refill", lambda project_id: 0)
    assert give_ratings(project.pk, 5, seconds=60) == 0


def test_a_person_of_that_name_is_not_made_a_simulated_rater(project):
    User.objects.create(username="simulated-1")
    with pytest.raises(ValueError, match="belongs to a person"):
        give_ratings(project.pk, 1, seconds=1)


def test_several_answers_are_ranked_as_plackett_and_luce_have_it():
    """The better of two stands above the other with probability 1 / (1 + exp(-difference)), whatever else is ranked."""
    rater = SimulatedRater(User(), 1.0, random.Random(0))
    answers = ("A film", "A wonderful film", "A dull film")
    shown = ShownItem("ranking", "?", "Prompt", "p", answers, uuid.uuid4(), None)
    found = [rater.choose(shown).split(",") for _ in range(4000)]
    assert all(sorted(places) == ["1", "2", "3"] for places in found)
    for better, worse in ((1, 0), (0, 2), (1, 2)):
        difference = worth(answers[better]) - worth(answers[worse])
        share = sum(places[better] < places[worse] for places in found) / 4000
        assert share == pytest.approx(1 / (1 + simulated.math.exp(-difference)), abs=0.03)


@pytest.mark.django_db
def test_what_takes_more_than_a_taste_is_passed_by_for_others():
    studio = open_studio()
    for n in range(2):
        studio.add_item(f"Opening {n}", "A film.", kind="rewrite")
    studio.add_item("Opening", "A wonderful film.", "A dull film.")
    user = User.objects.create(username="simulated-9", is_simulated=True)
    rater = SimulatedRater(user, 2.0, random.Random(0))
    assert simulated.rate_one(rater, studio.project)
    assert not simulated.rate_one(rater, studio.project)
    assert list(Rating.objects.values_list("comparison__kind", "source")) == [("pair", "simulated")]
    assert list(Skip.objects.values_list("comparison__kind", "reason")) == [("rewrite", "expertise")] * 2
