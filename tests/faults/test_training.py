"""Training under faults: processes are killed, stopped and hung; every run ends with one checkpoint, nothing twice."""

import os
import signal
import time

from tests.faults.watching import assert_nothing_twice, events, fresh, until, wait_for_saved, wait_for_state
from webapp.local.process import is_running
from webapp.runs.services import cancel
from workers.run_files import run_folder

TRAINER = ("manage.py", "run_trainer")


def test_a_killed_training_process_goes_on_from_its_last_state(ask, start):
    run = ask()
    start(*TRAINER, "--once")
    child = wait_for_saved(run)
    os.killpg(child, signal.SIGKILL)
    began = time.monotonic()
    wait_for_state(run, "succeeded")
    assert time.monotonic() - began < 30
    assert any("SIGKILL" in message for message in events(run, "log"))
    assert len(events(run, "claimed")) == 1
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


def test_a_stopped_supervisor_is_fenced_out_when_it_wakes_up(ask, start, tmp_path):
    run = ask(epochs=20)
    first = start(*TRAINER, "--once")
    child = wait_for_saved(run)
    first.send_signal(signal.SIGSTOP)
    start(*TRAINER)
    until(lambda: fresh(run).fence == 2, 20, "another supervisor has the run")
    until(lambda: not is_running(child), 10, "the first one's process is gone")
    first.send_signal(signal.SIGCONT)
    assert first.wait(20) == 0
    assert "holds no longer" in (tmp_path / "process-0.log").read_text()
    wait_for_state(run, "succeeded")
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


def test_a_run_is_cancelled_in_the_middle_of_a_step(ask, start):
    run = ask(epochs=500)
    start(*TRAINER, "--once")
    child = wait_for_saved(run)
    cancel(actor=None, run=run)
    wait_for_state(run, "cancelled", seconds=8)  # of 75 s: the next renewal, then the save
    until(lambda: not is_running(child), 5, "the training process is gone")
    assert not run.outputs.exists()


def test_a_waiting_run_is_cancelled_at_once_and_never_begins(ask, start):
    run = ask()
    cancel(actor=None, run=run)
    assert fresh(run).state == "cancelled"
    assert start(*TRAINER, "--once").wait(30) == 0
    assert not run_folder(run).exists()


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
