"""Runs are held by one, written to by its holder alone, and ended for good."""

import math
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from tests.web.rated_projects import rated_project, reward_run
from webapp.errors import FenceLost, WrongCheckpoint
from webapp.registry.models import Checkpoint
from webapp.runs.leases import Claim, claim, reap, renew, requeue
from webapp.runs.live import read_live
from webapp.runs.models import Run, RunEvent, RunMetrics, RunOutput
from webapp.runs.progress import record_log, record_metrics, record_progress, record_read, record_saved
from webapp.runs.results import fail, finish_cancelled, succeed
from webapp.runs.selectors import curves
from webapp.runs.services import cancel


@pytest.fixture
def project(studio):
    """A project with 5 ratings, enough for FEW."""
    return rated_project(studio)


# --- Holding a run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(studio, project):
    return reward_run(studio, project)


def later(seconds):
    return timezone.now() + timedelta(seconds=seconds)


def test_a_claim_takes_a_queued_run_once(run):
    held = claim(run.pk, "one")
    assert (held.run.state, held.run.attempt, held.fence, held.run.lease_owner) == ("starting", 1, 1, "one")
    assert held.run.lease_until > later(50)
    assert held.run.policy.version == 1
    assert claim(run.pk, "two") is None  # the same message, delivered twice
    assert claim(uuid4(), "two") is None


def test_of_many_supervisors_that_ask_at_once_one_gets_the_run(live_studio, at_once):
    run = reward_run(live_studio, rated_project(live_studio))
    answers = at_once(*[lambda owner=owner: claim(run.pk, f"owner {owner}") for owner in range(8)])
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert sum(answer is None for answer in answers) == 7
    run.refresh_from_db()
    assert (run.fence, run.attempt) == (1, 1)


def test_a_run_moves_from_starting_to_running_to_succeeded(run):
    held = claim(run.pk, "one")
    record_progress(held, step=0, total_steps=40, phase="loading")
    record_progress(held, step=3, phase="training")
    run.refresh_from_db()
    assert (run.state, run.step, run.total_steps, run.phase) == ("running", 3, 40, "training")
    ended = succeed(held, outputs=[{"kind": "reward_model", "id": "d" * 64}], result={"accuracy": 0.75})
    run.refresh_from_db()
    assert (run.state, run.result, run.lease_until, run.error) == ("succeeded", {"accuracy": 0.75}, None, "")
    assert run.finished_at
    assert ended.is_finished
    model = Checkpoint.objects.get(sha256="d" * 64)
    assert (model.kind, model.version, model.metrics, model.origin.run) == (
        "reward_model",
        1,
        {"accuracy": 0.75},
        run,
    )
    assert [event.kind for event in run.events.all()] == ["queued", "claimed", "succeeded"]


def test_a_holder_that_lost_its_fence_can_write_nothing(studio, run):
    old = claim(run.pk, "stopped")
    Run.objects.update(lease_until=later(-1))
    new = claim(run.pk, "new")
    assert (new.fence, new.run.attempt) == (2, 2)
    before = Run.objects.values().get()
    writes = [
        lambda: record_progress(old, step=9),
        lambda: record_metrics(old, [(1, {"loss": 1.0})]),
        lambda: record_log(old, "still here"),
        lambda: record_saved(old, 9),
        lambda: record_read(old, 100),
        lambda: succeed(old, outputs=[{"kind": "reward_model", "id": "e" * 64}], result={}),
        lambda: fail(old, "no"),
        lambda: finish_cancelled(old),
        lambda: requeue(old, spend_attempt=True),
    ]
    for write in writes:
        with pytest.raises(FenceLost):
            write()
    assert not renew(old).alive
    assert Run.objects.values().get() == before
    assert not RunMetrics.objects.exists()
    assert not RunOutput.objects.exists()
    assert renew(new).alive


def test_nothing_can_be_written_between_the_reaping_and_the_next_claim(run):
    old = claim(run.pk, "stopped")
    assert reap(now=later(3600)) == [run.pk]
    assert not renew(old).alive
    for write in (lambda: record_progress(old, step=1), lambda: record_read(old, 100)):
        with pytest.raises(FenceLost):
            write()
    run.refresh_from_db()
    assert run.events_offset == 0
    assert (run.state, run.attempt) == ("queued", 1)
    assert run.events.last().message == "stopped is gone"


def test_a_late_renewal_keeps_the_run_where_nobody_took_it(run):
    held = claim(run.pk, "slow")
    Run.objects.update(lease_until=later(-30))
    assert renew(held).alive
    run.refresh_from_db()
    assert run.lease_until > later(50)


def test_a_lease_without_an_end_is_over(run):
    claim(run.pk, "one")
    Run.objects.update(lease_until=None)
    assert claim(run.pk, "two").fence == 2
    Run.objects.update(lease_until=None)
    assert reap(now=timezone.now()) == [run.pk]


def test_a_run_is_given_up_after_three_attempts_without_saved_progress(run):
    for attempt in (1, 2):
        held = claim(run.pk, "one")
        assert held.run.attempt == attempt
        requeue(held, spend_attempt=True, reason="exit -9")
    held = claim(run.pk, "one")
    ended = requeue(held, spend_attempt=True, reason="exit -9")
    assert ended.state == "failed"
    assert ended.error == "given up after 3 attempts without saved progress between them; the last: exit -9"
    assert claim(run.pk, "two") is None


def test_the_reaper_gives_up_too(run):
    for _ in range(2):
        claim(run.pk, "one")
        assert reap(now=later(3600)) == [run.pk]
    claim(run.pk, "one")
    assert reap(now=later(3600)) == []
    run.refresh_from_db()
    assert (run.state, run.attempt) == ("failed", 3)


def test_a_run_that_waits_while_the_limit_is_lowered_fails_with_the_reason(run, settings):
    for _ in range(2):
        requeue(claim(run.pk, "one"), spend_attempt=True)
    settings.RUN_MAX_ATTEMPTS = 2
    assert claim(run.pk, "two") is None, "nobody can take it"
    assert reap() == []
    run.refresh_from_db()
    assert (run.state, run.finished_at is not None) == ("failed", True)
    assert run.error.endswith(
        "after 2 attempts without saved progress between them; the last: at most 2 are permitted now"
    )


def test_saved_progress_gives_the_attempts_back(run):
    for step in (5, 10, 15, 20):
        held = claim(run.pk, "one")
        record_saved(held, step)
        requeue(held, spend_attempt=True)
    run.refresh_from_db()
    assert (run.state, run.attempt, run.saved_step) == ("queued", 0, 20)
    held = claim(run.pk, "one")
    record_saved(held, 20)  # no further than before
    run.refresh_from_db()
    assert run.attempt == 1


def test_a_drained_worker_spends_no_attempt(run):
    for _ in range(5):
        requeue(claim(run.pk, "one"), spend_attempt=False)
    run.refresh_from_db()
    assert (run.state, run.attempt, run.fence) == ("queued", 0, 5)


def test_a_step_that_comes_again_after_a_resume_replaces_its_metrics(run):
    held = claim(run.pk, "one")
    record_metrics(held, [(1, {"loss": 1.0}), (2, {"loss": 0.5}), (2, {"loss": 0.4, "accuracy": 1})])
    record_metrics(held, [(2, {"loss": 0.3}), (3, {"loss": math.nan, "accuracy": math.inf})])
    assert curves(run) == {"loss": [[1, 1.0], [2, 0.3]]}
    assert RunMetrics.objects.get(run=run, step=3).values == {"loss": None, "accuracy": None}


def test_the_log_takes_whatever_a_process_says(run):
    held = claim(run.pk, "one")
    record_log(held, "a\0b \ud800 " + "x" * 20_000)
    message = read_live(run, now=timezone.now()).log[0].message
    assert len(message) == 10_004
    assert message.endswith("xxx")
    fail(held, "Traceback\n" + "y" * 20_000 + " the cause")
    run.refresh_from_db()
    assert run.error.endswith("the cause")


def test_events_cannot_be_changed(run):
    for change in (lambda: RunEvent.objects.update(message="x"), lambda: RunEvent.objects.all().delete()):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()


def test_a_result_that_is_bit_for_bit_an_older_one_is_its_checkpoint(studio, project):
    for number in (1, 2):
        held = claim(reward_run(studio, project).pk, "one")
        succeed(held, outputs=[{"kind": "reward_model", "id": "d" * 64}], result={})
        assert held.run.number == number
    assert Checkpoint.objects.get(kind="reward_model").origin.run.number == 1
    (message,) = RunEvent.objects.filter(run__number=2, kind="log").values_list("message", flat=True)
    assert "bit for bit reward model 1, which run 1 made" in message


def test_a_result_that_cannot_be_recorded_leaves_nothing_behind(run):
    held = claim(run.pk, "one")
    outputs = [{"kind": "reward_model", "id": "d" * 64}, {"kind": "reward_model", "id": run.policy.sha256}]
    with pytest.raises(WrongCheckpoint):  # the second is known as a policy
        succeed(held, outputs=outputs, result={})
    run.refresh_from_db()
    assert run.state == "starting"
    assert not Checkpoint.objects.filter(sha256="d" * 64).exists()
    assert not RunOutput.objects.exists()


# --- Cancelling ------------------------------------------------------------------------------------------------------


def test_a_queued_run_is_cancelled_at_once_and_for_good(studio, run):
    assert cancel(actor=studio.admin, run=run).state == "cancelled"
    assert claim(run.pk, "one") is None
    assert reap(now=later(3600)) == []
    run.refresh_from_db()
    assert run.finished_at


def test_a_held_run_is_cancelled_by_its_holder(studio, run):
    held = claim(run.pk, "one")
    assert not renew(held).cancel_requested
    assert cancel(actor=studio.admin, run=run).state == "cancelling"
    assert cancel(actor=studio.admin, run=run).state == "cancelling"  # once more does no harm
    assert renew(held).cancel_requested
    record_progress(held, step=2)  # what it says meanwhile is heard
    run.refresh_from_db()
    assert (run.state, run.step) == ("cancelling", 2)
    assert finish_cancelled(held).state == "cancelled"
    assert cancel(actor=studio.admin, run=run).state == "cancelled"


@pytest.mark.parametrize(
    "ending",
    [
        lambda held: succeed(held, outputs=[{"kind": "reward_model", "id": "f" * 64}], result={}),
        lambda held: fail(held, "stopped"),
        lambda held: requeue(held, spend_attempt=True),
        lambda held: reap(now=later(3600)),
    ],
)
def test_however_a_cancelled_run_ends_it_is_cancelled_and_has_no_output(studio, run, ending):
    held = claim(run.pk, "one")
    cancel(actor=studio.admin, run=run)
    ending(held)
    run.refresh_from_db()
    assert run.state == "cancelled"
    assert not RunOutput.objects.exists()
    assert claim(run.pk, "two") is None


def test_a_cancelled_run_whose_holder_does_not_stop_is_ended_after_two_minutes(studio, run):
    held = claim(run.pk, "deaf")
    cancel(actor=studio.admin, run=run)
    Run.objects.update(cancel_requested_at=later(-110))
    assert renew(held).cancel_requested
    reap(now=later(0))
    assert renew(held).alive
    Run.objects.update(cancel_requested_at=later(-130))
    reap(now=later(0))
    run.refresh_from_db()
    assert (run.state, run.error) == ("cancelled", "deaf is gone or does not stop")
    assert not renew(held).alive


def test_a_finished_run_cannot_be_cancelled(studio, run):
    succeed(claim(run.pk, "one"), outputs=[], result={})
    assert cancel(actor=studio.admin, run=run).state == "succeeded"


# --- The reaper ------------------------------------------------------------------------------------------------------


def test_the_reaper_names_what_waits_longest_first_and_leaves_live_leases_alone(studio, project):
    first, second, third = (reward_run(studio, project) for _ in range(3))
    claim(second.pk, "one")
    assert reap(now=timezone.now()) == [first.pk, third.pk]
    assert reap(now=later(3600)) == [first.pk, second.pk, third.pk]


def test_a_database_that_has_just_started_gives_holders_time_to_renew(run, settings):
    claim(run.pk, "one")
    Run.objects.update(lease_until=later(-1))
    settings.RUN_LEASE_SECONDS = 10**6  # longer than the test's server has been up
    assert reap() == []
    settings.RUN_LEASE_SECONDS = 0
    assert reap() == [run.pk]
