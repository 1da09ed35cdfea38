"""What every learning task shares: seeds one after the other, the worst of them, JSON or a table.

A task measures one seed; its goals are those of ``benchmarks/figures.py``, the one list, under ``learning-<task>``. A
goal at ``worst.<name>`` must be reached by every seed, one at ``four_of_five.<name>`` by four of five, and one at
``mean.<name>`` by the mean of the seeds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.figures import FIGURES, Figure

Say = Callable[[str], None]
EVERY, FOUR_OF_FIVE, MEAN = "worst", "four_of_five", "mean"
MAY_MISS = {EVERY: 0.0, FOUR_OF_FIVE: 0.2}  # share of the seeds


@dataclass(frozen=True)
class Task:
    """A task with a known answer.

    Attributes:
        name: as the command line has it.
        words: what it is, in one line.
        add_options: adds the task's own options, with help, to a parser.
        measure: what one seed finds: plain JSON values by name; told where to say how far it is. Raises ConfigError
            where an option is out of range, before anything is trained.
        columns: what the table shows of a seed.
    """

    name: str
    words: str
    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace, int, Say], dict[str, Any]]
    columns: tuple[str, ...]

    @property
    def goals(self) -> list[Figure]:
        return [figure for figure in FIGURES if figure.measurement == f"learning-{self.name.lower()}"]


def run_seed(task: Task, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The line of one seed: what was measured, how long it took, and whether it reaches every goal."""
    begun = time.monotonic()

    def say(words: str) -> None:
        print(f"{task.name} seed {seed}, {time.monotonic() - begun:.0f} s: {words}", file=sys.stderr, flush=True)

    found = task.measure(options, seed, say)
    line = {"task": task.name, "seed": seed, "seconds": round(time.monotonic() - begun, 1), **found}
    line["passed"] = all(goal.is_reached(float(line[measure_of(goal)])) for goal in task.goals)
    return line


def measure_of(goal: Figure) -> str:
    """The name in a seed's line of what a goal is about."""
    return goal.path.split(".", 1)[1]


def sum_up(task: Task, lines: Sequence[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    """The summary over the seeds: the verdict, each goal with what was found, the worst seed, and every line."""
    found: dict[str, Any] = {EVERY: {}, FOUR_OF_FIVE: {}, MEAN: {}}
    for goal in task.goals:
        share, name = goal.path.split(".", 1)
        values = sorted((float(line[name]) for line in lines), reverse=goal.comparison in ("<=", "<"))  # worst first
        found[share][name] = fmean(values) if share == MEAN else values[int(MAY_MISS[share] * len(values) + 1e-9)]
    goals = [
        {
            "words": goal.words,
            "goal": goal.goal_in_words,
            "found": goal.found_in(found),
            "reached": goal.is_reached(goal.found_in(found)),
        }
        for goal in task.goals
    ]
    first = task.goals[0]
    sign = -1 if first.comparison in ("<=", "<") else 1
    return {
        "task": task.name,
        "summary": True,
        "passed": all(goal["reached"] for goal in goals),
        "seeds": len(lines),
        "worst_seed": min(lines, key=lambda line: sign * float(line[measure_of(first)]))["seed"],
        **{share: values for share, values in found.items() if values},
        "goals": goals,
        "options": options,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "lines": list(lines),
    }


def table(task: Task, summary: dict[str, Any]) -> str:
    """A row a seed, then every goal with what was found."""
    head = ["seed", *task.columns, "seconds", "passed"]
    rows = [[shown(line[name]) for name in head] for line in summary["lines"]]
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    for goal in summary["goals"]:
        verdict = "reached" if goal["reached"] else "MISSED"
        lines.append(f"{goal['words']}: {goal['found']:.4g}, goal {goal['goal']}: {verdict}")
    lines.append(f"worst seed: {summary['worst_seed']}; {'passed' if summary['passed'] else 'NOT PASSED'}")
    return "\n".join(lines)


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(task: Task, options: argparse.Namespace) -> int:
    """Measure every seed and print; 0 where all goals are reached or only the summary was asked for."""
    lines = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        lines.append(run_seed(task, options, seed))
        if options.json:
            print(json.dumps(lines[-1]), flush=True)
    # What says how to print is no setting of the task.
    settings = {name: value for name, value in vars(options).items() if name not in ("task", "json", "summary")}
    summary = sum_up(task, lines, settings)
    if options.json:
        print(json.dumps(summary))
    elif options.summary:
        print(json.dumps(summary, indent=1))
    else:
        print(table(task, summary))
    return 0 if summary["passed"] or options.summary else 1
