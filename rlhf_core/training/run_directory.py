"""The folder through which a training process speaks with whoever started it (docs/run-protocol.md).

``run.json`` says what to do, ``events.jsonl`` what happens, ``state/`` lets a killed run go on where it was,
``result.json`` or ``error.json`` says how it ended. This module itself needs the standard library only; torch loads
when a state is saved or read.
"""

import ctypes
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.config import RUN_CONFIGS, ModelConfig, Settings, settings_from_dict, settings_to_dict
from rlhf_core.distributed import ALONE, Group
from rlhf_core.durable import canonical_json, remove_unfinished, write_atomically
from rlhf_core.errors import ConfigError, DatasetError, SteersmanError
from rlhf_core.records import Feedback, Prompt, read_feedback, read_prompts
from rlhf_core.training.run_events import EventLog, finite, metrics_to_keep, read_events, write_error
from rlhf_core.training.run_locks import RunDirectoryBusy, hold_lock
from rlhf_core.training.run_request import absolute, plain_name, read_request, request_digest, store_folder
from rlhf_core.training.saved_states import RunState, SavedStates

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_core.checkpoint import CheckpointRef

__all__ = [
    "EXIT_DIVERGED",
    "EXIT_DONE",
    "EXIT_OUT_OF_MEMORY",
    "EXIT_REFUSED",
    "EXIT_STOPPED",
    "RunDirectory",
    "RunDirectoryBusy",
    "RunState",
    "RunStopped",
    "StateNotSaved",
    "metrics_to_keep",
    "read_events",
    "settings_digest",
    "store_folder",
    "write_error",
]

EXIT_DONE, EXIT_REFUSED, EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_STOPPED = 0, 2, 3, 4, 75
SAVES_THAT_MAY_FAIL = 2
ORPHAN_GRACE_SECONDS = 10.0
LOCK_WAIT_SECONDS = 30.0
PR_SET_PDEATHSIG = 1


class RunStopped(Exception):
    """The run was asked to stop and its state is saved; starting it again goes on from there."""


class StateNotSaved(SteersmanError):
    """Saving the resume state failed so often in a row that going on would risk the work."""


class RunDirectory:
    """One run: its request, its events, its resume state and its end.

    A training function reads ``config``, ``model``, ``inputs`` and the records, calls ``load_state`` once, then in its
    loop ``progress``, ``metrics`` and ``save_or_stop``, and at last ``finish``.

    Where several processes train the run, all of them call the same methods in the same order, and the first writes.

    Attributes:
        path: the folder.
        group: the processes that train the run.
        kind: "pretrain", "sft", "reward", "policy" or "evaluate".
        config: the stage's settings.
        model: shape of the model to make (pretrain), else None.
        inputs: absolute paths: "policy", "reward_model"; "reward", a function as module:function; for policy perhaps
            "judge"; for pretrain "text" (a list) and "tokenizer"; for sft "demonstrations" (a list); for evaluate
            "references", the policies to compare with, by their part: "parent", "base" and others.
        store: folder of the checkpoint store for outputs.
        meta: goes into the checkpoint's ``meta``.
        listener: called with every event after it is written; the command line draws its bar from it.
    """

    def __init__(self, path: Path | str, group: Group = ALONE) -> None:
        self.path = Path(path).absolute()
        self.group = group
        request = read_request(self.path / "run.json")
        self.kind: str = request["kind"]
        if self.kind not in RUN_CONFIGS:
            raise ConfigError("kind", self.kind, "one of " + ", ".join(RUN_CONFIGS))
        self.config: Settings = settings_from_dict(RUN_CONFIGS[self.kind], request.get("config") or {})
        model = request.get("model")
        self.model: ModelConfig | None = settings_from_dict(ModelConfig, model) if model is not None else None
        self.inputs: dict[str, Any] = request.get("inputs") or {}
        self.store = store_folder(request["store"])
        self.meta: dict[str, Any] = request.get("meta") or {}
        self.feedback_name: str | None = plain_name("feedback", request.get("feedback"))
        self.prompts_name: str | None = plain_name("prompts", request.get("prompts"))
        self.listener: Callable[[dict[str, Any]], None] | None = None
        self.stop_event = threading.Event()
        self.failed_saves = 0
        self.saved_at = time.monotonic()
        self.states = SavedStates(self.path / "state", self.log)
        self.events = EventLog(self.path / "events.jsonl")
        self.held: list[int] = []  # descriptors of locked files

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        kind: str,
        config: Settings,
        store: Path | str,
        policy: Path | str | None = None,
        reward_model: Path | str | None = None,
        reward: str | None = None,
        judge: Path | str | None = None,
        feedback: Path | str | None = None,
        prompts: Path | str | None = None,
        text: Sequence[Path | str] = (),
        tokenizer: Path | str | None = None,
        demonstrations: Sequence[Path | str] = (),
        references: Mapping[str, Path | str] | None = None,
        model: ModelConfig | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "RunDirectory":
        """Make the folder, copy ``feedback`` and ``prompts`` into it, and write ``run.json`` last.

        ``reward``: a function that scores responses, as module:function.

        Raises:
            FileExistsError: the folder already holds a run.
        """
        folder = Path(path).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "run.json").exists():
            raise FileExistsError(f"{folder} already holds a run")
        for name, source in (("feedback.jsonl", feedback), ("prompts.jsonl", prompts)):
            if source is not None and Path(source).absolute() != folder / name:
                shutil.copyfile(source, folder / name)
        inputs: dict[str, Any] = {"policy": absolute(policy), "reward_model": absolute(reward_model)}
        if reward is not None:
            inputs["reward"] = reward
        if judge is not None:
            inputs["judge"] = absolute(judge)
        if kind == "pretrain":
            inputs |= {"text": [absolute(file) for file in text], "tokenizer": absolute(tokenizer)}
        if kind == "sft":
            inputs["demonstrations"] = [absolute(file) for file in demonstrations]
        if kind == "evaluate":
            inputs["references"] = {name: absolute(path) for name, path in (references or {}).items()}
        request = {
            "kind": kind,
            "config": settings_to_dict(config),
            "model": settings_to_dict(model) if model is not None else None,
            "inputs": inputs,
            "feedback": "feedback.jsonl" if feedback is not None else None,
            "prompts": "prompts.jsonl" if prompts is not None else None,
            "store": absolute(store),
            "meta": dict(meta or {}),
        }
        write_atomically(folder / "run.json", canonical_json(request))
        return cls(folder)

    # What to train on

    @property
    def policy(self) -> Path:
        """Folder of the policy checkpoint to start from.

        Raises:
            ConfigError: the run names none.
        """
        return self.checkpoint_input("policy")

    @property
    def reward_model(self) -> Path:
        """Folder of the reward model's checkpoint.

        Raises:
            ConfigError: the run names none.
        """
        return self.checkpoint_input("reward_model")

    @property
    def references(self) -> dict[str, Path]:
        """Folders of the policies that an evaluation compares with, by their part."""
        return {name: Path(path) for name, path in (self.inputs.get("references") or {}).items()}

    def checkpoint_input(self, name: str) -> Path:
        if not self.inputs.get(name):
            raise ConfigError(name, None, "the folder of a checkpoint")
        return Path(self.inputs[name])

    def read_feedback(self) -> list[Feedback]:
        """The run's feedback records.

        Raises:
            DatasetError: there is no feedback file, or a line of it is malformed.
        """
        return read_feedback(self.record_file("feedback", self.feedback_name))

    def read_prompts(self) -> list[Prompt]:
        """The run's prompts.

        Raises:
            DatasetError: there is no prompt file, or a line of it is malformed.
        """
        return read_prompts(self.record_file("prompts", self.prompts_name))

    def record_file(self, label: str, name: str | None) -> Path:
        if name is None or not (self.path / name).is_file():
            raise DatasetError(f"the run has no {label} file")
        return self.path / name

    # What happens

    def progress(self, step: int, total_steps: int, phase: str) -> None:
        """Say where the run stands; ``step`` of ``total_steps`` are done."""
        self.append("progress", step=step, total_steps=total_steps, phase=phase)

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step; a number that is not finite is written as null."""
        self.append("metrics", step=step, metrics={name: finite(value) for name, value in metrics.items()})

    def sample(self, step: int, prompt: str, response: str) -> None:
        """Record what the model in training answers after ``step``."""
        self.append("sample", step=step, prompt=prompt, response=response)

    def log(self, message: str) -> None:
        """Record a line for people."""
        self.append("log", message=message)

    def append(self, kind: str, **fields: Any) -> None:
        """Append one event line in one write; a full disk loses the event, not the run."""
        if not self.group.is_first:
            return
        event = {"kind": kind, "time": time.time(), **fields}
        self.events.write(event)
        if self.listener is not None:
            self.listener(event)

    # Stopping

    def stop_unsaved(self) -> None:
        """Leave, if a stop was asked for, from work that the next start does again, such as reading the data.

        Raises:
            RunStopped: it was.
        """
        if self.stop_requested:
            raise RunStopped("stopped before the next step")

    @property
    def stop_requested(self) -> bool:
        """Whether SIGTERM came or the supervisor is gone: save and leave within seconds."""
        return self.stop_event.is_set()

    def listen(self, control_fd: int | None = None) -> None:
        """Stop on SIGTERM and SIGINT; with ``control_fd`` also when its other end closes. Call on the main thread.

        After the other end has closed, the process leaves within ``ORPHAN_GRACE_SECONDS`` whatever it is doing: the
        state is crash-safe, and a run without a supervisor must not go on.
        """
        signal.signal(signal.SIGTERM, lambda *_: self.stop_event.set())
        signal.signal(signal.SIGINT, lambda *_: self.stop_event.set())
        if control_fd is not None:
            die_with_parent()
            threading.Thread(target=self.watch_control, args=(control_fd,), daemon=True).start()

    def watch_control(self, control_fd: int) -> None:
        try:
            while os.read(control_fd, 4096):
                pass
        except OSError:
            pass  # an unreadable control descriptor is as good as a closed one
        self.stop_event.set()
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(EXIT_STOPPED)

    def acquire(self, wait_seconds: float = LOCK_WAIT_SECONDS) -> None:
        """Take the folder for this process until it ends or releases it, so that two never train in it.

        Raises:
            RunDirectoryBusy: another process still holds it after ``wait_seconds``.
        """
        self.hold(self.path / "lock", wait_seconds)

    def hold(self, lock: Path, wait_seconds: float = 0.0) -> None:
        """Hold a file that one process may hold at a time, as ``acquire`` does the folder.

        Raises:
            RunDirectoryBusy: another process still holds it after ``wait_seconds``.
        """
        self.held.append(hold_lock(lock, f"{os.getpid()} in {self.path}", wait_seconds))

    def release(self) -> None:
        """Let others have what this process holds for the run."""
        while self.held:
            os.close(self.held.pop())

    # State

    def save_or_stop(
        self, step: int, interval: int, capture: "Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]"
    ) -> None:
        """Save the state when ``step`` is a multiple of ``interval`` or any process was asked to stop.

        Raises:
            RunStopped: a stop was asked for. The state is saved, unless the disk refused: the error says which.
        """
        self.save_if(step % interval == 0, step, capture)

    def save_or_stop_within(
        self, step: int, seconds: float, capture: "Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]"
    ) -> None:
        """The same in the middle of what follows ``step``: when the last save is ``seconds`` old or to stop."""
        self.save_if(time.monotonic() - self.saved_at >= seconds, step, capture)

    def save_if(
        self, is_due: bool, step: int, capture: "Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]"
    ) -> None:
        is_due, is_last = self.group.any(is_due and self.group.is_first, self.stop_requested)
        is_saved = self.save_state(step, *capture()) if is_last or is_due else True
        if is_last:
            self.group.wait()  # a launcher ends all processes once one of them leaves
            lost = "" if is_saved else "; its state could not be saved, so the run goes on from the one before"
            raise RunStopped(f"stopped after step {step}{lost}")

    def save_state(self, step: int, tensors: "Mapping[str, Tensor]", values: Mapping[str, Any]) -> bool:
        """Save what resuming after ``step`` needs; returns whether it was saved.

        ``values`` may hold a ``part``: how many optimiser steps of what follows ``step`` are in it; none without.

        The newest states of the last two steps are kept, so that what lies in the middle of a step never costs the
        whole one before it.

        Raises:
            StateNotSaved: the disk refused for the third time in a row.
        """
        if not self.group.is_first:
            return True
        self.saved_at = time.monotonic()
        try:
            part = self.states.write(step, tensors, values)
        except OSError as error:
            self.failed_saves += 1
            self.log(f"the state of step {step} could not be saved: {error}; the one before it still stands")
            if self.failed_saves > SAVES_THAT_MAY_FAIL:
                raise StateNotSaved(f"saving failed {self.failed_saves} times in a row: {error}") from error
            return False
        self.failed_saves = 0
        self.append("saved", step=step, part=part)
        self.states.forget_old()
        return True

    def load_state(
        self, digest: str | None = None, check: "Callable[[RunState], None] | None" = None
    ) -> RunState | None:
        """The newest whole state, or None at the first start; a torn or altered one is passed over and logged.

        The first process reads it, for all: they go on from one state whatever they see of the disk.

        Args:
            digest: as ``settings_digest`` gives it. Where the state's own, kept in its values, is another, the answer
                is None too: the run begins anew, and its log says so.
            check: raises ValueError for a state that lacks something outside of it; it is passed over as well.
        """
        from rlhf_core.training.state import pack_tensors, unpack_tensors

        found = self.states.newest(digest, check) if self.group.is_first else None
        if self.group.size == 1:
            return found
        told = self.group.first(lambda: None if found is None else [found.step, found.values])
        if told is None:
            return None
        tensors = unpack_tensors(self.group.of_first(b"" if found is None else pack_tensors(found.tensors)))
        return RunState(told[0], tensors, told[1])

    def saved_states(self) -> list[Path]:
        """Folders of the saved states, newest first."""
        return self.states.all()

    @property
    def saved_place(self) -> tuple[int, int]:
        """The step of the newest state and how many optimiser steps of what follows are in it; zeros without one."""
        return self.states.place

    @property
    def first_step_kept(self) -> int:
        """The step of the earliest state that the run may have to go on from; 0 where there is none."""
        return self.states.first_step_kept

    # The end

    @property
    def result(self) -> dict[str, Any] | None:
        """What ``finish`` wrote, or None while the run is not done."""
        path = self.path / "result.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    def finish(
        self,
        outputs: "Sequence[CheckpointRef]",
        metrics: Mapping[str, float],
        report: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``result.json``, the last act of a run; then drop what resuming needs, states and rollouts.

        ``report``: what a run found that is neither a checkpoint nor one number a name; finite JSON. The processes
        leave together: a launcher ends all of them once one has left with an error.
        """
        if self.group.is_first:
            self.write_result(outputs, metrics, report)
        self.group.wait()

    def write_result(
        self, outputs: "Sequence[CheckpointRef]", metrics: Mapping[str, float], report: Mapping[str, Any] | None
    ) -> None:
        result: dict[str, Any] = {
            "outputs": [{"kind": output.kind, "id": output.id, "path": str(output.path)} for output in outputs],
            "metrics": {name: finite(value) for name, value in metrics.items()},
        }
        if report is not None:
            result["report"] = dict(report)
        write_atomically(self.path / "result.json", canonical_json(result))
        for name in ("state", "rollouts"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def refuse(self, error: Exception) -> None:
        """Write ``error.json``: why the run was refused or given up."""
        write_error(self.path, error)

    def forget_error(self) -> None:
        """Remove the ``error.json`` of an earlier attempt, and what a killed save left behind."""
        (self.path / "error.json").unlink(missing_ok=True)
        for name in ("state", "rollouts"):
            remove_unfinished(self.path / name, older_than_seconds=0.0)
        remove_unfinished(self.path, older_than_seconds=0.0)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the thread that started this process ends; elsewhere the control pipe must do."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return


def settings_digest(run: RunDirectory) -> str:
    """SHA-256 of everything that decides what a run learns; see ``request_digest``."""
    return request_digest(run.path)
