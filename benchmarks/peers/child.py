"""The parent's side of a comparison: programs that wait as child processes, each in its environment, timed in turn."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers.environments import ENVIRONMENTS, ROOT

RUNS = 5
LONG_SECONDS, RUNS_OF_LONG = 60, 3
THREADS = 2


class Program:
    """A running program of ``benchmarks.peers``; a context manager, since it waits until it is told to end.

    Args:
        name: its module.
        environment: folder in ``.venv-peers``; None runs it by the interpreter that runs this.
        task: its task and the keywords of that.

    Raises:
        RuntimeError: the environment was not made, or the program broke down; what it said is on standard error.
    """

    def __init__(self, name: str, environment: str | None = None, **task: Any) -> None:
        python = Path(sys.executable) if environment is None else ENVIRONMENTS / environment / "bin/python"
        if not python.is_file():
            raise RuntimeError(f"there is no {python}: make bench-peers makes it")
        self.name = name
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.peers.{name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": str(THREADS), **os.environ, "HF_HUB_OFFLINE": "1"},
        )
        self.ask(task)

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()  # the end of its input is the end of it

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        try:
            print(json.dumps(message), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()} at {message}")
        told: dict[str, Any] = json.loads(answer)
        return told

    def run(self, *, memory: bool = False) -> dict[str, Any]:
        """Do the task once: its seconds and what else the program tells of it, see ``program.serve``."""
        return self.ask({"run": True, "memory": memory})


def alternate(programs: Sequence[Program], runs: int = RUNS) -> list[dict[str, float]]:
    """Time programs in turn, run by run.

    Returns:
        for each program the median ``tokens_per_second``, the ``seconds`` of that, how many ``runs`` were made (three
        at most where one took more than a minute), and the most ``rival_cores`` of any: above 0.15 the times are not to
        be trusted, and their ratios only so far.
    """
    rounds = [[program.run() for program in programs]]
    if any(run["seconds"] > LONG_SECONDS for run in rounds[0]):
        runs = min(runs, RUNS_OF_LONG)
    rounds += [[program.run() for program in programs] for _ in range(runs - 1)]
    return [sum_up(list(of_one)) for of_one in zip(*rounds, strict=True)]


def sum_up(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians of what a program told of its runs."""
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "tokens_per_second": round(runs[0]["tokens"] / seconds, 1),
        "seconds": round(seconds, 3),
        "runs": len(runs),
        "rival_cores": round(max(run["rival_cores"] for run in runs), 2),
    }
