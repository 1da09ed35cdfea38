"""Datasets: frozen, hashed over the bytes that a run reads, the same for the same ratings."""

import hashlib
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from rlhf_core.records import Comparison, ScoredResponse, read_feedback, write_feedback
from webapp.errors import NotEnoughFeedback
from webapp.feedback.services import revise, submit
from webapp.quality.models import Dataset, DatasetItem
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import dataset_bytes, feedback_records, freeze


def test_the_hash_of_a_dataset_is_that_of_the_bytes_a_run_reads(studio, tmp_path):
    project = studio.ready_project()
    studio.items(project, pairs=6, singles=3)
    studio.rate_all(studio.rater(project), project)
    dataset = freeze(actor=studio.admin, project=project)
    path = tmp_path / "feedback.jsonl"
    write_feedback(path, feedback_records(dataset))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == dataset.sha256
    assert b"".join(dataset_bytes(dataset)) == path.read_bytes()
    assert read_feedback(path) == list(feedback_records(dataset))
    assert len(read_feedback(path)) == 9


def test_freezing_the_same_ratings_again_gives_the_same_dataset(studio):
    project = studio.ready_project()
    studio.items(project, pairs=4)
    studio.rate_all(studio.rater(project), project)
    first = freeze(actor=studio.admin, project=project)
    assert freeze(actor=None, project=project) == first
    assert (Dataset.objects.count(), DatasetItem.objects.count()) == (1, 4)


def test_two_who_freeze_at_once_get_one_dataset(live_studio, at_once):
    project = live_studio.ready_project()
    live_studio.items(project, pairs=4)
    live_studio.rate_all(live_studio.rater(project), project)
    found = at_once(*[lambda: freeze(actor=live_studio.admin, project=project)] * 3)
    assert len({dataset.pk for dataset in found}) == 1
    assert DatasetItem.objects.count() == 4


def test_a_later_rating_or_a_changed_mind_leaves_a_frozen_dataset_as_it_is(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    rating = studio.rate_all(rater, project, "1")[0]
    old = freeze(actor=None, project=project)
    lines = list(dataset_bytes(old))
    revise(rater=rater, project=project, token=rating.presentation.token, submission_id=uuid4(), choice="4")
    new = freeze(actor=None, project=project)
    assert new.sha256 != old.sha256
    assert list(dataset_bytes(old)) == lines
    assert [record.strength for record in feedback_records(old)] == [3, 3]
    assert sorted(record.strength for record in feedback_records(new)) == [0, 3]


@pytest.mark.parametrize("winner", ["first", "second"])
def test_a_verdict_becomes_chosen_and_rejected_with_its_strength(studio, winner):
    """The first sample drawn has the tokens 100 and 2 (the end), the second 101 and 2."""
    project = studio.ready_project()
    item = studio.items(project, pairs=1)[0]
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    choice = "2" if presentation.first_is_left == (winner == "first") else "6"  # clearly better, left or right
    found = submit(rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice=choice)
    (record,) = feedback_records(freeze(actor=None, project=project))
    chosen, rejected = (item.first, item.second) if winner == "first" else (item.second, item.first)
    assert record == Comparison(
        prompt_id=str(item.prompt_id),
        prompt_tokens=(1, 7, 8),
        chosen_tokens=tuple(chosen.tokens),
        rejected_tokens=tuple(rejected.tokens),
        strength=2,
        rating_id=str(found.rating.pk),
    )


def test_both_bad_is_a_tie_and_a_single_answer_keeps_its_score(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1, singles=1)
    studio.rate_all(studio.rater(project), project, "04")
    records = list(feedback_records(freeze(actor=None, project=project)))
    assert [record.strength for record in records if isinstance(record, Comparison)] == [0]
    (single,) = [record for record in records if isinstance(record, ScoredResponse)]
    assert (single.score, single.response_tokens) == (4, (100, 2))


def test_the_switch_of_the_project_decides_about_simulated_ratings(studio):
    project = studio.ready_project()
    studio.items(project, pairs=3)
    studio.rate_all(studio.rater(project, is_simulated=True), project)
    studio.items(project, pairs=2)
    studio.rate_all(studio.rater(project), project)
    assert freeze(actor=None, project=project).counts["sources"] == {"human": 2, "simulated": 3}
    assert usable_ratings(project).total == 5
    project.use_simulated_ratings = False
    assert freeze(actor=None, project=project).counts["sources"] == {"human": 2}
    counts = usable_ratings(project)
    assert (counts.total, counts.human, counts.simulated, counts.left_out) == (2, 2, 0, 3)
    assert freeze(actor=None, project=project, sources=["simulated"]).counts["total"] == 3


def test_late_ratings_are_trained_on_too(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    slow, quick = studio.rater(project), studio.rater(project)
    old = studio.shown(slow, project)
    studio.lapse(old.slot_id)
    studio.rate_all(quick, project)
    studio.rate_all(slow, project)
    assert submit(rater=slow, project=project, token=old.token, submission_id=uuid4(), choice="1").is_late
    assert freeze(actor=None, project=project).counts["total"] == 2


def test_counts_tell_pairs_ties_and_singles_apart(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5, singles=2)
    studio.rate_all(studio.rater(project), project, "1404123")
    counts = usable_ratings(project)
    found = (counts.total, counts.pairs, counts.ties, counts.both_bad, counts.singles, counts.raters, counts.prompts)
    assert found == (7, 5, 3, 1, 2, 1, 7)
    dataset = freeze(actor=None, project=project)
    assert dataset.counts["ties"] == 3
    assert dataset.rules == {"sources": ["demo", "human", "simulated"]}


@pytest.mark.parametrize(
    ("choices", "is_one_sided"),
    [("4", True), ("0", True), ("40", True), ("41", False), ("3", False)],
)
def test_ratings_that_all_say_the_same_are_one_sided(studio, choices, is_one_sided):
    project = studio.ready_project()
    studio.items(project, pairs=4)
    studio.rate_all(studio.rater(project), project, choices)
    assert usable_ratings(project).is_one_sided is is_one_sided


@pytest.mark.parametrize(("choices", "is_one_sided"), [("3", True), ("34", False)])
def test_single_scores_that_are_all_equal_are_one_sided(studio, choices, is_one_sided):
    project = studio.ready_project()
    studio.items(project, singles=4)
    studio.rate_all(studio.rater(project), project, choices)
    assert usable_ratings(project).is_one_sided is is_one_sided


def test_nothing_cannot_be_frozen(studio):
    with pytest.raises(NotEnoughFeedback, match="There are 0 usable ratings"):
        freeze(actor=None, project=studio.ready_project())


def test_a_dataset_cannot_be_changed(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    studio.rate_all(studio.rater(project), project)
    freeze(actor=None, project=project)
    for change in (
        lambda: DatasetItem.objects.update(weight=2.0),
        lambda: DatasetItem.objects.all().delete(),
        lambda: Dataset.objects.update(sha256="0" * 64),
    ):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()


def test_freezing_costs_as_many_queries_for_many_ratings_as_for_few(studio, django_assert_max_num_queries):
    project = studio.ready_project()
    for size in (3, 30):
        studio.items(project, pairs=size)
        studio.rate_all(studio.rater(project), project)
        with django_assert_max_num_queries(9):  # savepoints of the test's transaction included
            dataset = freeze(actor=None, project=project)
        with django_assert_max_num_queries(1):
            records = list(feedback_records(dataset))
        assert len(records) == dataset.counts["total"]
        with django_assert_max_num_queries(1):
            usable_ratings(project)
