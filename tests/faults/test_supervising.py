"""What a supervisor makes of a training process that refuses, keeps dying, or leaves a damaged checkpoint."""

import json
import os
import signal
import time

import pytest
from django.db import OperationalError, connection

from tests.faults.watching import assert_nothing_twice, events, fresh, wait_for_saved, wait_for_state
from workers.run_files import run_folder, write_run_directory
from workers.supervisor import Supervision, TrainingProcess, supervise


@pytest.fixture
def run(ask, hurried):
    return ask()


def test_a_refusal_becomes_the_runs_error(run):
    write_run_directory(run)
    feedback = run_folder(run) / "feedback.jsonl"
    feedback.write_text("".join(feedback.read_text().splitlines(keepends=True)[:5]))
    assert supervise(run.pk)
    assert fresh(run).state == "failed"
    assert fresh(run).error == "found 5 usable ratings; at least 20 are needed"
    assert not supervise(run.pk)  # a finished run is left alone


def test_a_run_whose_policy_is_damaged_does_not_begin(run, steersman_data):
    weights = steersman_data / "checkpoints" / run.policy.sha256 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert supervise(run.pk)
    assert fresh(run).state == "failed"
    assert "could not begin" in fresh(run).error
    assert "model.safetensors" in fresh(run).error


def test_a_process_that_dies_without_progress_is_tried_three_times(run, monkeypatch):
    monkeypatch.setenv("STEERSMAN_FAILPOINT", "before-manifest")  # the first save kills it
    assert supervise(run.pk)
    assert fresh(run).state == "failed"
    assert "attempt 3 without progress" in fresh(run).error
    assert sum("SIGKILL" in message and "started again" in message for message in events(run, "log")) == 2


def test_a_process_that_dies_after_progress_is_tried_on_and_on(run, monkeypatch):
    monkeypatch.setenv(
        "STEERSMAN_FAILPOINT", "before-manifest:3"
    )  # each attempt saves twice, then dies: 12 saves, 7 lives
    assert supervise(run.pk)
    assert fresh(run).state == "succeeded"
    assert sum("SIGKILL" in message for message in events(run, "log")) >= 3
    assert_nothing_twice(run)


def test_a_process_that_goes_on_inside_of_a_round_is_tried_on_and_on(ask_policy, hurried, settings, monkeypatch):
    # Each attempt saves after five or six of the twelve optimiser steps of the only round, then dies.
    monkeypatch.setenv("STEERSMAN_FAILPOINT", "before-manifest:8")
    settings.RUN_MAX_ATTEMPTS = 2
    run = ask_policy(updates=1, ppo_epochs=6, critic_warmup_updates=0, step_save_seconds=0)
    monkeypatch.setattr(Supervision, "pause", lambda self, seconds: None)
    assert supervise(run.pk)
    assert fresh(run).state == "succeeded", fresh(run).error
    killed = [message for message in events(run, "log") if "killed (SIGKILL), most likely by the kernel" in message]
    assert len(killed) == 2
    assert "What helps: a smaller micro_batch_size (now the whole minibatch), activation_checkpointing" in killed[0]
    lines = (run_folder(run) / "events.jsonl").read_text().splitlines()
    saved = [(event["step"], event["part"]) for event in map(json.loads, lines) if event["kind"] == "saved"]
    assert {step for step, _ in saved[:-1]} == {0}  # by rounds alone there would have been no progress
    assert_nothing_twice(run)


def test_two_processes_train_a_run_together_and_go_on_when_one_is_killed(ask, hurried, monkeypatch):
    monkeypatch.setenv("STEERSMAN_FAILPOINT", "before-manifest:4")  # three saves, then the first process dies
    monkeypatch.setattr(Supervision, "pause", lambda self, seconds: None)
    run = ask(epochs=3, processes=2)
    assert supervise(run.pk)
    assert fresh(run).state == "succeeded", fresh(run).error
    assert sum("killed (SIGKILL)" in message for message in events(run, "log")) == 1
    assert len(events(run, "claimed")) == 1
    told = (run_folder(run) / "output.log").read_text()
    assert "process 2 of 2 has lost another one" in told
    assert "a process of 2 was ended by SIGKILL" in told
    assert_nothing_twice(run)


def test_a_process_without_memory_says_what_helps(run, settings, monkeypatch, tmp_path):
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "sys.path.insert(0, os.getcwd())\n"
        "if '-m' in sys.orig_argv and 'rlhf_core' in sys.orig_argv:\n"
        "    from rlhf_core.training import reward\n"
        "    def greedy(*_):\n"
        "        import torch\n"
        "        torch.empty(2**52)\n"
        "    reward.train_reward = greedy\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    settings.RUN_MAX_ATTEMPTS = 1
    assert supervise(run.pk)
    assert fresh(run).state == "failed"
    assert "The training process has no memory left: memory ran out:" in fresh(run).error
    assert "What helps: a smaller batch_size (now 2)" in fresh(run).error


def test_a_damaged_checkpoint_is_not_recorded(run, steersman_data):
    write_run_directory(run)
    folder = steersman_data / "checkpoints" / ("ab" * 32)
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    output = {"kind": "reward_model", "id": folder.name, "path": str(folder)}
    (run_folder(run) / "result.json").write_text(json.dumps({"outputs": [output], "metrics": {}}))
    assert supervise(run.pk)
    assert fresh(run).state == "failed"
    assert "checkpoint is damaged" in fresh(run).error
    assert not run.outputs.exists()


def test_what_a_run_reports_is_kept_with_its_numbers(run, steersman_data, monkeypatch):
    write_run_directory(run)
    output = {"kind": "reward_model", "id": "ab" * 32, "path": "of no matter"}
    report = {"calibration": {"error": 0.1, "count": 3, "bins": []}}
    result = {"outputs": [output], "metrics": {"loss": 0.5}, "report": report}
    (run_folder(run) / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr("workers.supervisor.verify", lambda path: output)
    assert supervise(run.pk)
    assert fresh(run).result == {"loss": 0.5, "report": report}
    assert run.outputs.get().metrics == {"loss": 0.5}


def test_the_lease_is_kept_while_files_are_written_and_read(run, steersman_data, settings, monkeypatch):
    output = {"kind": "reward_model", "id": "ab" * 32, "path": "of no matter"}
    ends = []

    def slowly(work):
        def wait(*args):
            before = fresh(run).lease_until
            time.sleep(3 * settings.RUN_RENEW_SECONDS)
            ends.append(fresh(run).lease_until - before)
            return work(*args)

        return wait

    def write(row):
        directory = write_run_directory(row)
        (run_folder(row) / "result.json").write_text(json.dumps({"outputs": [output], "metrics": {}}))
        return directory

    monkeypatch.setattr("workers.supervisor.write_run_directory", slowly(write))
    monkeypatch.setattr("workers.supervisor.verify", slowly(lambda path: output))
    assert supervise(run.pk)
    assert fresh(run).state == "succeeded"
    assert len(ends) == 2
    assert all(end.total_seconds() > settings.RUN_RENEW_SECONDS for end in ends), ends


def test_a_database_that_is_away_for_a_moment_at_the_beginning_ends_nothing(run, monkeypatch):
    away = [OperationalError("away"), OperationalError("away")]
    renew, write = Supervision.renew, write_run_directory

    def write_if_there(row):
        if len(away) == 2:
            raise away.pop()
        return write(row)

    def renew_if_there(self):
        if away:
            raise away.pop()
        renew(self)

    monkeypatch.setattr("workers.supervisor.write_run_directory", write_if_there)
    monkeypatch.setattr(Supervision, "renew", renew_if_there)
    assert supervise(run.pk)
    assert (fresh(run).state, away) == ("succeeded", [])


def test_a_supervisor_whose_connection_is_cut_goes_on_and_loses_nothing(run, start):
    start("manage.py", "run_trainer", "--once")
    wait_for_saved(run)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'steersman-worker'"
        )
        assert cursor.fetchone()[0] >= 1
    wait_for_state(run, "succeeded")
    assert len(events(run, "claimed")) == 1
    assert_nothing_twice(run)


def test_the_last_steps_are_recorded_though_the_database_was_away_as_the_process_ended(run, monkeypatch):
    record, close = Supervision.record, TrainingProcess.close
    is_away = True

    def record_if_there(self, events, offset):
        if is_away and (self.folder / "result.json").exists():
            raise OperationalError("away")
        record(self, events, offset)

    def come_back(self):
        nonlocal is_away
        is_away = False
        close(self)

    monkeypatch.setattr(Supervision, "record", record_if_there)
    monkeypatch.setattr(TrainingProcess, "close", come_back)
    assert supervise(run.pk)
    assert_nothing_twice(run)


def test_a_process_that_ends_as_it_is_asked_to_stop_is_still_found(run):
    directory = write_run_directory(run)
    child = TrainingProcess(directory.kind, run_folder(run), threads=1)
    try:
        assert child.poll() is None
        os.killpg(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has looked yet
        child.send(signal.SIGTERM)
        child.wait(0.1)
        assert child.poll() == -signal.SIGKILL
        child.send(signal.SIGTERM)  # nor does it matter afterwards
    finally:
        child.close()
