"""What can be known about a process by its id, and how to end one; on Linux from /proc, elsewhere from ``ps``."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from webapp.local.endpoints import wait_until

PROC = Path("/proc")


class LocalServiceError(RuntimeError):
    """A part of this machine's set-up did not start or stop; the message names the cause and the log file."""


def is_running(pid: int) -> bool:
    """Whether ``pid`` is alive; a zombie, which waits only to be reaped, is not."""
    if pid <= 0:
        return False
    if (PROC / "self").exists():
        try:
            stat = (PROC / str(pid) / "stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return ask_ps(pid, "stat")[:1] not in ("", "Z")


def command_line(pid: int) -> str:
    """The words that started ``pid``, joined by blanks; empty where it is gone."""
    if (PROC / "self").exists():
        try:
            return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    return ask_ps(pid, "command")


def birth_of(pid: int) -> str:
    """A text that two processes with the same id, one after the other, do not share; empty where it is gone."""
    if (PROC / "self").exists():
        try:
            return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]  # clock ticks since boot
        except OSError:
            return ""
    return ask_ps(pid, "lstart")


def ask_ps(pid: int, column: str) -> str:
    found = subprocess.run(["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def send(pid: int, number: int, *, group: bool = False) -> None:
    """Send a signal to ``pid``, or to the process group it leads; that it has just gone is no error."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number) if group else os.kill(pid, number)


def end_process(pid: int, *signals: tuple[int, float], group: bool = False) -> bool:
    """Send each (signal, seconds to wait) in turn until ``pid`` has gone, SIGKILL last; says whether it has.

    For processes that are not our children, or that nobody waits for; our own children are reaped by ``Popen.wait``.
    """
    for number, seconds in (*signals, (signal.SIGKILL, 5.0)):
        if not is_running(pid):
            return True
        send(pid, number, group=group)
        if wait_until(lambda: not is_running(pid), seconds=seconds):
            return True
    return False


START_MARK = "-- start"  # a line that stands in a log before what one start of a server says


def last_lines(path: Path, count: int = 12) -> str:
    """The end of a log, indented, for an error message; nothing from before the last start."""
    try:
        lines = path.read_text(errors="replace").rpartition(START_MARK)[2].splitlines()[-count:]
    except OSError as error:
        return f"    (no log: {error})"
    lines = [line for line in lines if line.strip()]
    return "\n".join(f"    {line}" for line in lines) or "    (the log is empty)"
