"""Processes that one command starts: they train as one, stop as one, and end as one when one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_core import launch
from rlhf_core.checkpoint import load_policy
from rlhf_core.training import device
from rlhf_core.training.run_directory import RunDirectory, read_events
from tests.core.several_processes import gradients_of_a_run
from tests.core.small_runs import make_inputs, make_small_run

ROOT = Path(__file__).parents[2]
OURS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def run(tmp_path):
    return make_small_run(
        make_inputs(tmp_path), "sft", processes=2, epochs=60, save_interval=1, validation_interval=500
    )


def begin(run: Path, *more: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_core", "sft", "--run-dir", str(run), *more],
        env={**os.environ, **OURS, **variables},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        pass_fds=[int(word) for word in more if word.isdigit()],
    )


def ranks_of(launcher: subprocess.Popen) -> dict[int, int]:
    """The processes that a launcher has started, by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = {}
    for child in children:
        words = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(word[5:]): int(child) for word in words if word.startswith(b"RANK=")}
    return found


def wait_until_saved(run: Path, launcher: subprocess.Popen, step: int) -> None:
    end = time.monotonic() + 60
    while not any(event["kind"] == "saved" and event["step"] >= step for event in read_events(run / "events.jsonl")[0]):
        assert launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_process_ends_all_of_them_and_the_run_goes_on(run, monkeypatch):
    launcher = begin(run)
    wait_until_saved(run, launcher, 3)
    ranks = ranks_of(launcher)
    assert ranks.keys() == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == -signal.SIGKILL, output  # as a run of one process that is killed
    assert f"process 2 (pid {ranks[1]} on " in output
    assert "has ended without a word" in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())

    reading, writing = os.pipe()
    again = begin(run, "--control-fd", str(reading))
    os.close(reading)
    saved = RunDirectory(run).saved_place[0]
    wait_until_saved(run, again, saved + 1)
    os.close(writing)  # its supervisor is gone: all save and stop
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 75, output
    assert RunDirectory(run).saved_place[0] > saved
    assert RunDirectory(run).result is None

    monkeypatch.setattr(device, "uses_cuda", lambda: False)
    assert gradients_of_a_run("sft", run)[0] == 0  # by one process
    result = RunDirectory(run).result
    assert load_policy(result["outputs"][0]["path"])[2]["meta"]["config"]["processes"] == 2
    steps = [event["step"] for event in read_events(run / "events.jsonl")[0] if event["kind"] == "metrics"]
    assert {1, 10, 20} <= set(steps)


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([75, 75], 75),
        ([1, -9], -9),  # the one that lost the other says less than the other's own end
        ([1, 4], 4),
        ([-9, 2], 2),
        ([-15, 3], 3),
        ([1, -15], 1),  # we ended it
    ],
)
def test_one_exit_code_stands_for_all(codes, code):
    assert launch.code_of_all(codes) == code
