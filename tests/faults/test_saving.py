"""Kills while something is being saved: what is on disk afterwards is the old or the new, whole; never a part of one.

A number in a name is the row of the project's list of fault tests. The processes are ``python -m rlhf_core`` as a
supervisor starts them; each kills itself with SIGKILL at a named point (docs/run-protocol.md).
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf_core.checkpoint import load_reward_model, save_policy, verify
from rlhf_core.config import ModelConfig, RewardConfig
from rlhf_core.durable import FAILPOINTS, remove_unfinished
from rlhf_core.modules.palm import PaLM
from rlhf_core.records import Comparison, feedback_to_line
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.run_directory import RunDirectory, read_events

STEPS, INTERVAL = 5, 2  # states are saved at steps 2 and 4, the checkpoint after step 5
BLOBS = 2  # written into a state, and into a checkpoint
CONFIG = RewardConfig(
    epochs=1, batch_size=8, holdout_fraction=0.0, lora_rank=2, minimum_ratings=20, save_interval=INTERVAL, threads=1
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A tiny policy in a store, and forty comparisons."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = Tokenizer.train(["a film about a film"] * 3, 262)
    torch.manual_seed(0)
    palm = PaLM.from_config(ModelConfig(num_tokens=tokenizer.vocab_size, dim=32, depth=2, heads=2, dim_head=16))
    save_policy(folder / "store", palm, tokenizer, {}).path.rename(folder / "policy")
    chance = random.Random(0)
    with (folder / "feedback.jsonl").open("w") as file:
        for number in range(STEPS * CONFIG.batch_size):
            chosen, rejected = ((*chance.choices(range(90, 150), k=6), 2) for _ in range(2))
            record = Comparison(f"p{number}", (1, 50 + number), chosen, rejected, rating_id=str(number))
            file.write(feedback_to_line(record) + "\n")
    return folder


@pytest.fixture
def run(inputs, tmp_path) -> RunDirectory:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "feedback.jsonl").write_bytes((inputs / "feedback.jsonl").read_bytes())
    return RunDirectory.create(
        folder,
        kind="reward",
        config=CONFIG,
        store=tmp_path / "store",
        policy=inputs / "policy",
        feedback=folder / "feedback.jsonl",
    )


def train(run: RunDirectory, failpoint: str = "") -> int:
    """Train in a process that dies at ``failpoint``; returns its exit code."""
    command = [sys.executable, "-m", "rlhf_core", "reward", "--run-dir", str(run.path)]
    environment = {**os.environ, "STEERSMAN_FAILPOINT": failpoint, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def whole_checkpoints(run: RunDirectory) -> list[Path]:
    """What a reader of the store would take for a checkpoint; each of them loads."""
    if not run.store.exists():
        return []
    found = [path for path in run.store.iterdir() if not path.name.startswith(".")]
    for path in found:
        load_reward_model(path)
    return found


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory) -> str:
    """The id of the checkpoint that a run without a kill makes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "feedback.jsonl").write_bytes((inputs / "feedback.jsonl").read_bytes())
    run = RunDirectory.create(
        folder,
        kind="reward",
        config=CONFIG,
        store=folder / "store",
        policy=inputs / "policy",
        feedback=folder / "feedback.jsonl",
    )
    assert train(run) == 0
    assert run.result is not None
    return str(run.result["outputs"][0]["id"])


@pytest.mark.parametrize("point", FAILPOINTS)
def test_26_a_kill_at_any_point_of_a_save_leaves_the_old_or_the_new_and_never_a_torn_one(run, undisturbed, point):
    times = BLOBS if "blob" in point else 1  # in one save
    is_renamed = point == "after-rename"

    # The second state: the one before it is found, or the new one where it has its name already.
    assert train(run, f"{point}:{times + 1}") == -signal.SIGKILL
    state = RunDirectory(run.path).load_state()
    assert state is not None
    assert state.step == (2 * INTERVAL if is_renamed else INTERVAL)
    assert whole_checkpoints(run) == []

    # The checkpoint: none is found, or the whole one. Before it come step 4, where it was lost, and the last step.
    earlier = times if is_renamed else 2 * times
    assert train(run, f"{point}:{earlier + 1}") == -signal.SIGKILL
    state = RunDirectory(run.path).load_state()
    assert state is not None
    assert state.step == 2 * INTERVAL + 1
    assert not list((run.path / "state").glob(".writing-*"))  # the next start has cleared away what was half written
    assert [path.name for path in whole_checkpoints(run)] == ([undisturbed] if is_renamed else [])

    # Left alone it ends as if nothing had been, with one checkpoint.
    assert train(run) == 0
    assert run.result is not None
    assert [output["id"] for output in run.result["outputs"]] == [undisturbed]
    assert [path.name for path in whole_checkpoints(run)] == [undisturbed]
    verify(run.store / undisturbed)
    events = read_events(run.path / "events.jsonl")[0]
    assert [event for event in events if event["kind"] == "log" and "damaged" in event["message"]] == []
    remove_unfinished(run.store, older_than_seconds=0.0)  # as the next writer does a day later
    assert [path.name for path in run.store.iterdir()] == [undisturbed]


def test_a_kill_during_the_very_first_save_leaves_none_and_the_run_begins_again(run, undisturbed):
    assert train(run, "before-rename") == -signal.SIGKILL
    assert RunDirectory(run.path).load_state() is None
    assert train(run) == 0
    assert [path.name for path in whole_checkpoints(run)] == [undisturbed]
