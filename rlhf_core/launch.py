"""Several processes of one run on this machine, started, watched and ended together; loads no torch.

What ``torchrun`` does across machines, for one: each process is told its rank in the environment, they meet on loopback
at a socket that is open before the first of them starts, and all end when one does.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from rlhf_core.distributed import MEETING_FD
from rlhf_core.training.run_directory import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_OUT_OF_MEMORY,
    EXIT_REFUSED,
    ORPHAN_GRACE_SECONDS,
)

LAST_WORDS_SECONDS = 15.0  # that the others have, once one has ended badly, to find out and to say so
LOOK_SECONDS = 0.1
STATED = (EXIT_REFUSED, EXIT_DIVERGED, EXIT_OUT_OF_MEMORY)


def launch(command: Sequence[str], count: int, control_fd: int | None = None) -> int:
    """Run ``command`` as ``count`` processes of one group; returns the exit code that stands for all.

    SIGTERM and SIGINT are handed on, and so is the closing of ``control_fd``'s other end. A process that ends with
    anything but 0 ends the others. Where a signal ended one, this process ends by the same signal, so that whoever
    started it is told the same as of a run of one process.
    """
    reading, control = os.pipe()  # whose closing tells them that we are gone
    with socket.create_server(("127.0.0.1", 0), backlog=count) as meeting:
        began = [start(command, rank, count, reading, meeting) for rank in range(count)]
    os.close(reading)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: end(began, signal.SIGTERM))
        watch(began, control_fd)
    finally:
        end(began, signal.SIGKILL)
        codes = [process.wait() for process in began]
        os.close(control)
    code = code_of_all(codes)
    if code < 0:
        print(f"error: a process of {count} was ended by {signal.Signals(-code).name}", file=sys.stderr, flush=True)
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def start(
    command: Sequence[str], rank: int, count: int, reading: int, meeting: socket.socket
) -> subprocess.Popen[bytes]:
    """Start one of the processes; the first one is given the open socket."""
    port = str(meeting.getsockname()[1])
    outer = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    environment = {**outer, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    environment |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    if sys.platform == "linux":  # nothing of the run leaves the machine
        for library in ("GLOO", "NCCL"):
            environment.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    given = [reading]
    if rank == 0:
        environment[MEETING_FD] = str(meeting.fileno())
        given.append(meeting.fileno())
    words = [*command, "--control-fd", str(reading)]
    return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, pass_fds=given)


def watch(began: Sequence[subprocess.Popen[bytes]], control_fd: int | None) -> None:
    """Wait until all have ended by themselves, or have had their time to after one failed or ``control_fd`` closed.

    After a signal they have as long as they need to save: whoever sent it sets the limit.
    """
    deadline: float | None = None
    watched = [] if control_fd is None else [control_fd]
    while any(process.poll() is None for process in began):
        if deadline is not None and time.monotonic() > deadline:
            return
        readable = select.select(watched, [], [], LOOK_SECONDS)[0]
        if readable and not read(readable[0]):
            watched = []
            end(began, signal.SIGTERM)
            deadline = time.monotonic() + ORPHAN_GRACE_SECONDS
        if deadline is None and any(process.poll() not in (None, EXIT_DONE) for process in began):
            deadline = time.monotonic() + LAST_WORDS_SECONDS


def read(descriptor: int) -> bytes:
    """What came through the pipe; nothing once its other end is closed."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


def end(began: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Send a signal to those that still run."""
    for process in began:
        if process.poll() is None:
            process.send_signal(number)


def code_of_all(codes: Sequence[int]) -> int:
    """The exit code that says most: why a run was refused, a signal that ended one of them, any other that is not 0."""
    by_worth = [
        *(code for code in codes if code in STATED),
        *(code for code in codes if code < 0 and -code != signal.SIGTERM),
        *(code for code in codes if code > 1),
        *(code for code in codes if code != EXIT_DONE),
    ]
    return next(iter(by_worth), EXIT_DONE)
