"""Several processes train as one: the same gradients, the same texts, the same end, whatever becomes of a process."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from rlhf_core import cli, distributed
from rlhf_core.checkpoint import load_policy, load_reward_model
from rlhf_core.distributed import ALONE, Group, open_group
from rlhf_core.errors import ConfigError
from rlhf_core.training import device, reward
from rlhf_core.training.run_directory import RunDirectory, read_events
from tests.core.several_processes import gradients_of_a_run
from tests.core.small_runs import CONFIGS, make_inputs, make_small_run

SCRIPT = Path(__file__).with_name("several_processes.py")
ROOT = SCRIPT.parents[2]
LEARNING = [kind for kind in CONFIGS if kind != "evaluate"]
SECONDS = 120.0


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """A run directory by name; its kind is what stands before the first hyphen."""
    inputs = make_inputs(tmp_path_factory.mktemp("several"))
    return partial(make_small_run, inputs)


def start(*command: str, **variables: str) -> subprocess.Popen:
    """A launcher, or a process that one would have started, in a session of its own."""
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **ours, **variables},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end_of(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and output; a launcher that does not end is ended with its processes."""
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"the launcher did not end:\n{output}")
    return process.returncode, output


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def finished(make_run):
    """Each run's folder by name, once trained alone and once by two processes.

    ``together``: two launchers, which meet on loopback as those of two machines would, with one process each.
    ``stopped`` and ``killed`` are left so by two processes of one launcher, then resumed by one process.
    ``half`` was begun by one process and is resumed by two.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward, "DROPOUT", 0.0)
        patch.setattr(device, "uses_cuda", lambda: False)
        yield train_all(make_run)


def train_all(make_run) -> dict:
    runs = {name: make_run(name) for kind in CONFIGS for name in (f"{kind}-alone", f"{kind}-together")}
    runs |= {name: make_run(name) for name in ("sft-half", "sft-stopped", "policy-killed")}
    runs["sft-launched"] = make_run("sft-launched")
    runs |= {name: make_run(name, fsdp=True) for name in ("pretrain-spread", "sft-spread", "sft-spread-stopped")}
    assert gradients_of_a_run("sft", runs["sft-half"], event="stop")[0] == 75

    # As mpirun starts them: nobody but the processes themselves sees to it that all end with one.
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMPI_COMM_WORLD_SIZE": "2"}
    disturbed = [str(SCRIPT), "sft", str(runs["sft-spread-stopped"]), "stop", "sft", str(runs["sft-spread-stopped"])]
    disturbed += ["sft", str(runs["sft-stopped"]), "stop", "policy", str(runs["policy-killed"]), "kill"]
    launchers = [start(*disturbed, **meet, OMPI_COMM_WORLD_RANK=rank) for rank in ("0", "1")]
    shared = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    named = [part for kind in CONFIGS for part in (kind, str(runs[f"{kind}-together"]))]
    named += ["sft", str(runs["sft-half"])]
    named += ["pretrain", str(runs["pretrain-spread"]), "sft", str(runs["sft-spread"])]
    torchrun = ["-m", "torch.distributed.run", *shared, "--node-rank"]
    launchers += [start(*torchrun, rank, str(SCRIPT), *named) for rank in ("0", "1")]
    if all(find_spec(package) for package in ("accelerate", "tensorboard")):
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        launcher += ["--main_process_port", str(free_port()), "-m"]
        command = ["rlhf_core", "sft", "--run-dir", str(runs["sft-launched"]), "--progress", "none"]
        launchers.append(start(*launcher, *command, "--track", "tensorboard"))
    ended = [end_of(launcher) for launcher in launchers]
    assert [code for code, _ in ended[2:4]] == [0, 0], ended
    seen = {}
    for kind in CONFIGS:
        code, seen[f"{kind}-alone"] = gradients_of_a_run(kind, runs[f"{kind}-alone"])
        assert code == 0, kind
        seen[f"{kind}-together"] = safetensors.torch.load_file(runs[f"{kind}-together"] / "gradients.safetensors")
    for name in ("pretrain-spread", "sft-spread"):
        seen[name] = safetensors.torch.load_file(runs[name] / "gradients.safetensors")
    accelerate = ended[4] if len(ended) > 4 else None
    return {"runs": runs, "gradients": seen, "disturbed": ended[:2], "accelerate": accelerate}


def events(folder: Path, kind: str) -> list[dict]:
    return [event for event in read_events(folder / "events.jsonl")[0] if event["kind"] == kind]


def learning_log(folder: Path) -> dict[int, dict[str, float]]:
    return {
        event["step"]: {name: value for name, value in event["metrics"].items() if name != "tokens_per_second"}
        for event in events(folder, "metrics")
    }


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    outputs = RunDirectory(folder).result["outputs"]
    assert len(outputs) == (RunDirectory(folder).kind != "evaluate")
    loaders = {"policy": load_policy, "reward_model": load_reward_model}
    return {
        name: one for output in outputs for name, one in loaders[output["kind"]](output["path"])[0].named_parameters()
    }


def assert_same_end(one: Path, other: Path) -> None:
    found, expected = (
        {name: x for name, x in RunDirectory(folder).result["metrics"].items() if name != "tokens_per_second"}
        for folder in (one, other)
    )
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert_close(weights_of(one), weights_of(other), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", LEARNING)
def test_two_processes_take_the_steps_of_one(finished, kind):
    together, alone = (finished["gradients"][f"{kind}-{which}"] for which in ("together", "alone"))
    assert together.keys() == alone.keys()
    first = {name for name in alone if name.startswith("001.")}
    assert first
    assert max(float(alone[name].abs().max()) for name in first) > 1e-3  # there is something to agree on
    for name in alone:
        assert_close(together[name], alone[name], atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_spread_weights_learn_as_whole_ones_do(finished, kind):
    spread, alone = (finished["gradients"][f"{kind}-{which}"] for which in ("spread", "alone"))
    assert_close(spread, alone, atol=1e-5, rtol=1e-5)
    assert_same_end(finished["runs"][f"{kind}-spread"], finished["runs"][f"{kind}-alone"])


def test_a_run_with_spread_weights_stops_and_goes_on(finished):
    folder = finished["runs"]["sft-spread-stopped"]
    assert [event["message"] for event in events(folder, "log")].count("stopped after step 3") == 1
    assert_same_end(folder, finished["runs"]["sft-alone"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_two_processes_end_as_one_does_and_the_first_alone_writes(finished, kind):
    together, alone = (finished["runs"][f"{kind}-{which}"] for which in ("together", "alone"))
    assert_same_end(together, alone)
    steps = [event["step"] for event in events(together, "metrics")]
    assert steps == [event["step"] for event in events(alone, "metrics")]
    assert_close(learning_log(together), learning_log(alone), atol=1e-4, rtol=1e-4)
    texts = [[(one["step"], one["response"]) for one in events(folder, "sample")] for folder in (together, alone)]
    assert texts[0] == texts[1]
    if kind == "evaluate":
        lines = [(folder / "samples.jsonl").read_text().splitlines() for folder in (together, alone)]
        answers = [[json.loads(line)["tokens"] for line in part] for part in lines]
        assert answers[0] == answers[1]


def test_a_run_goes_on_with_another_number_of_processes(finished):
    runs = finished["runs"]
    assert_same_end(runs["sft-half"], runs["sft-alone"])  # begun by one, ended by two
    stopped = runs["sft-stopped"]  # begun by two, of which the second was asked to stop
    assert RunDirectory(stopped).result is None
    assert [event["message"] for event in events(stopped, "log")][-1] == "stopped after step 3"
    assert gradients_of_a_run("sft", stopped)[0] == 0
    assert_same_end(stopped, runs["sft-alone"])


def test_a_killed_process_ends_the_others_and_the_run_goes_on(finished):
    (code, output), (killed_code, _) = finished["disturbed"]
    assert (code, killed_code) == (1, -signal.SIGKILL), output
    assert "process 1 of 2 has lost another one" in output
    assert "To go on from the last saved state, start the run again" in output
    killed = finished["runs"]["policy-killed"]
    assert not (killed / "error.json").exists()
    assert "has lost another one" in events(killed, "log")[-1]["message"]
    assert gradients_of_a_run("policy", killed)[0] == 0
    assert_same_end(killed, finished["runs"]["policy-alone"])


def test_accelerate_launches_the_command_line(finished):
    if finished["accelerate"] is None:
        pytest.skip("accelerate and tensorboard, requirements/track.txt, are not installed")
    code, output = finished["accelerate"]
    assert code == 0, output
    folder = finished["runs"]["sft-launched"]
    printed = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert printed == [RunDirectory(folder).result]  # by the first process alone
    logs = [path.name for path in Path(folder, "tensorboard").rglob("events.*")]
    assert len({name.split(".")[-2] for name in logs}) == 1  # the process that wrote it
    assert_same_end(folder, finished["runs"]["sft-alone"])


def test_shares_are_even_and_cover_all_rows_once():
    for count, size in [(7, 2), (2, 3), (0, 2), (12, 4)]:
        shares = [list(range(count))[Group(rank, size).share(count)] for rank in range(size)]
        assert sum(shares, []) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_accelerate_may_not_start_one_process_where_several_were_asked_for(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert open_group() is ALONE
    monkeypatch.setenv("MASTER_PORT", "29500")  # which accelerate sets for more than one
    with pytest.raises(ConfigError, match="--multi_gpu in place of --cpu"):
        open_group()


def test_a_process_of_several_that_is_refused_ends_at_once_too(monkeypatch, tmp_path):
    left = []

    class Leaving(Group):
        def leave(self, code):
            left.append(code)

    monkeypatch.setattr(cli, "open_group", lambda answer_seconds: Leaving())
    assert cli.main(["reward", "--run-dir", str(tmp_path / "none")]) == 2
    assert left == [2]


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT"])
def test_a_launcher_has_to_say_where_the_processes_meet(monkeypatch, name):
    monkeypatch.setattr(distributed, "uses_cuda", lambda: False)
    known = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for one, value in known.items():
        monkeypatch.setenv(one, value)
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=f"{name} = None is not permitted: set in the environment"):
        open_group()


def test_there_are_no_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(distributed, "uses_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="launcher's number = 2 is not permitted: at most 1 on this machine"):
        open_group()
