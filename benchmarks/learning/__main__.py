"""Small tasks whose best answer is known: ``python -m benchmarks.learning T0 [--seeds 5] [--json]``.

Without a task they are listed; ``python -m benchmarks.learning T0 --help`` has a task's options. Progress goes to
stderr. The exit code is 0 if every goal is reached, 1 if one is missed, 2 if an option is out of range
(docs/benchmarks.md).
"""

import argparse
import sys

import torch

from benchmarks.learning import (
    t0_frontier,
    t1_clicks,
    t1_reward_model,
    t2_overoptimisation,
    t3_walks,
    t5_stopping,
    t7_length,
)
from benchmarks.learning.harness import Task, run
from rlhf_core.errors import ConfigError

MODULES = (t0_frontier, t1_reward_model, t1_clicks, t2_overoptimisation, t3_walks, t5_stopping, t7_length)
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in MODULES}


def parser() -> argparse.ArgumentParser:
    """The command line: a task, what all tasks have in common, and the task's own options."""
    top = argparse.ArgumentParser(
        prog="benchmarks.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of_task = top.add_subparsers(dest="task", metavar="task", title="tasks")
    for task in TASKS.values():
        one = of_task.add_parser(
            task.name,
            help=task.words,
            description=sys.modules[task.measure.__module__].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("--seeds", type=whole, default=5, help="so many seeds (5)")
        one.add_argument("--first-seed", type=int, default=0, help="the first of them (0)")
        one.add_argument("--threads", type=whole, default=1, help="CPU threads; these networks gain little by more (1)")
        output = one.add_mutually_exclusive_group()
        output.add_argument("--json", action="store_true", help="a line of JSON a seed, then one that sums them up")
        output.add_argument(
            "--summary", action="store_true", help="only the sum as JSON; exit code 0 though a goal is missed"
        )
        task.add_options(one)
    return top


def whole(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not permitted: at least 1")
    return value


def main() -> int:
    options = parser().parse_args()
    if options.task is None:
        for task in TASKS.values():
            print(f"{task.name}  {task.words}")
        return 0
    torch.set_num_threads(options.threads)
    try:
        return run(TASKS[options.task], options)
    except ConfigError as error:
        print(f"{options.task}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
