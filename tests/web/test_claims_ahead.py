"""Items that pages fetch ahead of need: one each, handed back unseen, never lost."""

import random
import threading

import pytest
from django.db import connection, transaction

from tests.studio import until_another_waits
from tests.web.verdicts import rate
from webapp.errors import SubmissionConflict
from webapp.feedback.models import Comparison, Presentation, Rating, Slot
from webapp.feedback.services import (
    claim,
    mark_shown,
    release_all,
    release_unseen,
    slots_missing,
)


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
