"""The resume states of a run: folders that are whole or absent, each with its step; torch loads when one is used."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.durable import MISSING, UnfinishedFolder, canonical_json, read_verified

if TYPE_CHECKING:
    from torch import Tensor

STEPS_KEPT = 2


@dataclass(frozen=True)
class RunState:
    """A saved state: ``step`` optimiser steps were done; tensors and plain values as they were given."""

    step: int
    tensors: "dict[str, Tensor]"
    values: dict[str, Any]


class SavedStates:
    """The states in a folder, numbered as they were saved; the newest of the last two steps are kept.

    Args:
        folder: made when the first state is written.
        log: takes a line for people where one is damaged.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self.folder = folder
        self.log = log
        self.damaged: set[str] = set()

    def write(self, step: int, tensors: "Mapping[str, Tensor]", values: Mapping[str, Any]) -> int:
        """Save a state; returns its ``part``.

        Raises:
            OSError: the disk refused; what was there before still stands.
        """
        from rlhf_core.training.state import pack_tensors

        part = int(values.get("part", 0))
        with UnfinishedFolder(self.folder) as unfinished:
            files = {
                "tensors.safetensors": unfinished.write("tensors.safetensors", pack_tensors(tensors)),
                "values.json": unfinished.write("values.json", json.dumps(dict(values)).encode()),
            }
            serial = 1 + max((int(path.name) for path in self.all()), default=0)
            unfinished.publish(f"{serial:08d}", canonical_json({"step": step, "part": part, "files": files}))
        return part

    def forget_old(self) -> None:
        """Keep the newest states of the last two steps, and newer ones that cannot be read now; remove all others."""
        kept: set[int] = set()
        for path in self.all():
            try:
                of_step = None if path.name in self.damaged else step_of_state(path)
            except OSError:
                if len(kept) < STEPS_KEPT:
                    continue  # it may be whole, and newer than all that can be read
                of_step = None
            if of_step is None or of_step in kept or len(kept) == STEPS_KEPT:
                shutil.rmtree(path, ignore_errors=True)
            else:
                kept.add(of_step)

    def newest(self, digest: str | None = None, check: "Callable[[RunState], None] | None" = None) -> RunState | None:
        """The newest whole state; see ``RunDirectory.load_state``."""
        from rlhf_core.training.state import unpack_tensors

        for path in self.all():
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
            except (*MISSING, ValueError, KeyError, TypeError) as error:
                self.damaged.add(path.name)
                self.log(f"saved state {path.name} is damaged and passed over: {error}")
            except OSError as error:  # of the disk, not of the state: it is kept
                self.log(f"saved state {path.name} cannot be read now and is passed over: {error}")
        return None

    def all(self) -> list[Path]:
        """Folders of the saved states, newest first."""
        folder = self.folder
        names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
        return [folder / name for name in names if name.isdigit()]

    @property
    def place(self) -> tuple[int, int]:
        """The step of the newest state and how many optimiser steps of what follows are in it; zeros without one."""
        for path in self.all():
            try:
                manifest = json.loads((path / "manifest.json").read_bytes())
                return int(manifest["step"]), int(manifest.get("part", 0))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # torn: the training process passes over it too
        return 0, 0

    @property
    def first_step_kept(self) -> int:
        """The step of the earliest state that the run may have to go on from; 0 where there is none."""
        try:
            return min((step_of_state(path) or 0 for path in self.all()), default=0)
        except OSError:
            return 0  # of one that cannot be read now the step is unknown


def step_of_state(path: Path) -> int | None:
    """The step whose state a folder holds, or None where its manifest is missing or does not say.

    Raises:
        OSError: the manifest is there and cannot be read.
    """
    try:
        return int(json.loads((path / "manifest.json").read_bytes())["step"])
    except (*MISSING, ValueError, KeyError, TypeError):
        return None
