"""A whole studio in a temporary folder for the benchmarks."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from webapp.local.temporary import environment_of, temporary_studio


@contextmanager
def studio() -> Iterator[str]:
    """Start everything, point Django of this process at it, and yield the address of the pages."""
    with temporary_studio() as started:
        os.environ.update(environment_of(started.data))
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
        import django

        django.setup()
        yield started.url


def web_pid() -> int:
    """The web process of the studio that this process was pointed at."""
    processes = json.loads((Path(os.environ["STEERSMAN_DATA"]) / "processes.json").read_text())
    return int(processes["web"][0])


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken so far, all its threads together (Linux: /proc tells)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime
