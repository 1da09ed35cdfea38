"""Locks that a process holds until it ends: of a run's folder, of a GPU; standard library only."""

import fcntl
import os
import time
from pathlib import Path

from rlhf_core.errors import SteersmanError

SECONDS_BETWEEN_TRIES = 0.1


class RunDirectoryBusy(SteersmanError):
    """Another process is training in this run directory, or on this GPU; ``holder`` says which, in words."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


def hold_lock(lock: Path, holder: str, wait_seconds: float) -> int:
    """Take a lock; returns its descriptor, whose closing, at the latest the end of the process, gives it back.

    Args:
        lock: the file, made where it is missing.
        holder: written into it, for whoever waits.

    Raises:
        RunDirectoryBusy: another process still holds it after ``wait_seconds``.
        OSError: the file cannot be opened, or is a link, which would have us write to a file of somebody else's choice.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{holder}\n".encode(), 0)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                written = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
                os.close(descriptor)
                found = f"process {written}" if written else "another process"
                raise RunDirectoryBusy(f"{found} is training already and holds {lock}", found) from None
            time.sleep(SECONDS_BETWEEN_TRIES)
