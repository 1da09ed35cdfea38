"""A real training run that uses all cores while something else is measured."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.loop import wait
from benchmarks.studio import cpu_seconds

RATINGS = 96  # with so many a run takes half an hour, longer than all modes do
EPOCHS = 1000  # the most that are permitted


@dataclass
class Training:
    """What a run did between the two looks at it, for the report."""

    seen: dict[str, Any] = field(default_factory=dict)


@contextmanager
def training() -> Iterator[Training]:
    """Train the demo's reward model, by the studio's own worker with its own settings of threads, until the end.

    Simulated raters give the ratings. What is yielded is filled in at the end: the run's step before and after, and the
    share of the machine's cores that the training process had in between.

    Raises:
        RuntimeError: the run did not begin, or it ended before what was measured did.
    """
    from rlhf_core.config import RewardConfig
    from webapp.accounts.services import ensure_admin
    from webapp.feedback.models import Rating
    from webapp.projects.models import Project
    from webapp.runs.models import Run
    from webapp.runs.services import ask_for_simulated_ratings, cancel, start_reward_run
    from workers.run_files import read_child, run_folder

    admin = ensure_admin()
    project = Project.objects.get(slug="film-reviews")
    rated = Rating.objects.filter(project=project, is_current=True)
    ask_for_simulated_ratings(actor=admin, project=project, count=RATINGS)
    wait(lambda: rated.count() >= RATINGS, 300, "the simulated ratings")
    config = RewardConfig(epochs=EPOCHS, batch_size=16, save_interval=200)
    run = start_reward_run(actor=admin, project=project, config=config, request_id=uuid.uuid4())

    def step() -> int:
        run.refresh_from_db()
        if run.is_finished:
            raise RuntimeError(f"run {run.number} {run.state} at step {run.step}, before the end: {run.error}")
        return run.step

    seen = Training()
    try:
        wait(lambda: step() > 0, 180, "the first step of the training run")
        child = read_child(run_folder(run))
        if child is None:
            raise RuntimeError(f"run {run.number} has made a step, but no training process is noted")
        looks = [look(step, child[0])]
        yield seen
        looks.append(look(step, child[0]))
    finally:
        cancel(actor=admin, run=Run.objects.get(pk=run.pk))
    seen.seen = sum_up(*looks)


@dataclass(frozen=True)
class Look:
    """Where a run stood at a moment (monotonic, s), and the processor seconds that it had taken."""

    at: float
    step: int
    cpu_seconds: float


def look(step: Callable[[], int], pid: int) -> Look:
    return Look(time.monotonic(), step(), cpu_seconds(pid))


def sum_up(before: Look, after: Look) -> dict[str, Any]:
    """What happened between two looks.

    Raises:
        RuntimeError: the run made no step.
    """
    if after.step <= before.step:
        raise RuntimeError(f"the training run stood still at step {before.step}: nothing was measured beside it")
    seconds = after.at - before.at
    cores = os.cpu_count() or 1
    return {
        "step_before": before.step,
        "step_after": after.step,
        "steps": after.step - before.step,
        "seconds": round(seconds, 1),
        "cores": cores,
        "share_of_cores": round((after.cpu_seconds - before.cpu_seconds) / seconds / cores, 3),
    }
