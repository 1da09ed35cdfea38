"""How many CPU threads torch works with; it loads when they are set."""

import os


def use_threads(count: int, processes: int = 1) -> None:
    """Give torch ``count`` threads, or, given 0, as many as this process may use cores, shared by ``processes``."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count or max(1, usable // processes))
