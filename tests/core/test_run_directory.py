"""The run directory: events, crash-safe state at every failpoint, stopping, and the end."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlhf_core.config import ConfigError, ModelConfig, PretrainConfig, RewardConfig
from rlhf_core.durable import canonical_json
from rlhf_core.errors import DatasetError
from rlhf_core.training import run_directory
from rlhf_core.training.run_directory import (
    RunDirectory,
    RunDirectoryBusy,
    RunStopped,
    StateNotSaved,
    metrics_to_keep,
    read_events,
    settings_digest,
)
from rlhf_core.training.run_events import EventLog
from rlhf_core.training.state import (
    optimizer_tensors,
    pack_tensors,
    restore_optimizer,
    take_prefix,
    unpack_tensors,
    with_prefix,
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", kind="reward", config=RewardConfig(epochs=3), store=tmp_path / "store")


def events_of(run: RunDirectory, kind: str) -> list[dict]:
    return [event for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == kind]


def test_a_created_run_is_read_back_as_it_was_asked_for(tmp_path):
    (tmp_path / "rows").write_text('{"prompt_id":"p","text":"Once"}\n')
    made = RunDirectory.create(
        tmp_path / "run",
        kind="pretrain",
        config=PretrainConfig(steps=7),
        store=tmp_path / "store",
        prompts=tmp_path / "rows",
        text=[tmp_path / "a.txt"],
        model=ModelConfig(dim=32),
        meta={"why": "test"},
    )
    found = RunDirectory(made.path)
    assert found.config == PretrainConfig(steps=7)
    assert found.model == ModelConfig(dim=32)
    assert found.inputs["text"] == [str(tmp_path / "a.txt")]
    assert found.store == tmp_path / "store"
    assert found.meta == {"why": "test"}
    assert [prompt.text for prompt in found.read_prompts()] == ["Once"]
    with pytest.raises(FileExistsError):
        RunDirectory.create(made.path, kind="pretrain", config=PretrainConfig(), store=tmp_path)


def test_a_missing_input_is_refused_by_name(run):
    with pytest.raises(ConfigError, match="reward_model"):
        _ = run.reward_model
    with pytest.raises(DatasetError, match="no feedback file"):
        run.read_feedback()


def test_a_record_file_outside_the_run_directory_is_refused(run):
    request = json.loads((run.path / "run.json").read_text())
    for name in ("../secret.jsonl", "/etc/passwd", ".."):
        (run.path / "run.json").write_text(json.dumps({**request, "feedback": name}))
        with pytest.raises(ConfigError, match="feedback"):
            RunDirectory(run.path)


def test_events_are_whole_lines_and_numbers_that_are_not_finite_become_null(run):
    run.progress(1, 3, "train")
    run.metrics(1, {"loss": 0.5, "accuracy": float("nan")})
    run.log("two\nlines")
    lines = (run.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["progress", "metrics", "log"]
    assert json.loads(lines[1])["metrics"] == {"loss": 0.5, "accuracy": None}


def test_a_metric_that_is_not_finite_keeps_no_manifest_from_being_written():
    metrics = {"loss": 0.5, "score_loss": float("nan"), "kl": float("inf"), "tokens_per_second": 9.0}
    kept = metrics_to_keep(metrics)
    assert canonical_json(kept) == canonical_json({"loss": 0.5, "score_loss": None, "kl": None})


def test_a_line_torn_by_a_kill_does_not_spoil_the_next_one(run):
    run.log("first")
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"kind":"metr')
    again = RunDirectory(run.path)
    again.log("second")
    events, offset = read_events(run.path / "events.jsonl")
    assert [event["message"] for event in events] == ["first", "second"]
    assert offset == (run.path / "events.jsonl").stat().st_size
    assert read_events(run.path / "events.jsonl", offset) == ([], offset)


def test_lines_that_a_full_disk_cut_do_not_spoil_those_after_them(tmp_path):
    path = tmp_path / "events.jsonl"
    log, unlimited = EventLog(path), resource.getrlimit(resource.RLIMIT_FSIZE)
    log.write({"message": "first"})
    try:
        for message, taken in (("second", 5), ("third", len('\n{"message": "third"}'))):  # of the third all but its end
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + taken, unlimited[1]))
            log.write({"message": message})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    log.write({"message": "fourth"})
    assert [event["message"] for event in read_events(path)[0]] == ["first", "third", "fourth"]


def test_a_line_still_being_written_is_left_for_the_next_reading(run):
    run.log("first")
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"kind":"log"')
        file.flush()
        events, offset = read_events(run.path / "events.jsonl")
        assert len(events) == 1
        file.write(',"message":"second"}\n')
        file.flush()
    assert read_events(run.path / "events.jsonl", offset)[0][0]["message"] == "second"


def test_a_state_comes_back_exactly_and_only_two_are_kept(run):
    weight = torch.tensor([0.1, float("nan"), -0.0])
    for step in (1, 2, 2, 3):  # a step may come twice after a resume
        run.save_state(
            step, {"weight": weight, "view": weight[1:], "step": torch.tensor(step)}, {"cursor": [step, 0.1]}
        )
    state = RunDirectory(run.path).load_state()
    assert state is not None
    assert state.step == 3
    assert state.values == {"cursor": [3, 0.1]}
    assert state.tensors["weight"].numpy().tobytes() == weight.numpy().tobytes()
    assert state.tensors["step"].shape == ()
    assert len(run.saved_states()) == 2
    assert [event["step"] for event in events_of(run, "saved")] == [1, 2, 2, 3]


@pytest.mark.parametrize("file", ["tensors.safetensors", "values.json", "manifest.json"])
def test_an_altered_state_is_passed_over_for_the_one_before_it(run, file):
    for step in (1, 2):
        run.save_state(step, {"weight": torch.full((64,), float(step))}, {"n": step})
    newest = run.saved_states()[0] / file
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(bytes(data))
    again = RunDirectory(run.path)
    state = again.load_state()
    assert state is not None
    assert (state.step, state.values) == (1, {"n": 1})
    assert "damaged" in events_of(again, "log")[0]["message"]
    again.save_state(2, {"weight": torch.zeros(1)}, {})
    assert newest.parent not in again.saved_states()  # the damaged one takes no whole one's place
    assert len(again.saved_states()) == 2


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_a_state_that_the_disk_does_not_give_just_now_is_kept_for_later(run, monkeypatch, file):
    for step in (1, 2):
        run.save_state(step, {"weight": torch.ones(1)}, {"n": step})
    newest, oldest = run.saved_states()
    read = Path.read_bytes
    with monkeypatch.context() as patch:

        def fail(path):
            if path == newest / file:
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        patch.setattr(Path, "read_bytes", fail)
        again = RunDirectory(run.path)
        assert again.load_state().step == 1
        assert "cannot be read now" in events_of(again, "log")[0]["message"]
        again.save_state(1, {"weight": torch.ones(1)}, {"n": 1.5})
        assert newest in again.saved_states()
        assert again.first_step_kept == (0 if file == "manifest.json" else 1), "of no step is anything taken away"
    (again.saved_states()[0] / file).unlink()
    assert again.load_state().step == 2
    assert oldest not in again.saved_states()


def test_a_full_disk_keeps_the_old_state_and_the_third_failure_stops_the_run(run, monkeypatch):
    run.save_state(1, {"weight": torch.ones(2)}, {})

    def full(path, data):
        path.write_bytes(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf_core.durable.write_synced", full)
    assert not run.save_state(2, {"weight": torch.zeros(2)}, {})
    assert not run.save_state(3, {"weight": torch.zeros(2)}, {})
    with pytest.raises(StateNotSaved, match="No space left"):
        run.save_state(4, {"weight": torch.zeros(2)}, {})
    assert len(events_of(run, "log")) == 3
    state = run.load_state()
    assert state is not None
    assert state.step == 1
    assert [path.name for path in (run.path / "state").iterdir()] == ["00000001"]


def test_an_optimiser_goes_on_exactly_after_a_round_trip_through_bytes():
    def make() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}]
        return layer, torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95))

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
        inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        layer(inputs).square().mean().backward()
        optimizer.step()

    straight, optimizer = make()
    for seed in range(4):
        step(straight, optimizer, seed)
    first, optimizer = make()
    for seed in range(2):
        step(first, optimizer, seed)
    optimizer.param_groups[0]["lr"] = 0.1
    tensors, values = optimizer_tensors(optimizer)
    data, text = pack_tensors(with_prefix("adam", tensors)), json.dumps(values)
    second, optimizer = make()
    second.load_state_dict(first.state_dict())
    restore_optimizer(optimizer, take_prefix("adam", unpack_tensors(data)), json.loads(text))
    for seed in range(2, 4):
        step(second, optimizer, seed)
    assert torch.equal(second.weight, straight.weight)
    assert torch.equal(second.bias, straight.bias)


def test_finish_writes_the_result_and_drops_the_state(run):
    from rlhf_core.checkpoint import CheckpointRef

    run.save_state(1, {"weight": torch.ones(1)}, {})
    assert run.result is None
    run.finish([CheckpointRef("ab" * 32, Path("/store/x"), "reward_model")], {"loss": 0.25, "accuracy": float("inf")})
    assert run.result == {
        "outputs": [{"kind": "reward_model", "id": "ab" * 32, "path": "/store/x"}],
        "metrics": {"loss": 0.25, "accuracy": None},
    }
    assert not (run.path / "state").exists()


def test_save_or_stop_saves_when_due_and_leaves_when_asked(run):
    def capture():
        return {"weight": torch.ones(1)}, {}

    run.save_or_stop(1, 2, capture)
    assert run.saved_states() == []
    run.save_or_stop(2, 2, capture)
    assert len(run.saved_states()) == 1
    run.stop_event.set()
    with pytest.raises(RunStopped):
        run.save_or_stop(3, 2, capture)
    state = run.load_state()
    assert state is not None
    assert state.step == 3


def test_inside_a_step_a_state_is_saved_when_the_last_one_is_old_enough(run):
    def capture():
        return {"weight": torch.ones(1)}, {}

    run.save_or_stop_within(5, 3600.0, capture)
    assert run.saved_states() == []
    run.save_or_stop_within(5, 0.0, capture)
    assert [state.name for state in run.saved_states()] == ["00000001"]
    run.stop_event.set()
    with pytest.raises(RunStopped):
        run.save_or_stop_within(5, 3600.0, capture)
    assert [state.name for state in run.saved_states()] == ["00000002"]  # of one step the newest alone


def test_states_inside_a_step_never_cost_the_one_before_it(run):
    for step, cursor in [(2, 0), (4, 0), (4, 1), (4, 2)]:
        run.save_state(step, {"weight": torch.ones(1)}, {"cursor": cursor})
    assert [path.name for path in run.saved_states()] == ["00000004", "00000001"]
    assert run.first_step_kept == 2
    newest = run.load_state()
    assert (newest.step, newest.values) == (4, {"cursor": 2})

    def refuse(state):
        if state.step == 4:
            raise ValueError("it lacks what it stands on")

    earlier = run.load_state(check=refuse)
    assert earlier.step == 2
    assert "it lacks what it stands on" in events_of(run, "log")[-1]["message"]


def test_a_stop_whose_state_finds_no_room_does_not_claim_to_be_saved(run, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf_core.durable.write_synced", full)
    run.stop_event.set()
    with pytest.raises(RunStopped, match="step 3; its state could not be saved"):
        run.save_or_stop(3, 2, lambda: ({"weight": torch.zeros(2)}, {}))


def test_two_processes_never_train_in_one_run_directory(run):
    run.acquire()
    with pytest.raises(RunDirectoryBusy):
        RunDirectory(run.path).acquire(wait_seconds=0.0)


def test_the_digest_follows_settings_and_data_and_neither_notes_nor_places(run, tmp_path):
    def digest(**changes):
        (run.path / "run.json").write_text(json.dumps({**request, **changes}))
        return settings_digest(RunDirectory(run.path))

    for name in ("here", "there", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("other" if name == "other" else "same")
    request = json.loads((run.path / "run.json").read_text())
    request |= {"feedback": "feedback.jsonl", "inputs": {"policy": str(tmp_path / "here")}, "config": {"epochs": 3}}
    (run.path / "feedback.jsonl").write_text("one")
    before = digest()
    assert digest(meta={"note": 1}, store=str(tmp_path / "elsewhere")) == before
    assert digest(config={"epochs": 3, "threads": 2, "save_interval": 7}) == before
    assert digest(inputs={"policy": str(tmp_path / "there")}) == before
    assert digest(inputs={"policy": str(tmp_path / "other")}) != before
    assert digest(config={"epochs": 4}) != before
    (run.path / "feedback.jsonl").write_text("two")
    assert digest() != before


def test_a_state_of_other_settings_is_left_and_the_log_says_so(run):
    run.save_state(3, {"weight": torch.zeros(2)}, {"digest": "a"})
    state = run.load_state("a")
    assert state is not None
    assert state.step == 3
    assert run.load_state("b") is None
    assert events_of(run, "log")[-1]["message"] == "settings or data have changed since step 3: starting anew"


WAIT = """
import sys, time
from rlhf_core.training import run_directory
from rlhf_core.training.run_directory import RunDirectory
run_directory.ORPHAN_GRACE_SECONDS = float(sys.argv[3])
run = RunDirectory(sys.argv[1])
run.listen(int(sys.argv[2]))
print("ready", flush=True)
while not run.stop_requested or sys.argv[4] == "deaf":
    time.sleep(0.02)
sys.exit(7)
"""


def start_waiting(run: RunDirectory, grace: str, mood: str) -> tuple[subprocess.Popen, int]:
    reading, writing = os.pipe()
    command = [sys.executable, "-c", WAIT, str(run.path), str(reading), grace, mood]
    child = subprocess.Popen(command, pass_fds=[reading], stdout=subprocess.PIPE, text=True)
    os.close(reading)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child, writing


def test_sigterm_asks_the_run_to_stop(run):
    child, writing = start_waiting(run, "60", "willing")
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 7
    os.close(writing)


def test_a_closed_control_pipe_asks_the_run_to_stop(run):
    child, writing = start_waiting(run, "60", "willing")
    os.close(writing)
    assert child.wait(timeout=10) == 7


def test_a_run_that_does_not_listen_is_gone_soon_after_its_supervisor(run):
    child, writing = start_waiting(run, "0.3", "deaf")
    began = time.monotonic()
    os.close(writing)
    assert child.wait(timeout=10) == run_directory.EXIT_STOPPED
    assert time.monotonic() - began < 5
