"""Where a run trains, and how this process uses the machine for it."""

import ctypes
import os
import tempfile
from pathlib import Path

import torch

from rlhf_core.distributed import uses_cuda
from rlhf_core.training.run_directory import RunDirectory, RunDirectoryBusy

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc refuses more
GPU_WAIT_SECONDS = 5.0  # between two tries for a GPU that another run holds
NEVER_TRIM = 2**31 - 1  # bytes, the largest that mallopt takes


def use_device(threads: int, run: RunDirectory | None = None) -> torch.device:
    """The device to train on: CUDA, else the CPU, which is set up for training.

    Args:
        threads: of the CPU; 0 leaves them as they are.
        run: takes a GPU for itself until it ends, and waits for it; each of its processes on a machine takes another.

    Raises:
        RunStopped: a stop was asked for while it waited.
    """
    if threads:
        torch.set_num_threads(threads)
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

    Raises:
        RunStopped: a stop was asked for meanwhile.
    """
    lock = Path(tempfile.gettempdir()) / f"steersman-{os.getuid()}-gpu-{uuid}.lock"
    while True:
        try:
            run.hold(lock)
            return
        except RunDirectoryBusy:
            run.progress(0, 1, "wait for the GPU")
            run.stop_event.wait(GPU_WAIT_SECONDS)
            run.stop_unsaved()


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
