"""The live part of a run's page: what changes while it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Q

from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.runs import charts, selectors
from webapp.runs.calibration import Calibration, calibration_of
from webapp.runs.charts import AXIS_UNITS
from webapp.runs.core_words import said
from webapp.runs.counts import holdout_count
from webapp.runs.figures import seconds_left
from webapp.runs.models import Run, RunEvent, RunMetrics, RunSample
from webapp.runs.run_details import duration_of
from webapp.runs.watch import Watch, watch

LIVE = tuple(state for state in Run.State if state not in Run.FINISHED)
LOG_LINES = 200
ROWS_LOOKED_AT = 100  # for a metric's first and last value; some are reported only now and then
TEXTS_SHOWN = 6  # of what a policy in training writes


@dataclass(frozen=True)
class LastValue:
    """First and last value of one metric, for the table."""

    metric: str
    help: str
    unit: str  # in English, as ``say_value`` knows it
    first: float | None
    value: float | None

    @property
    def spoken_unit(self) -> str:
        return "" if self.unit == "share" else said(AXIS_UNITS.get(self.unit, self.unit))


@dataclass(frozen=True)
class Live:
    """What changes while a run goes on."""

    run: Run
    left: float | None
    took: float | None
    ahead: int
    outputs: Sequence[Checkpoint]
    serving_id: Any
    last_values: Sequence[LastValue]
    log: Sequence[RunEvent]
    log_is_cut: bool
    texts: Sequence[RunSample]
    watched: Watch | None
    version: str

    @property
    def accuracy(self) -> Any:
        return next((made.metrics.get("holdout_accuracy") for made in self.outputs), None)

    @property
    def accuracy_count(self) -> int:
        return next((holdout_count(made) for made in self.outputs), 0)

    @property
    def calibration(self) -> Calibration | None:
        return calibration_of(self.run)


def version_of(run: Run) -> str:
    """Changes whenever anything that the live part of a run's page shows has changed."""
    last = RunEvent.objects.filter(run=run).aggregate(last=Max("id"))["last"] or 0
    pointer = serving(run.project)
    points = RunMetrics.objects.filter(run=run).aggregate(last=Max("step"), rows=Count("pk"))
    marks: list[Any] = [run.state, run.fence, run.attempt, run.step, run.phase, run.total_steps]
    marks += [last, points["last"], points["rows"], pointer.epoch if pointer else 0]
    return "-".join(str(mark).replace(" ", "_") for mark in marks)


def read_live(run: Run, *, now: datetime) -> Live:
    """The live part of a run's page."""
    metrics = RunMetrics.objects.filter(run=run).values_list("values", flat=True)
    first = list(metrics.order_by("step")[:ROWS_LOOKED_AT])
    last = list(metrics.order_by("-step")[:ROWS_LOOKED_AT])[::-1]
    log = list(RunEvent.objects.filter(run=run).order_by("-id")[: LOG_LINES + 1])
    pointer = serving(run.project)
    queued_before = Q(created_at__lt=run.created_at) & Q(state__in=LIVE)
    return Live(
        run=run,
        left=seconds_left(run.started_at, now, run.step, run.total_steps),
        took=duration_of(run),
        ahead=Run.objects.filter(queued_before).count() if run.state == Run.State.QUEUED else 0,
        outputs=[output.checkpoint for output in run.run_outputs.select_related("checkpoint")],
        serving_id=pointer.checkpoint_id if pointer else None,
        last_values=read_last_values(run.kind, [*first, *last]),
        log=log[:LOG_LINES],
        log_is_cut=len(log) > LOG_LINES,
        texts=selectors.texts_of(run, TEXTS_SHOWN) if run.kind == Run.Kind.SFT else (),
        watched=watched_in(run),
        version=version_of(run),
    )


def watched_in(run: Run | None) -> Watch | None:
    """What the judge of a policy run says so far; None where it has none."""
    return watch(selectors.curves(run)) if run is not None and run.judge_id else None


def read_last_values(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[LastValue]:
    """First and last value of every metric that ``rows`` report, in the order of METRICS."""
    found = []
    for name, (help, unit) in charts.metrics_of(kind).items():
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found.append(LastValue(name, said(help), unit, values[0], values[-1]))
    return found
