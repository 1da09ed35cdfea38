"""How many CPU threads torch works with; it loads when they are set."""

import os


def use_threads(count: int, processes: int = 1) -> None:
    """Give torch its share of ``count`` threads, or, given 0, of the cores that it may use, among ``processes``."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, (count or usable) // processes))
