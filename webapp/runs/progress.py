"""What a supervisor reports of a run that goes on; each under the fence of its claim."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import transaction
from django.db.models import Case, F, Value, When

from webapp.runs.leases import Claim, lock_held, update_held
from webapp.runs.models import Run, RunMetrics, RunSample
from webapp.runs.notes import clean, finite, note


def record_progress(claim: Claim, *, step: int, total_steps: int | None = None, phase: str = "") -> None:
    """The training process has spoken: the run is running, and so far it has come."""
    is_starting = When(state=Run.State.STARTING, then=Value(Run.State.RUNNING))
    update_held(
        claim,
        state=Case(is_starting, default=F("state")),
        step=step,
        phase=phase[:40],
        **({} if total_steps is None else {"total_steps": total_steps}),
    )


def record_metrics(claim: Claim, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Write metrics by step; a step that comes again replaces what it said before."""
    by_step = {step: finite(dict(values)) for step, values in rows}
    with transaction.atomic():
        lock_held(claim)
        RunMetrics.objects.bulk_create(
            [RunMetrics(run=claim.run, step=step, values=values) for step, values in by_step.items()],
            update_conflicts=True,
            unique_fields=["run", "step"],
            update_fields=["values"],
        )


def record_read(claim: Claim, offset: int) -> None:
    """So many bytes of the run's events are recorded; within the transaction that recorded them."""
    update_held(claim, events_offset=offset)


def record_log(claim: Claim, message: str) -> None:
    """A line of the run's log."""
    with transaction.atomic():
        lock_held(claim)
        note(claim.run, "log", message, fence=claim.fence)


def record_texts(claim: Claim, texts: Iterable[Mapping[str, Any]]) -> None:
    """What the policy in training wrote: ``step``, ``prompt``, ``response``. A text that comes twice is kept once."""
    rows = [
        RunSample(run=claim.run, step=text["step"], prompt=clean(text["prompt"]), response=clean(text["response"]))
        for text in texts
    ]
    with transaction.atomic():
        lock_held(claim)
        RunSample.objects.bulk_create(rows, ignore_conflicts=True)


def record_saved(claim: Claim, step: int, *, is_further: bool = False) -> None:
    """The training process has saved its state at ``step``; if that is further than before, attempts count anew.

    ``is_further``: it is, though ``step`` may be the same: a step may take many optimiser steps.
    """
    with transaction.atomic():
        run = lock_held(claim)
        if step > run.saved_step or is_further:
            run.saved_step, run.attempt = max(step, run.saved_step), 0
            run.save(update_fields=["saved_step", "attempt"])
