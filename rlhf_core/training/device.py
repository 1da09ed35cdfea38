"""Where a run trains, and how this process uses the machine for it."""

import ctypes
import os
import socket
import stat
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch

from rlhf_core.distributed import uses_cuda
from rlhf_core.errors import ConfigError
from rlhf_core.threads import use_threads
from rlhf_core.training.run_directory import RunDirectory, RunDirectoryBusy, RunStopped

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc refuses more
GPU_WAIT_SECONDS = 5.0  # between two tries for a GPU that another run holds
NEVER_TRIM = 2**31 - 1  # bytes, the largest that mallopt takes


def use_device(threads: int, run: RunDirectory | None = None) -> torch.device:
    """The device to train on: CUDA, else the CPU, which is set up for training.

    Args:
        threads: of the CPU, shared by the run's processes on this machine; 0 leaves them as they are.
        run: takes a GPU for itself until it ends, and waits for it; each of its processes on a machine takes another.

    Raises:
        RunStopped: a stop was asked for while it waited.
    """
    if threads:
        use_threads(threads, 1 if run is None else run.group.local_size)
    keep_freed_memory()
    if not uses_cuda():
        return torch.device("cpu")
    device = torch.device("cuda", 0 if run is None else run.group.local_rank)
    if run is not None:
        take_gpu(run, str(torch.cuda.get_device_properties(device).uuid))
    return device


def take_gpu(run: RunDirectory, uuid: str) -> None:
    """Wait until no other run of this user trains on the GPU of this name, and hold it until the run ends.

    Two runs on one card take each other's memory and halve each other's speed. What samples from it isn't kept away.
    The processes of a run take their GPUs one after the other, in the order of machine and name, which is the same for
    every run: two runs that want the same cards never each hold one that the other waits for. They wait together, so
    none of them is missed by the others, however long it takes.

    Raises:
        ConfigError: two processes of the run were given one GPU, or the folder of the locks is somebody else's.
        RunStopped: a stop was asked for meanwhile.
    """
    lock = lock_folder() / f"gpu-{uuid}.lock"
    places = run.group.gather_rows([f"{socket.gethostname()} {uuid}"])
    order = sorted(range(len(places)), key=places.__getitem__)
    for place, following in pairwise(places[number] for number in order):
        if place == following:
            permitted = f"one process for each GPU; {place} was given to two"
            raise ConfigError("processes, or the launcher's number", run.group.size, permitted)
    told = ""
    for number in order:
        while True:
            mine = try_gpu(run, lock) if run.group.rank == number else None
            holder = next(filter(None, run.group.gather_rows([mine])), None)
            if holder is None:
                break
            run.progress(0, 1, "wait for the GPU")
            if holder != told:
                run.log(f"waits for GPU {places[number].rpartition(' ')[2]}, on which {holder} trains")
                told = holder
            run.stop_event.wait(GPU_WAIT_SECONDS)
            if run.group.any(run.stop_requested)[0]:
                raise RunStopped("stopped before the next step")


def try_gpu(run: RunDirectory, lock: Path) -> str | None:
    """Take the lock of a GPU; who has it, in words, where it is taken."""
    try:
        run.hold(lock)
    except RunDirectoryBusy as busy:
        return busy.holder
    return None


def lock_folder() -> Path:
    """The folder of this user's locks, which nobody else may enter.

    Raises:
        ConfigError: something of another user's stands there, or others may enter it.
    """
    folder = Path(tempfile.gettempdir()) / f"steersman-{os.getuid()}"
    with suppress(FileExistsError):  # whatever it is that stands there
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        permitted = f"a folder in which {folder} is yours alone (mode 0700), for the locks of GPUs: mend or remove that"
        raise ConfigError("TMPDIR", str(folder.parent), permitted)
    return folder


def keep_freed_memory() -> None:
    """Let the process keep memory that a step frees, for the next step asks for the same again.

    Otherwise glibc returns each large tensor to the system and the next one is given page by page, which costs a small
    model an eighth of its step. Holds for the process; nothing happens where the C library is another one.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    set_option(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    set_option(M_TRIM_THRESHOLD, NEVER_TRIM)
