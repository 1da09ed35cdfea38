"""Training under faults: processes are killed, stopped and hung; every run ends with one checkpoint, nothing twice.

A number in a name is the row of the project's list of fault tests. Where a row waits for more than 30 seconds, all
periods are a tenth (``HURRIED`` in conftest.py), and the test names both values.
"""

import json
import os
import signal
import time
from pathlib import Path

from tests.faults.watching import (
    assert_nothing_twice,
    assert_stays_cancelled,
    child_of,
    events,
    fresh,
    stored_state,
    until,
    wait_for_saved,
    wait_for_state,
)
from webapp.local.process import is_running
from webapp.runs.models import Run, RunEvent
from webapp.runs.services import cancel
from workers.run_files import read_child, run_folder

TRAINER = ("manage.py", "run_trainer")


def written_events(run: Run) -> list[dict]:
    """What the training process has written down so far, a line that is not whole yet left out."""
    lines = (run_folder(run) / "events.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def pause_when(run: Run, true, what: str) -> int:
    """Stop the training process at a moment at which ``true()`` holds; returns its id."""
    child = child_of(run)

    def is_caught() -> bool:
        if not true():
            return False
        os.kill(child, signal.SIGSTOP)
        until(lambda: is_stopped(child), 5, "the process stands")
        if true():  # it may have gone on for an instant
            return True
        os.kill(child, signal.SIGCONT)
        return False

    end = time.monotonic() + 40
    while not is_caught():  # no pause between two looks: the moment may be short
        assert is_running(child), "the training process ended before"
        assert time.monotonic() < end, f"in 40 s there was no moment when {what}"
    return child


def test_12_a_ppo_process_killed_in_the_middle_of_a_step_goes_on_from_its_last_state(ask_policy, start):
    run = ask_policy(save_interval=5)
    start(*TRAINER, "--once")
    wait_for_saved(run, step=5)

    def is_learning() -> bool:
        """In the round after a saved one: its rollout is drawn, its optimiser steps are not all done."""
        *_, before, last = written_events(run)
        return (before["kind"], last["kind"], last.get("phase")) == ("progress", "progress", "learn")

    child = pause_when(run, is_learning, "a round was being learnt")
    written = written_events(run)
    done, saved = written[-1]["step"], stored_state(run)
    killed_at = time.time()
    os.killpg(child, signal.SIGKILL)
    until(lambda: len(written_events(run)) > len(written), 30, "another process trains")
    wait_for_state(run, "succeeded")
    after = next(event for event in written_events(run)[len(written) :] if event["kind"] == "metrics")
    assert after["time"] - killed_at < 30
    assert after["step"] == saved + 1  # from the last state, not from the beginning
    assert 0 <= done - saved <= 5  # lost: one interval between two states at most
    assert any("SIGKILL" in message for message in events(run, "log"))
    assert len(events(run, "claimed")) == 1  # the same supervisor saw the exit and went on
    assert_nothing_twice(run)


def test_a_killed_supervisor_takes_its_child_along_and_another_goes_on(ask, start):
    run = ask(epochs=12)
    supervisor = start(*TRAINER)
    child = wait_for_saved(run)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not is_running(child), 10, "the training process is gone")
    start(*TRAINER)
    wait_for_state(run, "succeeded")
    assert len(events(run, "claimed")) == 2
    assert len(events(run, "lost")) == 1
    assert_nothing_twice(run)


def test_17_a_supervisor_stopped_for_long_is_taken_over_and_fenced_out_when_it_wakes_up(ask, start, look, tmp_path):
    """Stopped for 18 s, in production 180 s, against a lease of 6 s, in production 60 s.

    It is stopped between two transactions: stopped inside of one, it would keep the run's row until the database ends
    its session, which is after 60 s here as in production.
    """
    run = ask()
    first = start(*TRAINER, "--once")
    child = wait_for_saved(run)

    def stands_outside() -> bool:
        first.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(first.pid) and not look("state = 'active'"), 10, "the supervisor stands")
        if not look("state LIKE 'idle in transaction%'"):
            return True
        first.send_signal(signal.SIGCONT)
        return False

    until(stands_outside, 30, "the supervisor stands outside of a transaction")
    stopped_at = time.monotonic()
    os.kill(child, signal.SIGSTOP)  # its process too, which would be done before anybody takes over
    start(*TRAINER, RUN_STALL_SECONDS="60")
    until(lambda: fresh(run).fence == 2, 30, "another supervisor has the run")
    until(lambda: not is_running(child), 10, "the first one's process is gone")
    taken_over = RunEvent.objects.get(run=run, kind="claimed", fence=2)

    def second_child() -> int | None:
        found = read_child(run_folder(run))
        return found[0] if found and found[0] != child and is_running(found[0]) else None

    second = until(second_child, 20, "the second one's process trains")
    written = len(written_events(run))
    until(lambda: len(written_events(run)) > written, 20, "it goes on")
    os.kill(second, signal.SIGSTOP)  # so that the run is still being trained when the first one wakes up
    until(lambda: time.monotonic() - stopped_at > 18, 20, "the first one was stopped for 18 s")
    first.send_signal(signal.SIGCONT)
    assert first.wait(20) == 0
    assert "holds no longer" in (tmp_path / "process-0.log").read_text()
    assert fresh(run).state == "running"
    os.kill(second, signal.SIGCONT)
    wait_for_state(run, "succeeded")
    later = RunEvent.objects.filter(run=run, pk__gte=taken_over.pk)
    assert set(later.values_list("fence", flat=True)) == {2}  # the log, the checkpoint, the end: all the second one's
    assert fresh(run).fence == 2
    assert_nothing_twice(run)


def test_a_hung_training_process_is_killed_and_started_again(ask, start):
    run = ask(epochs=12)
    start(*TRAINER, "--once", RUN_STALL_SECONDS="3")
    child = wait_for_saved(run)
    os.kill(child, signal.SIGSTOP)  # so it does not listen to SIGTERM either
    until(lambda: not is_running(child), 15, "the hung process is gone")
    wait_for_state(run, "succeeded")
    assert any("made no step for 3 s" in message for message in events(run, "log"))
    assert_nothing_twice(run)


def test_33_a_run_is_cancelled_in_the_middle_of_a_step(ask, start):
    """Within 7.5 s, in production 75 s."""
    run = ask(epochs=500)
    start(*TRAINER, "--once")
    child = wait_for_saved(run)
    cancel(actor=None, run=run)
    wait_for_state(run, "cancelled", seconds=7.5)  # the next renewal, then the save
    until(lambda: not is_running(child), 5, "the training process is gone")
    assert stored_state(run) >= 20
    assert_stays_cancelled(run)


def test_33_a_run_is_cancelled_in_the_middle_of_a_save(ask, start, tmp_path):
    """Within 7.5 s, in production 75 s; SIGKILL would follow SIGTERM after 6 s, in production 60 s."""
    run = ask(epochs=500, save_interval=1)
    start(*TRAINER, "--once", RUN_STOP_SECONDS="6")
    wait_for_saved(run, step=5)
    half_written = run_folder(run) / "state"
    child = pause_when(run, lambda: any(half_written.glob(".writing-*")), "a state was half written")
    cancel(actor=None, run=run)
    cancelled_at = time.monotonic()
    asked = "asked to stop (cancel)"  # SIGTERM waits until the process goes on
    until(lambda: asked in (tmp_path / "process-0.log").read_text(), 6, "the training process is asked to stop")
    assert any(half_written.glob(".writing-*"))
    os.kill(child, signal.SIGCONT)
    wait_for_state(run, "cancelled", seconds=7.5 - (time.monotonic() - cancelled_at))
    until(lambda: not is_running(child), 5, "the training process is gone")
    assert not any(half_written.glob(".writing-*"))
    assert stored_state(run) >= 5
    assert_stays_cancelled(run)


def test_33_a_waiting_run_is_cancelled_at_once_and_never_begins(ask, start):
    run = ask()
    cancel(actor=None, run=run)
    assert_stays_cancelled(run)
    assert start(*TRAINER, "--once").wait(30) == 0
    assert not run_folder(run).exists()
    assert_stays_cancelled(run)


def test_a_stopping_trainer_saves_and_spends_no_attempt(ask, start):
    run = ask(epochs=12)
    trainer = start(*TRAINER)
    child = wait_for_saved(run)
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(15) == 0
    assert not is_running(child)
    assert (fresh(run).state, fresh(run).attempt) == ("queued", 0)
    start(*TRAINER, "--once")
    wait_for_state(run, "succeeded")
    assert_nothing_twice(run)
