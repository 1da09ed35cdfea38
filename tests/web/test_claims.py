"""Slots and leases: overlap is exact, nobody judges twice, nothing is lost."""

import random
import threading
import time
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from tests.web.verdicts import rate
from webapp.errors import SubmissionConflict
from webapp.feedback.models import Comparison, Presentation, Rating, Skip, Slot
from webapp.feedback.selectors import queue_counts, shown
from webapp.feedback.services import (
    NEXT_SLOT,
    claim,
    release,
    renew,
    skip,
    slots_missing,
)
from webapp.projects.services import save_guideline

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
