"""A child process of the supervisor: how it is started, when it counts as ready, how long to wait before the next try.

A child writes to its own log file, not into a pipe, so that it does not stumble when the supervisor is killed; the
supervisor follows the files and shows their lines as one log.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from webapp.local.process import START_MARK, send

PROJECT = Path(__file__).parents[2]
COLOURS = {"up": 1, "postgres": 34, "broker": 36, "web": 32, "worker-train": 35, "worker-sample": 33}
OTHER_COLOUR = 90
LONGEST_PAUSE_SECONDS = 60.0
HEALTHY_SECONDS = 60.0  # after this long without a crash the next one is the first again
LOG_LIMIT_BYTES = 20_000_000


class Console:
    """Lines of many processes as one log, each behind the name of its process."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.coloured = stream.isatty() and "NO_COLOR" not in os.environ

    def say(self, name: str, line: str) -> None:
        prefix = f"{name:<13} |"
        if self.coloured:
            prefix = f"\x1b[{COLOURS.get(name, OTHER_COLOUR)}m{prefix}\x1b[0m"
        try:
            self.stream.write(f"{prefix} {line}\n")
            self.stream.flush()
        except (OSError, ValueError):  # the terminal has gone; the log files stay
            pass


class LogFollower:
    """What was added to a log file since it was last asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = path.stat().st_size if path.exists() else 0
        self.rest = ""

    def new_lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self.position:  # cut short since
                    self.position, self.rest = 0, ""
                file.seek(self.position)
                added = file.read(1_000_000)
        except OSError:
            return []
        self.position += len(added)
        *lines, self.rest = (self.rest + added.decode(errors="replace")).split("\n")
        return [line for line in lines if line.strip() and not line.startswith(START_MARK)]

    def cut(self) -> None:
        """Empty a log that has grown too long, keeping one older copy; whoever writes appends, and does not notice."""
        if self.position > LOG_LIMIT_BYTES:
            self.path.with_suffix(".log.1").write_bytes(self.path.read_bytes())
            os.truncate(self.path, 0)


@dataclass
class Child:
    """One process that must run for as long as the supervisor does.

    Attributes:
        answers: whether it does its work; asked until it says yes.
        stop_seconds: how long it may take to stop before it is killed with its whole process group.
        inherits: our file descriptors that it gets, under the same numbers, each time it is started.
    """

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    answers: "Callable[[Child], bool]" = lambda child: True
    stop_seconds: float = 20.0
    inherits: tuple[int, ...] = ()
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    crashes: int = 0
    again_at: float = 0.0
    ready: bool = False

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            log.write(f"{START_MARK} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.command,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops its children in order
                env={**os.environ, **self.environment},
                pass_fds=self.inherits,
            )
        self.started_at, self.ready = time.monotonic(), False

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def note_crash(self) -> float:
        """Count a crash; returns the seconds to wait before the next start: 1, 2, 4 ... 60."""
        if time.monotonic() - self.started_at > HEALTHY_SECONDS:
            self.crashes = 0
        self.crashes += 1
        pause = min(2.0 ** (self.crashes - 1), LONGEST_PAUSE_SECONDS)
        self.process, self.again_at = None, time.monotonic() + pause
        return pause

    def ask_to_stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.process is not None:
            send(self.process.pid, signal.SIGKILL, group=True)
            self.process.wait(10)


def how_it_ended(code: int | None) -> str:
    if code is None:
        return "is running"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def says(pattern: str) -> "Callable[[Child], bool]":
    """Ready once its log, since this start, has a line in which ``pattern`` is found."""
    wanted = re.compile(pattern)

    def answers(child: Child) -> bool:
        try:
            said = child.log.read_text(errors="replace").rpartition(START_MARK)[2]
        except OSError:
            return False
        return wanted.search(said) is not None

    return answers


def python(*words: str) -> list[str]:
    return [sys.executable, "-u", *words]
