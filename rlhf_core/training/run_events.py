"""What a run writes for others to read: events, metrics and errors as JSON; standard library only."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_core.durable import canonical_json, write_atomically


class EventLog:
    """The file of a run's events, one JSON line each; opened for the first one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.is_torn = False

    def write(self, event: Mapping[str, Any]) -> None:
        """Append one line in one write; a full disk loses the event, not the run."""
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        try:
            if self.descriptor is None:
                self.descriptor = self.open()
            line = b"\n" + line if self.is_torn else line
            self.is_torn = os.write(self.descriptor, line) < len(line)
        except OSError as error:
            print(f"event not written ({error}): {line.decode().strip()}", file=sys.stderr, flush=True)

    def open(self) -> int:
        """Open the file for appending; a line that a killed writer left unfinished is closed first."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(descriptor).st_size
        self.is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        return descriptor


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
