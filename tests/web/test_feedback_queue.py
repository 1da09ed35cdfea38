"""Filling the queue, closing it when a policy retires, and what pages may read of it."""

import dataclasses
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from webapp.feedback.models import Comparison, Presentation, Rating, Sample, Skip, Slot
from webapp.feedback.selectors import judged, progress, queue_counts, raters_of, ratings_by, ratings_of, shown
from webapp.feedback.services import (
    NewSample,
    claim,
    make_items,
    record_samples,
    release,
    skip,
    slots_missing,
    submit,
)
from webapp.feedback.verdicts import PAIR_CHOICES, SINGLE_CHOICES, choice_of, verdict_of
from webapp.registry.selectors import serving


@given(st.sampled_from(PAIR_CHOICES), st.booleans())
def test_the_key_of_a_pair_comes_back_from_its_verdict(choice, first_is_left):
    verdict, both_bad = verdict_of(choice=choice, kind="pair", first_is_left=first_is_left)
    mirrored, _ = verdict_of(choice=choice, kind="pair", first_is_left=not first_is_left)
    assert mirrored == -verdict
    assert choice_of(verdict=verdict, both_bad=both_bad, kind="pair", first_is_left=first_is_left) == choice


@given(st.sampled_from(SINGLE_CHOICES))
def test_the_key_of_a_single_answer_is_its_score(choice):
    verdict, _ = verdict_of(choice=choice, kind="single", first_is_left=True)
    assert choice_of(verdict=verdict, both_bad=False, kind="single", first_is_left=True) == choice == str(verdict)


def test_a_prompt_with_two_samples_gives_a_pair_and_with_one_a_single_answer(studio):
    project = studio.ready_project(overlap=2)
    one, two, three = studio.prompts(project, 3)
    by_prompt = {prompt.pk: studio.samples(prompt, count) for prompt, count in ((one, 1), (two, 2), (three, 3))}
    items = make_items(project=project, samples_by_prompt=by_prompt)
    assert sorted((item.prompt_id, item.kind) for item in items) == sorted(
        [(one.pk, "single"), (two.pk, "pair"), (three.pk, "pair"), (three.pk, "single")]
    )
    assert all(item.second is None or item.first_id < item.second_id for item in items)
    assert Slot.objects.count() == 8  # two an item
    assert make_items(project=project, samples_by_prompt=by_prompt) == []  # again: nothing twice
    assert (Comparison.objects.count(), Slot.objects.count()) == (4, 8)


def test_two_samples_with_the_same_text_are_written_down_and_not_shown(studio):
    project = studio.ready_project()
    prompt = studio.prompts(project, 1)[0]
    items = make_items(project=project, samples_by_prompt={prompt.pk: studio.samples(prompt, 2, ["same", "same"])})
    assert len(items) == 1
    assert Slot.objects.count() == 0
    assert claim(rater=studio.rater(project), project=project) is None


def test_a_sample_drawn_twice_is_one_row(studio):
    project = studio.ready_project()
    prompt, pointer = studio.prompts(project, 1)[0], serving(project)
    new = NewSample(prompt.pk, 7, [1, 5], [6, 2], "text", "end", -2.0)
    drawn = [
        record_samples(checkpoint=pointer.checkpoint, sampling=pointer.sampling, samples=[new])[0].pk for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert Sample.objects.count() == 1


def test_a_nul_in_a_sample_becomes_a_replacement_character(studio):
    project = studio.ready_project()
    prompt, pointer = studio.prompts(project, 1)[0], serving(project)
    new = NewSample(prompt.pk, 7, [1], [6, 2], "a\0b", "end", -2.0)
    sample = record_samples(checkpoint=pointer.checkpoint, sampling=pointer.sampling, samples=[new])[0]
    assert (sample.text, sample.tokens) == ("a\ufffdb", [6, 2])


def test_a_sample_without_tokens_is_a_mistake(studio):
    project = studio.ready_project()
    prompt, pointer = studio.prompts(project, 1)[0], serving(project)
    with pytest.raises(ValueError, match="no tokens"):
        record_samples(
            checkpoint=pointer.checkpoint,
            sampling=pointer.sampling,
            samples=[NewSample(prompt.pk, 7, [1], [], "", "end", 0.0)],
        )


def test_the_buffer_wants_its_target_of_untouched_slots(studio):
    project = studio.ready_project(buffer_target=10)
    assert slots_missing(project=project) == 10
    studio.items(project, pairs=6)
    assert slots_missing(project=project) == 4
    rater = studio.rater(project)
    studio.shown(rater, project)
    assert slots_missing(project=project) == 5  # one is being judged


def test_a_rater_who_is_ahead_of_the_others_does_not_starve(studio):
    project = studio.ready_project(buffer_target=4, overlap=2)
    studio.items(project, pairs=2)
    assert slots_missing(project=project) == 0
    rater = studio.rater(project)
    submit(rater=rater, project=project, token=studio.shown(rater, project).token, submission_id=uuid4(), choice="1")
    skip(rater=rater, project=project, token=studio.shown(rater, project).token)
    assert claim(rater=rater, project=project) is None
    assert queue_counts(project).open == 3  # for others
    assert slots_missing(project=project) == 4


def test_promotion_closes_the_open_slots_of_the_older_policy_and_leaves_leased_ones(studio):
    project = studio.ready_project(buffer_target=10)
    studio.items(project, pairs=3)
    busy, gone = studio.rater(project), studio.rater(project)
    held, lapsed = studio.shown(busy, project), studio.shown(gone, project)
    studio.lapse(lapsed.slot_id)
    studio.promoted(project)
    assert queue_counts(project).void == 2  # the open one and the one whose holder is gone
    assert not submit(rater=busy, project=project, token=held.token, submission_id=uuid4(), choice="1").is_late
    late = submit(rater=gone, project=project, token=lapsed.token, submission_id=uuid4(), choice="1")
    assert late.is_late  # kept, though its slot is closed
    assert slots_missing(project=project) == 10
    fresh = studio.items(project, pairs=1)
    assert studio.shown(busy, project).slot.comparison_id == fresh[0].pk


def test_the_counts_of_a_queue_read_the_comparisons_of_what_waits_alone(studio):
    project = studio.ready_project()
    studio.items(project, pairs=7, singles=1)
    Slot.objects.filter(comparison__kind="pair").update(state=Slot.State.DONE, rater=studio.rater(project))
    with CaptureQueriesContext(connection) as asked:
        counts = queue_counts(project)
    assert (counts.done, counts.waiting, counts.waiting_kinds) == (7, 1, {"single": 1})
    (query,) = asked.captured_queries
    of_all, _, of_what_waits = query["sql"].partition("UNION ALL")
    assert "feedback_comparison" not in of_all, "most of a queue is done, and the loop asks every three seconds"
    assert "'open'" in of_what_waits.partition("WHERE")[2]


def test_a_lease_that_lapses_after_a_promotion_is_closed_by_the_next_look(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    held = studio.shown(studio.rater(project), project)
    studio.promoted(project)
    assert studio.slot(held).state == "leased"
    studio.lapse(held.slot_id)
    slots_missing(project=project)
    assert studio.slot(held).state == "void"


@pytest.mark.parametrize("hands_back", [skip, release], ids=["skipped", "handed back"])
def test_what_is_handed_back_after_a_promotion_is_offered_to_nobody(studio, hands_back):
    project = studio.ready_project(overlap=2)
    studio.items(project, pairs=1)
    rater, late = studio.rater(project), studio.rater(project)
    held, old = studio.shown(rater, project), studio.shown(late, project)
    studio.promoted(project)
    whose = {} if hands_back is release else {"project": project}
    hands_back(rater=rater, token=held.token, **whose)
    assert studio.slot(held).state == "void"
    assert claim(rater=studio.rater(project), project=project) is None
    studio.lapse(old.slot_id)
    assert claim(rater=studio.rater(project), project=project) is None, "nor what lapses, before the next look"
    assert claim(rater=late, project=project) is None
    assert not submit(rater=late, project=project, token=old.token, submission_id=uuid4(), choice="1").is_late


def test_a_slot_closed_by_a_promotion_is_nobodys_and_does_not_come_back(studio):
    project = studio.ready_project(overlap=2)
    studio.items(project, pairs=1)
    slow, other = studio.rater(project), studio.rater(project)
    old, held = studio.shown(slow, project), studio.shown(other, project)
    studio.lapse(old.slot_id)
    studio.promoted(project)
    assert (studio.slot(old).state, studio.slot(old).rater_id) == ("void", None)
    skip(rater=other, project=project, token=held.token)
    assert (studio.slot(held).state, studio.slot(held).rater_id) == ("void", None)
    submission = submit(rater=slow, project=project, token=old.token, submission_id=uuid4(), choice="1")
    assert submission.is_late  # kept, though none of the item's slots came back


def test_a_rater_sees_nothing_that_tells_the_policy(studio):
    project = studio.ready_project(guideline_body="Be fair.")
    studio.items(project, pairs=1)
    presentation = studio.shown(studio.rater(project), project)
    page = shown(presentation, project)
    assert page.guideline_version == 1
    told = {str(value) for value in dataclasses.asdict(page).values()}
    comparison = presentation.slot.comparison
    hidden = [
        comparison.pk,
        comparison.first_id,
        comparison.second_id,
        comparison.first.checkpoint_id,
        presentation.pk,
        presentation.slot_id,
    ]
    assert not told & {str(value) for value in hidden}
    assert page.token.version == 4  # random, not by time


def test_history_and_progress_show_what_was_pressed(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2, singles=1)
    rater = studio.rater(project)
    studio.rate_all(rater, project, "250")
    found = judged(list(ratings_by(rater, project)))
    assert [entry.choice for entry in found] == ["1", "5", "2"]  # newest first; the single's 0 was pressed as 1
    assert (progress(rater, project).rated, progress(rater, project).rated_today) == (3, 3)
    assert progress(studio.rater(project), project).rated == 0
    assert judged(list(ratings_by(studio.rater(project), project))) == []


def test_lists_cost_as_many_queries_for_many_rows_as_for_few(studio, django_assert_num_queries):
    project = studio.ready_project()
    for size in (2, 12):
        studio.items(project, pairs=size)
        raters = [studio.rater(project) for _ in range(size // 2)]
        for rater in raters:
            studio.rate_all(rater, project)
        with django_assert_num_queries(1):
            for rating in ratings_of(project):
                assert rating.comparison.first.checkpoint.version == 1
                assert rating.comparison.prompt.text
                assert rating.rater.username
        with django_assert_num_queries(3):
            assert raters_of(project)[0].ratings > 0
        with django_assert_num_queries(1):
            assert queue_counts(project).done > 0
        with django_assert_num_queries(2):
            judged(list(ratings_by(raters[0], project)))
        with django_assert_num_queries(2):
            progress(raters[0], project)


def test_claim_and_submit_cost_a_fixed_number_of_queries(studio, django_assert_max_num_queries):
    project = studio.ready_project()
    for _ in range(2):
        studio.items(project, pairs=10)
        rater = studio.rater(project)
        with django_assert_max_num_queries(6):  # savepoints of the test's transaction included
            presentation = claim(rater=rater, project=project)
        with django_assert_max_num_queries(9):
            submit(rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice="1")


def test_the_database_refuses_to_change_what_is_append_only(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    submit(rater=rater, project=project, token=studio.shown(rater, project).token, submission_id=uuid4(), choice="1")
    skip(rater=rater, project=project, token=studio.shown(rater, project).token)
    changes = [
        lambda: Sample.objects.update(text="another"),
        lambda: Presentation.objects.update(first_is_left=~F("first_is_left")),
        lambda: Skip.objects.update(reason="unclear"),
        lambda: Skip.objects.all().delete(),
        lambda: Rating.objects.update(verdict=1),
        lambda: Rating.objects.all().delete(),
    ]
    for change in changes:
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()
    assert Rating.objects.update(is_current=False) == 1  # the one thing that may change
    assert Presentation.objects.update(shown_at=None) == 2  # and here


@pytest.mark.django_db(transaction=True)
def test_tests_can_still_empty_the_tables(live_studio):
    project = live_studio.ready_project()
    live_studio.items(project, pairs=1)  # the fixture truncates all of it afterwards, or fails
