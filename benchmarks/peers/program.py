"""The child's side of a comparison: a program that prepares one task, then does it again each time it is asked.

It reads a JSON object a line from standard input and answers with one a line on what was standard output when it
began; whatever a library prints goes to standard error. Only the standard library is used: a peer's environment has
nothing of ours.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Work = Callable[[], Mapping[str, Any] | None]  # does the task once; may tell more than its seconds


def serve(tasks: Mapping[str, Callable[..., Work]]) -> None:
    """Answer until standard input ends.

    ``{"task": name, ...}`` makes the work from ``tasks`` with the other keys as keywords. ``{"run": true, "memory":
    false}`` does it once and tells ``seconds``, ``cpu_seconds``, and how many cores on average other processes kept
    busy meanwhile, ``rival_cores``; with ``memory`` also ``mebibytes``, the most that was resident above the start.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    work: Work | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        told: dict[str, Any] = {}
        if "task" in asked:
            work = tasks[asked.pop("task")](**asked)
        else:
            assert work is not None
            before = resident("VmRSS")
            if asked["memory"]:
                forget_peak()
            begun, own, busy = time.perf_counter(), time.process_time(), busy_seconds()
            told = dict(work() or {})
            seconds, own, busy = time.perf_counter() - begun, time.process_time() - own, busy_seconds() - busy
            told |= {"seconds": seconds, "cpu_seconds": own, "rival_cores": max(0.0, busy - own) / seconds}
            if asked["memory"]:
                told["mebibytes"] = (resident("VmHWM") - before) / 1024
        print(json.dumps(told), file=answers, flush=True)


def busy_seconds() -> float:
    """Seconds that all cores together have been at work since the machine started. Linux only."""
    user, nice, system, *_ = (int(word) for word in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def resident(field: str) -> int:
    """Resident kibibytes of this process: ``VmRSS`` now, ``VmHWM`` at most since ``forget_peak``. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Let ``VmHWM`` begin anew from what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
