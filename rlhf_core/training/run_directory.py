"""The folder through which a training process speaks with whoever started it (docs/run-protocol.md).

``run.json`` says what to do, ``events.jsonl`` what happens, ``state/`` lets a killed run go on where it was,
``result.json`` or ``error.json`` says how it ended. This module itself needs the standard library only; torch loads
when a state is saved or read.
"""

import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.config import RUN_CONFIGS, ModelConfig, Settings, settings_from_dict, settings_to_dict
from rlhf_core.distributed import ALONE, Group
from rlhf_core.durable import (
    UnfinishedFolder,
    canonical_json,
    file_digest,
    read_verified,
    remove_unfinished,
    sha256,
    write_atomically,
)
from rlhf_core.errors import ConfigError, DatasetError, SteersmanError
from rlhf_core.records import Feedback, Prompt, read_feedback, read_prompts

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_core.checkpoint import CheckpointRef

EXIT_DONE, EXIT_REFUSED, EXIT_DIVERGED, EXIT_OUT_OF_MEMORY, EXIT_STOPPED = 0, 2, 3, 4, 75
STEPS_KEPT = 2
SAVES_THAT_MAY_FAIL = 2
ORPHAN_GRACE_SECONDS = 10.0
LOCK_WAIT_SECONDS = 30.0
PR_SET_PDEATHSIG = 1


class RunStopped(Exception):
    """The run was asked to stop and its state is saved; starting it again goes on from there."""


class StateNotSaved(SteersmanError):
    """Saving the resume state failed so often in a row that going on would risk the work."""


class RunDirectoryBusy(SteersmanError):
    """Another process is training in this run directory, or on this GPU; ``holder`` says which, in words."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


@dataclass(frozen=True)
class RunState:
    """A saved state: ``step`` optimiser steps were done; tensors and plain values as they were given."""

    step: int
    tensors: "dict[str, Tensor]"
    values: dict[str, Any]


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
        self.damaged: set[str] = set()
        self.events: int | None = None
        self.events_torn = False
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
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        try:
            if self.events is None:
                self.events = self.open_events()
            written = os.write(self.events, b"\n" + line if self.events_torn else line)
            self.events_torn = written < len(line)
        except OSError as error:
            print(f"event not written ({error}): {line.decode().strip()}", file=sys.stderr, flush=True)
        if self.listener is not None:
            self.listener(event)

    def open_events(self) -> int:
        """Open the event file for appending; a line that a killed writer left unfinished is closed first."""
        descriptor = os.open(self.path / "events.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(descriptor).st_size
        self.events_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        return descriptor

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
        # A link in the lock's place would have us write to a file of somebody else's choice.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(lock, flags, 0o600)
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} in {self.path}\n".encode(), 0)
                self.held.append(descriptor)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    written = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
                    os.close(descriptor)
                    holder = f"process {written}" if written else "another process"
                    raise RunDirectoryBusy(f"{holder} is training already and holds {lock}", holder) from None
                time.sleep(0.1)

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
        from rlhf_core.training.state import pack_tensors  # torch loads only when it is needed

        if not self.group.is_first:
            return True
        folder = self.path / "state"
        self.saved_at = time.monotonic()
        try:
            with UnfinishedFolder(folder) as unfinished:
                files = {
                    "tensors.safetensors": unfinished.write("tensors.safetensors", pack_tensors(tensors)),
                    "values.json": unfinished.write("values.json", json.dumps(dict(values)).encode()),
                }
                serial = 1 + max((int(path.name) for path in self.saved_states()), default=0)
                manifest = {"step": step, "part": int(values.get("part", 0)), "files": files}
                unfinished.publish(f"{serial:08d}", canonical_json(manifest))
        except OSError as error:
            self.failed_saves += 1
            self.log(f"the state of step {step} could not be saved: {error}; the one before it still stands")
            if self.failed_saves > SAVES_THAT_MAY_FAIL:
                raise StateNotSaved(f"saving failed {self.failed_saves} times in a row: {error}") from error
            return False
        self.failed_saves = 0
        self.append("saved", step=step, part=manifest["part"])
        kept: set[int] = set()
        for path in self.saved_states():
            of_step = None if path.name in self.damaged else step_of_state(path)
            if of_step is None or of_step in kept or len(kept) == STEPS_KEPT:
                shutil.rmtree(path, ignore_errors=True)
            else:
                kept.add(of_step)
        return True

    @property
    def saved_place(self) -> tuple[int, int]:
        """The step of the newest state and how many optimiser steps of what follows are in it; zeros without one."""
        for path in self.saved_states():
            try:
                manifest = json.loads((path / "manifest.json").read_bytes())
                return int(manifest["step"]), int(manifest.get("part", 0))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # torn: the training process passes over it too
        return 0, 0

    @property
    def first_step_kept(self) -> int:
        """The step of the earliest state that the run may have to go on from; 0 where there is none."""
        return min((step_of_state(path) or 0 for path in self.saved_states()), default=0)

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

        found = self.newest_state(digest, check) if self.group.is_first else None
        if self.group.size == 1:
            return found
        told = self.group.first(lambda: None if found is None else [found.step, found.values])
        if told is None:
            return None
        tensors = unpack_tensors(self.group.of_first(b"" if found is None else pack_tensors(found.tensors)))
        return RunState(told[0], tensors, told[1])

    def newest_state(self, digest: str | None, check: "Callable[[RunState], None] | None") -> RunState | None:
        from rlhf_core.training.state import unpack_tensors

        for path in self.saved_states():
            try:
                manifest = json.loads((path / "manifest.json").read_bytes())
                files = read_verified(path, manifest["files"])
                tensors, values = unpack_tensors(files["tensors.safetensors"]), json.loads(files["values.json"])
                if digest is not None and values["digest"] != digest:
                    self.log(f"settings or data have changed since step {manifest['step']}: starting anew")
                    return None
                state = RunState(manifest["step"], tensors, values)
                if check is not None:
                    check(state)
                return state
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.damaged.add(path.name)
                self.log(f"saved state {path.name} is damaged and passed over: {error}")
        return None

    def saved_states(self) -> list[Path]:
        """Folders of the saved states, newest first."""
        folder = self.path / "state"
        names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
        return [folder / name for name in names if name.isdigit()]

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


def step_of_state(path: Path) -> int | None:
    """The step whose state a folder holds, or None where its manifest does not say."""
    try:
        return int(json.loads((path / "manifest.json").read_bytes())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_request(path: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        ConfigError: it is missing, no JSON object, lacks "kind" or "store", or an entry is of the wrong type.
    """
    try:
        request = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError("run-dir", str(path.parent), "a folder with a run.json") from None
    except ValueError as error:
        raise ConfigError("run.json", str(path), f"JSON ({error})") from error
    if not isinstance(request, dict) or not isinstance(request.get("kind"), str) or not request.get("store"):
        raise ConfigError("run.json", str(path), 'an object with "kind" and "store"')
    check_type("store", request["store"], str)
    for name in ("config", "model", "inputs", "meta"):
        check_type(name, request.get(name), dict, type(None))
    for name in ("feedback", "prompts"):
        check_type(name, request.get(name), str, type(None))
    inputs = request.get("inputs") or {}
    for name in ("policy", "reward_model", "reward", "judge", "tokenizer"):
        check_type(name, inputs.get(name), str, type(None))
    for name in ("text", "demonstrations"):
        check_type(name, inputs.get(name), list, type(None))
        for file in inputs.get(name) or []:
            check_type(name, file, str)
    return request


JSON_WORDS = {str: "text", dict: "an object", list: "a list", type(None): "null"}


def check_type(name: str, value: Any, *permitted: type) -> None:
    """Raise ConfigError where an entry of ``run.json`` is of another type than ``permitted``."""
    if not isinstance(value, permitted):
        raise ConfigError(name, value, " or ".join(JSON_WORDS[kind] for kind in permitted))


def store_folder(path: Path | str) -> Path:
    """``path``, where a folder is or can be made.

    Raises:
        ConfigError: it, or a folder above it, is a file.
    """
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise ConfigError("store", str(path), f"a folder, and {place} is a file")
    return Path(path)


def plain_name(label: str, name: str | None) -> str | None:
    """``name``, which must be a file of the run directory itself.

    Raises:
        ConfigError: it leads elsewhere.
    """
    if name is not None and (name != os.path.basename(name) or name in ("", ".", "..")):
        raise ConfigError(label, name, "the name of a file in the run directory")
    return name


def absolute(path: Path | str | None) -> str | None:
    """An absolute path as text, or None."""
    return None if path is None else os.path.abspath(path)


def finite(value: float) -> float | None:
    """A plain float, or None where JSON has no word for it."""
    number = float(value)
    return number if math.isfinite(number) else None


def metrics_to_keep(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics for the manifest of a checkpoint, which a number that is not finite may not keep from being saved.

    Speed is left out: equal runs leave equal checkpoints.
    """
    known = {name: value for name, value in metrics.items() if name != "tokens_per_second"}
    return {name: value if math.isfinite(value) else None for name, value in known.items()}


def write_error(path: Path, error: Exception) -> None:
    """Write ``error.json`` into a run directory."""
    write_atomically(path / "error.json", canonical_json({"error": type(error).__name__, "message": str(error)}))


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Events after byte ``offset`` of an event file, and the offset to go on from.

    A last line that is still being written is left for the next call; a line torn by a kill is passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return list(parse_events(whole.splitlines())), offset + len(whole)


def parse_events(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """The events among ``lines``; what is no JSON object is passed over."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the thread that started this process ends; elsewhere the control pipe must do."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return


def settings_digest(run: RunDirectory) -> str:
    """SHA-256 of everything that decides what a run learns; goes into the state and the checkpoint.

    Feedback, prompts and checkpoints count by their content, wherever they are. How many threads work, whether weights
    are spread over processes and how often the state is saved may change between two starts.
    """
    request = read_request(run.path / "run.json")
    for name in ("meta", "store"):
        request.pop(name, None)
    config = dict(request.get("config") or {})
    for name in ("threads", "fsdp", "save_interval", "step_save_seconds"):
        config.pop(name, None)
    inputs = dict(request.get("inputs") or {})
    for name in ("policy", "reward_model", *(["judge"] if inputs.get("judge") else [])):
        inputs[name] = file_digest(Path(inputs[name]) / "manifest.json") if inputs.get(name) else None
    if "demonstrations" in inputs:
        inputs["demonstrations"] = [file_digest(Path(file)) for file in inputs["demonstrations"]]
    records = {name: file_digest(run.path / request[name]) for name in ("feedback", "prompts") if request.get(name)}
    return sha256(canonical_json({**request, "config": config, "inputs": inputs, **records}))
