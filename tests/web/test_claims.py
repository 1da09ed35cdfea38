"""Slots, leases and ratings: overlap is exact, nobody judges twice, nothing is lost."""

import random
import threading
import time
from itertools import pairwise
from math import comb
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from tests.studio import let_a_day_pass, until_another_waits
from webapp.errors import ChoiceInvalid, RevisionClosed, StudioError, SubmissionConflict, TokenUnknown
from webapp.feedback.models import Comparison, Presentation, Rating, Skip, Slot
from webapp.feedback.selectors import act_before, progress, queue_counts, shown
from webapp.feedback.services import (
    NEXT_SLOT,
    claim,
    draw_side,
    mark_shown,
    release,
    release_all,
    release_unseen,
    renew,
    revise,
    skip,
    slots_missing,
    submit,
)
from webapp.projects.services import save_guideline
from webapp.quality.services import dataset_bytes, freeze


def rate(rater, presentation, choice="1", submission_id=None, **more):
    project = presentation.slot.project
    return submit(
        rater=rater,
        project=project,
        token=presentation.token,
        submission_id=submission_id or uuid4(),
        choice=choice,
        **more,
    )


# --- Under which guideline -------------------------------------------------------------------------------------------


def test_a_lease_served_again_under_a_new_guideline_is_rated_under_it_and_an_old_page_under_the_old(studio):
    project = studio.ready_project(guideline_body="one")
    ada, ben = studio.rater(project), studio.rater(project)
    (item,) = studio.items(project, pairs=1)
    Slot.objects.create(comparison=item, project=project, ordinal=2)
    old = {rater: studio.shown(rater, project) for rater in (ada, ben)}
    save_guideline(actor=studio.admin, project=project, body="two")
    new = studio.shown(ada, project)
    assert studio.shown(ada, project) == new, "once more changes nothing"
    assert (new.slot_id, new.first_is_left) == (old[ada].slot_id, old[ada].first_is_left)
    assert (shown(old[ada], project).guideline_version, shown(new, project).guideline_version) == (1, 2)
    assert renew(rater=ada, project=project, token=new.token)
    assert rate(ada, new).rating.presentation.guideline.version == 2
    assert rate(ben, old[ben]).rating.presentation.guideline.version == 1


def test_a_page_that_stayed_open_while_another_was_served_anew_rates_under_what_it_shows(studio):
    project = studio.ready_project(guideline_body="one")
    ada = studio.rater(project)
    studio.items(project, pairs=1)
    old = studio.shown(ada, project)
    save_guideline(actor=studio.admin, project=project, body="two")
    new = studio.shown(ada, project)
    assert new.token != old.token
    found = rate(ada, old)
    assert (found.rating.presentation, found.is_late) == (old, False)


# --- Many at once ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_600_wanted_ratings_by_32_clients_with_duplicates_are_600_ratings(live_studio):
    """200 items, 3 ratings each, 16 raters with 2 tabs each, 30 % of the submissions sent twice."""
    project = live_studio.ready_project(overlap=3)
    live_studio.items(project, pairs=150, singles=50)
    raters = [live_studio.rater(project) for _ in range(16)]
    acknowledged: set[UUID] = set()
    faults: list[Exception] = []
    seconds: list[float] = []
    duplicates = refused = 0
    count = threading.Lock()

    def work(rater, tab):
        nonlocal duplicates, refused
        chance = random.Random(f"{rater.username} {tab}")
        try:
            while True:
                started = time.perf_counter()
                presentation = claim(rater=rater, project=project)
                seconds.append(time.perf_counter() - started)
                if presentation is None:
                    return
                key, choice = uuid4(), chance.choice("12345")
                for _ in range(2 if chance.random() < 0.3 else 1):
                    try:
                        found = rate(rater, presentation, choice, key)
                    except SubmissionConflict:  # the other tab was faster, with another choice
                        with count:
                            refused += 1
                        break
                    with count:
                        acknowledged.add(found.rating.pk)
                        duplicates += found.is_duplicate
        except Exception as error:
            faults.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[rater, tab]) for rater in raters for tab in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []
    stored = list(Rating.objects.filter(project=project))
    assert len(stored) == 600
    assert {rating.pk for rating in stored} == acknowledged
    assert len({(rating.comparison_id, rating.rater_id) for rating in stored}) == 600
    for item in Comparison.objects.filter(project=project):
        assert sum(rating.comparison_id == item.pk for rating in stored) == 3
    assert all(rating.counts_toward_overlap for rating in stored)
    assert set(Slot.objects.filter(project=project).values_list("state", flat=True)) == {"done"}
    assert duplicates + refused > 100  # there was something to withstand
    seconds.sort()
    print(f"claim p50 {seconds[len(seconds) // 2] * 1e3:.0f} ms, p99 {seconds[int(len(seconds) * 0.99)] * 1e3:.0f} ms")


def test_of_four_raters_at_the_last_three_slots_three_get_one(live_studio, at_once):
    project = live_studio.ready_project(overlap=3)
    live_studio.items(project, pairs=1)
    raters = [live_studio.rater(project) for _ in range(4)]
    answers = at_once(*[lambda rater=rater: claim(rater=rater, project=project) for rater in raters])
    assert sum(isinstance(answer, Presentation) for answer in answers) == 3
    assert sum(answer is None for answer in answers) == 1
    assert len({answer.slot_id for answer in answers if answer}) == 3


def test_two_tabs_that_load_at_once_get_the_same_item_in_the_same_order(live_studio, at_once):
    project = live_studio.ready_project()
    live_studio.items(project, pairs=5)
    rater = live_studio.rater(project)
    one, two = at_once(*[lambda: claim(rater=rater, project=project)] * 2)
    assert one.pk == two.pk
    assert Slot.objects.filter(state="leased").count() == 1


def test_a_double_click_is_one_rating_with_the_same_answer(live_studio, at_once):
    project = live_studio.ready_project()
    live_studio.items(project, pairs=1)
    rater = live_studio.rater(project)
    presentation, key = live_studio.shown(rater, project), uuid4()
    one, two = at_once(*[lambda: rate(rater, presentation, "2", key)] * 2)
    assert one.rating.pk == two.rating.pk
    assert sorted([one.is_duplicate, two.is_duplicate]) == [False, True]
    assert Rating.objects.count() == 1


# --- Leases ----------------------------------------------------------------------------------------------------------


def test_reloading_gives_the_same_item_and_renews_the_lease(studio):
    project = studio.ready_project(lease_minutes=15)
    studio.items(project, pairs=3)
    rater = studio.rater(project)
    first = studio.shown(rater, project)
    Slot.objects.filter(pk=first.slot_id).update(lease_until=timezone.now() + timezone.timedelta(minutes=1))
    again = studio.shown(rater, project)
    assert (again.pk, again.first_is_left) == (first.pk, first.first_is_left)
    assert studio.slot(first).lease_until > timezone.now() + timezone.timedelta(minutes=14)


def test_a_lapsed_lease_goes_to_another_rater_and_the_late_rating_is_kept_and_marked(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    slow, quick = studio.rater(project), studio.rater(project)
    old = studio.shown(slow, project)
    studio.lapse(old.slot_id)
    new = studio.shown(quick, project)
    assert new.slot_id == old.slot_id
    assert new.token != old.token
    in_time = rate(quick, new, "1")
    late = rate(slow, old, "7")
    assert (in_time.is_late, in_time.rating.counts_toward_overlap) == (False, True)
    assert (late.is_late, late.rating.counts_toward_overlap) == (True, False)
    assert studio.slot(new).state == "done"
    assert studio.slot(new).rater_id == quick.pk
    assert rate(slow, old, "7", late.rating.submission_id).is_late  # sent again, the answer is the same


def test_a_late_rating_counts_when_nobody_took_the_slot(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    studio.lapse(presentation.slot_id)
    found = rate(rater, presentation)
    assert not found.is_late
    assert studio.slot(presentation).state == "done"


def test_a_late_rating_fills_another_open_slot_of_the_item(studio):
    project = studio.ready_project(overlap=2)
    studio.items(project, pairs=1)
    slow, quick = studio.rater(project), studio.rater(project)
    old = studio.shown(slow, project)
    studio.lapse(old.slot_id)
    new = studio.shown(quick, project)
    assert new.slot_id == old.slot_id  # the lapsed one stands first in the queue
    assert not rate(slow, old).is_late
    rate(quick, new)
    assert sorted(Slot.objects.values_list("state", flat=True)) == ["done", "done"]


def test_a_lapsed_lease_of_ones_own_is_had_again_under_a_fresh_token(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    old = studio.shown(rater, project)
    studio.lapse(old.slot_id)
    new = studio.shown(rater, project)
    assert new.slot_id == old.slot_id
    assert new.token != old.token
    assert not rate(rater, old).is_late  # the older tab may still answer
    assert studio.slot(new).state == "done"


def test_a_lease_without_an_end_is_not_held_for_ever(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    gone = studio.shown(studio.rater(project), project)
    Slot.objects.filter(pk=gone.slot_id).update(lease_until=None)
    assert studio.shown(studio.rater(project), project).slot_id == gone.slot_id


def test_an_item_that_was_judged_skipped_or_is_held_is_not_offered_again(studio):
    project = studio.ready_project(overlap=2)
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    first = studio.shown(rater, project)
    rate(rater, first)
    second = studio.shown(rater, project)
    assert second.slot.comparison_id != first.slot.comparison_id
    skip(rater=rater, project=project, token=second.token, reason="unclear")
    assert claim(rater=rater, project=project) is None
    assert Skip.objects.get().reason == "unclear"
    assert queue_counts(project).open == 3  # for others


def test_a_released_item_is_open_for_others_and_can_still_be_judged(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    assert release(rater=rater, token=presentation.token)
    assert studio.slot(presentation).state == "open"
    assert not release(rater=rater, token=presentation.token)
    assert not rate(rater, presentation).is_late
    assert studio.slot(presentation).rater_id == rater.pk


def test_a_lease_is_renewed_by_its_holder_alone(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater, other = studio.rater(project), studio.rater(project)
    presentation = studio.shown(rater, project)
    studio.lapse(presentation.slot_id)
    assert not renew(rater=other, project=project, token=presentation.token)
    assert renew(rater=rater, project=project, token=presentation.token)  # nobody had taken it
    assert studio.slot(presentation).lease_until > timezone.now()
    studio.lapse(presentation.slot_id)
    studio.shown(other, project)
    assert not renew(rater=rater, project=project, token=presentation.token)


def test_a_paused_project_gives_no_items(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    studio.shown(rater, project)
    project.is_paused = True
    project.save()
    assert claim(rater=rater, project=project) is None
    assert claim(rater=studio.rater(project), project=project) is None
    assert slots_missing(project=project) == 0


def test_higher_priority_comes_first_then_what_is_older(studio):
    project = studio.ready_project()
    one, two, three = studio.items(project, pairs=3)
    Slot.objects.filter(comparison=three).update(priority=5)
    rater = studio.rater(project)
    order = [rate(rater, studio.shown(rater, project)).rating.comparison_id for _ in range(3)]
    assert order == [three.pk, one.pk, two.pk]


def test_projects_have_queues_of_their_own(studio):
    here, there = studio.ready_project(), studio.ready_project()
    studio.items(there, pairs=2)
    rater = studio.rater(here, there)
    assert claim(rater=rater, project=here) is None
    assert claim(rater=rater, project=there) is not None


# --- Ahead of need ---------------------------------------------------------------------------------------------------


def test_a_page_gets_one_item_ahead_and_no_third(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    rater = studio.rater(project)
    now = studio.shown(rater, project)
    ahead = claim(rater=rater, project=project, beside=[now.token])
    assert ahead.slot_id != now.slot_id
    again = claim(rater=rater, project=project, beside=[now.token])  # asked again, the same in the same order
    assert (again.slot_id, again.first_is_left) == (ahead.slot_id, ahead.first_is_left)
    assert claim(rater=rater, project=project, beside=[now.token, again.token]) is None
    assert claim(rater=rater, project=project).pk == now.pk  # a reload
    assert Slot.objects.filter(state="leased").count() == 2
    rate(rater, now)
    assert claim(rater=rater, project=project).pk == again.pk  # what was fetched ahead is next


def test_a_page_that_was_left_cannot_hand_back_what_the_next_one_has(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    rater = studio.rater(project)
    now = studio.shown(rater, project)
    left = claim(rater=rater, project=project, beside=[now.token])
    ahead = claim(rater=rater, project=project, beside=[now.token])  # the page was loaded anew
    assert not release_unseen(rater=rater, project=project, token=left.token)  # which comes late
    assert (studio.slot(ahead).state, studio.slot(ahead).rater) == ("leased", rater)
    assert not rate(rater, ahead).is_late
    assert rate(rater, left).is_duplicate, "both tokens are of one item"


def test_the_last_open_item_is_not_taken_ahead_of_need(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater, other = studio.rater(project), studio.rater(project)
    now = studio.shown(rater, project)
    assert claim(rater=rater, project=project, beside=[now.token]) is None
    assert claim(rater=other, project=project) is not None


def test_an_item_counts_as_shown_when_the_page_says_so(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    rater = studio.rater(project)
    now = studio.shown(rater, project)
    assert now.shown_at is not None
    ahead = claim(rater=rater, project=project, beside=[now.token])
    assert Presentation.objects.get(pk=ahead.pk).shown_at is None
    mark_shown(rater=studio.rater(project), token=ahead.token)  # somebody else's word counts for nothing
    assert Presentation.objects.get(pk=ahead.pk).shown_at is None
    mark_shown(rater=rater, token=ahead.token)
    shown_at = Presentation.objects.get(pk=ahead.pk).shown_at
    assert shown_at is not None
    mark_shown(rater=rater, token=ahead.token)
    assert Presentation.objects.get(pk=ahead.pk).shown_at == shown_at


def test_a_page_that_is_left_hands_back_only_what_nobody_saw(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    rater, other = studio.rater(project), studio.rater(project)
    now = studio.shown(rater, project)
    ahead = claim(rater=rater, project=project, beside=[now.token])
    assert not release_unseen(rater=rater, project=project, token=now.token)
    assert not release_unseen(rater=other, project=project, token=ahead.token)
    assert release_unseen(rater=rater, project=project, token=ahead.token)
    assert studio.slot(ahead).state == "open"
    assert not rate(rater, ahead).is_late  # a page that had it after all loses nothing
    assert release_all(rater=rater, project=project) == 1
    assert studio.slot(now).state == "open"


def test_what_another_tab_hands_back_at_this_moment_is_not_handed_out_again(live_studio, at_once):
    project = live_studio.ready_project()
    live_studio.items(project, pairs=5)
    rater, other = live_studio.rater(project), live_studio.rater(project)
    now = live_studio.shown(rater, project)
    ahead = claim(rater=rater, project=project, beside=[now.token])
    is_back = threading.Event()

    def hand_back():
        with transaction.atomic():
            assert release_unseen(rater=rater, project=project, token=ahead.token)
            is_back.set()
            until_another_waits()

    def fetch_ahead():
        is_back.wait(10)
        return claim(rater=rater, project=project, beside=[now.token])

    _, found = at_once(hand_back, fetch_ahead)
    assert live_studio.slot(found).rater == rater
    assert live_studio.slot(found).token == found.token
    assert Slot.objects.filter(rater=rater, state="leased").count() == 2
    theirs = live_studio.shown(other, project)
    assert theirs.slot_id not in {now.slot_id, found.slot_id}


def test_what_was_fetched_ahead_stays_when_a_policy_retires_and_closes_once_it_lapses(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    rater = studio.rater(project)
    now = studio.shown(rater, project)
    ahead = claim(rater=rater, project=project, beside=[now.token])
    studio.promoted(project)
    assert {studio.slot(now).state, studio.slot(ahead).state} == {"leased"}
    assert not rate(rater, now).is_late
    studio.lapse(ahead.slot_id)
    slots_missing(project=project)
    assert studio.slot(ahead).state == "void"
    assert rate(rater, ahead).is_late  # kept all the same


def test_a_paused_project_gives_nothing_ahead_either(studio):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    rater = studio.rater(project)
    now = studio.shown(rater, project)
    project.is_paused = True
    project.save()
    assert claim(rater=rater, project=project, beside=[now.token]) is None


@pytest.mark.slow
def test_300_wanted_ratings_by_24_pages_that_fetch_ahead_are_300_ratings(live_studio):
    """100 items, 3 ratings each, 12 raters with 2 tabs each, which fetch ahead, send twice, and are left at times."""
    project = live_studio.ready_project(overlap=3)
    live_studio.items(project, pairs=100)
    raters = [live_studio.rater(project) for _ in range(12)]
    faults: list[Exception] = []
    most_held = 0

    def work(rater, tab):
        nonlocal most_held
        chance = random.Random(f"{rater.username} {tab}")
        showing = ahead = None
        try:
            while showing := ahead or claim(rater=rater, project=project):
                ahead = claim(rater=rater, project=project, beside=[showing.token])
                most_held = max(most_held, Slot.objects.filter(rater=rater, state="leased").count())
                for _ in range(2 if chance.random() < 0.3 else 1):
                    try:
                        rate(rater, showing, "4")  # the same whichever side is left
                    except SubmissionConflict as error:
                        faults.append(error)
                if ahead and chance.random() < 0.2:
                    release_unseen(rater=rater, project=project, token=ahead.token)
                    ahead = None
        except Exception as error:
            faults.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[rater, tab]) for rater in raters for tab in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert most_held == 2
    counted = Rating.objects.filter(project=project, counts_toward_overlap=True)
    for item in Comparison.objects.filter(project=project):
        assert counted.filter(comparison=item).count() == 3
    assert len(set(Rating.objects.values_list("comparison", "rater"))) == Rating.objects.count()
    assert set(Slot.objects.values_list("state", flat=True)) == {"done"}


# --- Verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_is_left", "choice", "verdict"),
    [
        (True, "1", 3),  # left much better, and left is first
        (True, "4", 0),
        (True, "6", -2),
        (False, "2", -2),  # left clearly better, and left is second
        (False, "7", 3),  # right much better, and right is first
        (False, "4", 0),
    ],
)
def test_what_was_pressed_is_stored_against_samples(studio, first_is_left, choice, verdict):
    project = studio.ready_project()
    item = studio.items(project, pairs=1)[0]
    rater = studio.rater(project)
    presentation = presentation_in_order(studio, rater, project, first_is_left)
    page = shown(presentation, project)
    left = item.first if first_is_left else item.second
    assert (page.left_text, page.kind) == (left.text, "pair")
    rating = rate(rater, presentation, choice).rating
    assert (rating.verdict, rating.both_bad) == (verdict, False)


def presentation_in_order(studio, rater, project, first_is_left):
    while True:
        presentation = studio.shown(rater, project)
        if presentation.first_is_left == first_is_left:
            return presentation
        release(rater=rater, token=presentation.token)


def test_both_bad_is_a_tie_apart(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    rating = rate(rater, presentation, "0").rating
    assert (rating.verdict, rating.both_bad) == (0, True)
    with pytest.raises(SubmissionConflict, match="'0'"):
        rate(rater, presentation, "4")  # a plain tie is another answer


def test_a_single_answer_is_scored_from_1_to_5(studio):
    project = studio.ready_project()
    studio.items(project, singles=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    page = shown(presentation, project)
    assert (page.kind, page.right_text, page.question) == ("single", None, project.single_question)
    for choice in ("0", "6", "7", "", "x", "1 ", "١"):
        with pytest.raises(ChoiceInvalid):
            rate(rater, presentation, choice)
    assert rate(rater, presentation, "5").rating.verdict == 5


@pytest.mark.parametrize("choice", ["8", "-1", "", "much", "11"])
def test_a_choice_that_does_not_exist_is_refused(studio, choice):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    with pytest.raises(ChoiceInvalid, match="1 to 7"):
        rate(rater, studio.shown(rater, project), choice)
    assert Rating.objects.count() == 0


def test_the_same_submission_again_gives_the_same_rating(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation, key = studio.shown(rater, project), uuid4()
    first = rate(rater, presentation, "2", key, active_ms=1500)
    again = rate(rater, presentation, "2", key, active_ms=9999)
    assert (first.is_duplicate, again.is_duplicate) == (False, True)
    assert again.rating == first.rating
    assert Rating.objects.get().active_ms == 1500


def test_the_same_submission_with_another_choice_is_a_conflict_that_names_the_stored_one(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation, key = studio.shown(rater, project), uuid4()
    rate(rater, presentation, "2", key)
    with pytest.raises(SubmissionConflict) as refused:
        rate(rater, presentation, "3", key)
    assert refused.value.choice == "2"
    assert Rating.objects.count() == 1


def test_a_submission_id_cannot_serve_two_items(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater, key = studio.rater(project), uuid4()
    rate(rater, studio.shown(rater, project), "4", key)
    with pytest.raises(SubmissionConflict):
        rate(rater, studio.shown(rater, project), "4", key)


def test_a_judged_item_sent_from_another_tab_gives_no_second_rating(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    first = rate(rater, presentation, "2")
    assert rate(rater, presentation, "2").rating == first.rating  # a new key, the same verdict
    with pytest.raises(SubmissionConflict):
        rate(rater, presentation, "6")
    with pytest.raises(SubmissionConflict):
        skip(rater=rater, project=project, token=presentation.token)
    assert Rating.objects.count() == 1


def test_a_token_of_another_rater_is_as_good_as_unknown(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    presentation = studio.shown(studio.rater(project), project)
    other = studio.rater(project)
    for act in (
        lambda: rate(other, presentation),
        lambda: skip(rater=other, project=project, token=presentation.token),
    ):
        with pytest.raises(TokenUnknown):
            act()
    with pytest.raises(TokenUnknown):
        submit(rater=other, project=project, token=uuid4(), submission_id=uuid4(), choice="1")
    assert not release(rater=other, token=presentation.token)


def test_a_changed_mind_is_a_new_revision(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation, key = studio.shown(rater, project), uuid4()
    old = rate(rater, presentation, "4").rating
    new = revise(rater=rater, project=project, token=presentation.token, submission_id=key, choice="1").rating
    assert revise(rater=rater, project=project, token=presentation.token, submission_id=key, choice="1").rating == new
    old.refresh_from_db()
    assert (old.is_current, old.verdict, old.revision) == (False, 0, 1)
    assert (new.is_current, abs(new.verdict), new.revision) == (True, 3, 2)
    assert queue_counts(project).done == 1


def test_a_skip_that_is_undone_becomes_a_first_verdict(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    with pytest.raises(TokenUnknown):
        revise(
            rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice="1"
        )  # neither judged nor skipped
    skip(rater=rater, project=project, token=presentation.token)
    assert claim(rater=rater, project=project) is None
    found = revise(rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice="1")
    assert (found.rating.revision, found.is_late) == (1, False)
    assert studio.slot(presentation).state == "done"
    assert progress(rater, project).skipped == 0


def test_only_the_last_ten_and_those_of_a_day_can_be_changed(studio):
    project = studio.ready_project()
    studio.items(project, pairs=12)
    rater = studio.rater(project)
    ratings = studio.rate_all(rater, project, "1")
    revise(
        rater=rater, project=project, token=ratings[0].presentation.token, submission_id=uuid4(), choice="2"
    )  # old, but of today
    let_a_day_pass()
    # The first was changed last: of the twelve, the second and the third are no longer among the last ten.
    for old in ratings[1:3]:
        with pytest.raises(RevisionClosed, match="only your last 10 and those of the last 24 hours"):
            revise(rater=rater, project=project, token=old.presentation.token, submission_id=uuid4(), choice="3")
    assert (
        revise(
            rater=rater, project=project, token=ratings[3].presentation.token, submission_id=uuid4(), choice="3"
        ).rating.revision
        == 2
    )
    same = revise(rater=rater, project=project, token=ratings[1].presentation.token, submission_id=uuid4(), choice="1")
    assert same.is_duplicate  # nothing changes


def test_undo_goes_ten_acts_back_by_the_time_of_each_act(studio):
    project = studio.ready_project()
    studio.items(project, pairs=12)
    rater = studio.rater(project)
    tokens = []
    for number in range(12):
        presentation = studio.shown(rater, project)
        tokens.append(presentation.token)
        if number % 3:
            rate(rater, presentation)
        else:
            skip(rater=rater, project=project, token=presentation.token)
    steps = []
    act = act_before(rater, project)
    while act:
        steps.append(act.token)
        act = act_before(rater, project, act.token)
    assert steps == tokens[:1:-1]
    assert act_before(studio.rater(project), project) is None


def test_a_dataset_keeps_the_revision_that_it_was_frozen_with(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    old, _ = studio.rate_all(rater, project, "1")
    dataset = freeze(actor=studio.admin, project=project)
    before = b"".join(dataset_bytes(dataset))
    new = revise(rater=rater, project=project, token=old.presentation.token, submission_id=uuid4(), choice="7").rating
    assert b"".join(dataset_bytes(dataset)) == before
    assert freeze(actor=studio.admin, project=project).sha256 != dataset.sha256
    assert new.verdict == -old.verdict


def test_ratings_of_a_simulated_rater_are_never_human(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project, is_simulated=True)
    assert rate(rater, studio.shown(rater, project)).rating.source == "simulated"


@pytest.mark.parametrize("active_ms", [-5, 2**31, 10**30])
def test_a_nonsensical_time_is_left_out_and_the_rating_kept(studio, active_ms):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    assert rate(rater, studio.shown(rater, project), active_ms=active_ms).rating.active_ms is None


def test_an_unknown_reason_to_skip_is_refused(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    with pytest.raises(StudioError, match="boring"):
        skip(rater=rater, project=project, token=studio.shown(rater, project).token, reason="boring")


def test_left_and_right_are_balanced_over_10000_draws():
    # A fair coin fails one throw in a thousand; of two throws both, once in a million.
    sides, changes = [], []
    for _ in range(2):
        draws = [draw_side() for _ in range(10_000)]
        sides.append(two_sided(sum(draws), 10_000))
        changes.append(two_sided(sum(one != next_one for one, next_one in pairwise(draws)), 9_999))
    print(f"10,000 draws, binomial p: {sides[0]:.3f}; that one tells the next: {changes[0]:.3f}")
    assert max(sides) > 0.001
    assert max(changes) > 0.001  # nor does one draw tell the next


def test_each_lease_draws_the_sides_anew(studio):
    project = studio.ready_project()
    studio.items(project, pairs=40)
    sides = []
    for _ in range(3):
        rater = studio.rater(project)
        while presentation := claim(rater=rater, project=project):
            sides.append(presentation.first_is_left)
            skip(rater=rater, project=project, token=presentation.token)
    assert len(sides) == 120
    assert two_sided(sum(sides), 120) > 0.0001


def two_sided(successes, trials):
    """Probability of a fair coin being at least as far from the middle."""
    tail = min(successes, trials - successes)
    return min(1.0, 2 * sum(comb(trials, k) for k in range(tail + 1)) / 2**trials)


# --- Speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_next_of_50000_slots_is_found_by_its_index(studio):
    project = studio.ready_project()
    prompt = studio.prompts(project, 1)[0]
    studio.samples(prompt, 1)
    rater = studio.rater(project)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO feedback_sample (id, prompt_id, checkpoint_id, sampling_id, seed, prompt_tokens, tokens, text,
                                         text_sha256, finish_reason, log_prob, created_at)
            SELECT gen_random_uuid(), prompt_id, checkpoint_id, sampling_id, 1000000 + n, prompt_tokens, tokens, text,
                   text_sha256, finish_reason, log_prob, created_at
            FROM feedback_sample, generate_series(1, 50000) AS n
            """
        )
        cursor.execute(
            """
            INSERT INTO feedback_comparison (id, project_id, prompt_id, kind, first_id, priority, created_at)
            SELECT gen_random_uuid(), %s, prompt_id, 'single', id, 0, now() FROM feedback_sample WHERE seed > 1000000
            """,
            [project.pk],
        )
        cursor.execute(
            """
            INSERT INTO feedback_slot (comparison_id, project_id, ordinal, priority, state, token)
            SELECT id, project_id, 1, 0, 'open', gen_random_uuid() FROM feedback_comparison
            """
        )
        cursor.execute("ANALYZE feedback_slot")
        values = {"project": project.pk, "rater": rater.pk, "token": uuid4(), "seconds": 60, "ahead": True}
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + NEXT_SLOT, values)
        explained = cursor.fetchone()[0][0]
    nodes = list(walk(explained["Plan"]))
    assert "slot_next" in {node.get("Index Name") for node in nodes}
    assert not Rating.objects.exists()  # of an empty table the planner may well choose to read the whole
    whole = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
    assert whole & {"feedback_slot", "feedback_comparison"} == set()
    scans = [node for node in nodes if "Scan" in node["Node Type"]]
    rows = [node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) for node in scans]
    assert sum(rows) <= 20, "whatever is open, a claim looks at a handful of rows"


def walk(node):
    """The nodes of a plan."""
    yield node
    for child in node.get("Plans", []):
        yield from walk(child)
