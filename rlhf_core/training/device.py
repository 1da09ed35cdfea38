"""Where a run trains, and how this process uses the machine for it."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc refuses more
NEVER_TRIM = 2**31 - 1  # bytes, the largest that mallopt takes


def use_device(threads: int) -> torch.device:
    """The device to train on: CUDA, else the CPU, which is set up for training.

    Args:
        threads: of the CPU; 0 leaves them as they are.
    """
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
