"""A run as its page and the table of runs show it: its settings in words, how long it took."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from django.core.paginator import Page, Paginator
from django.utils.translation import gettext_noop

from rlhf_core.config import RUN_CONFIGS
from webapp.projects.models import Project
from webapp.runs import selectors
from webapp.runs.core_words import said, spelled
from webapp.runs.models import Run

RUNS_A_PAGE = 50
NO_SETTING = gettext_noop("no longer a setting")


@dataclass(frozen=True)
class ShownSetting:
    """One setting of a run with what it does."""

    name: str
    label: str
    value: Any
    unit: str
    help: str


def find_run(project: Project, number: int) -> Run:
    """A run of this project with what its page names. Raises Run.DoesNotExist."""
    related = ("project", "policy", "reward_model__origin__run", "judge", "dataset", "serving", "started_by")
    return Run.objects.select_related(*related).get(project=project, number=number)


def duration_of(run: Run | None) -> float | None:
    """Seconds from a run's first start to its end; none while it goes on."""
    if run is None or run.started_at is None or run.finished_at is None:
        return None
    return (run.finished_at - run.started_at).total_seconds()


def with_seconds(runs: Sequence[Run]) -> Sequence[Run]:
    """The runs, each with how long it took as ``seconds``."""
    for run in runs:
        run.seconds = duration_of(run)  # type: ignore[attr-defined]
    return runs


def shown_settings(run: Run) -> list[ShownSetting]:
    """The settings that a run was started with, as the form orders them.

    One that today's program no longer has is shown last.
    """
    described = {item.name: item for item in fields(RUN_CONFIGS[run.kind])}  # type: ignore[arg-type]
    places = {name: place for place, name in enumerate(described)}  # the database sorts names by their length
    shown = []
    for name, value in sorted(run.config.items(), key=lambda item: (places.get(item[0], len(places)), item[0])):
        metadata = described[name].metadata if name in described else {"unit": "", "help": NO_SETTING}
        shown.append(ShownSetting(name, said(spelled(name)), value, said(metadata["unit"]), said(metadata["help"])))
    return shown


def runs_page(project: Project, page: str | None) -> Page[Run]:
    """Every run of a project, the newest first."""
    found = Paginator(selectors.runs_of(project), RUNS_A_PAGE).get_page(page)
    found.object_list = with_seconds(list(found.object_list))
    return found
