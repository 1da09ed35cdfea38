"""A run's page, its live part and its curves, the table of all runs; cancelling."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from webapp.errors import StudioError
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Project
from webapp.runs import charts, selectors, services
from webapp.runs.access import run_page
from webapp.runs.counts import counts_of
from webapp.runs.findings import findings_of, side_by_side
from webapp.runs.live import read_live, version_of
from webapp.runs.models import Run
from webapp.runs.polling import STOP_POLLING, not_modified, tag
from webapp.runs.results import references_of
from webapp.runs.run_details import runs_page, shown_settings
from webapp.runs.shown_ratings import rules_of
from webapp.runs.watch import watch


def live_context(project: Project, run: Run) -> dict[str, Any]:
    found = read_live(run, now=timezone.now())
    names = (*type(found).__dataclass_fields__, "accuracy", "accuracy_count", "calibration")
    return {
        "project": project,
        "counts": counts_of(run.dataset),
        **{name: getattr(found, name) for name in names},
    }


@require_GET
@run_page
def detail(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """A run: how far it is, its curves, what went in and came out."""
    made_by = getattr(run.reward_model, "origin", None) if run.reward_model else None
    context = {
        **live_context(project, run),
        "is_admin": True,
        "here": "loop",
        "reward_run_number": made_by.run.number if made_by else None,
        "settings": shown_settings(run),
        "rules": rules_of(run.dataset),
    }
    if run.kind == Run.Kind.EVALUATE:
        context |= {"references": references_of(run).items()}
        if findings := findings_of(run):
            page, pairs = side_by_side(findings, request.GET.get("page"))
            context |= {"findings": findings, "page": page, "pairs": pairs}
    else:
        is_judged = run.judge_id is not None
        context |= {
            "charts": (*((charts.WATCH,) if is_judged else ()), *charts.main_charts(run.kind, is_judged=is_judged)),
            "folded": charts.folded_charts(run.kind, is_judged=is_judged),
            "curves_url": reverse("runs:curves", args=[project.slug, run.number]),
            "steps": run.steps,
        }
    return render(request, "runs/run.html", context)


@require_GET
@run_page
def live(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """What changes of a run's page, asked for every 3 s; 286 ends the asking."""
    version = version_of(run)
    if unchanged := not_modified(request, version):
        return unchanged
    if run.is_finished and run.kind == Run.Kind.EVALUATE:
        return HttpResponse(status=STOP_POLLING, headers={"HX-Refresh": "true"})  # its findings stand below
    context = {**live_context(project, run), "is_fragment": True}
    status = STOP_POLLING if run.is_finished else 200
    return tag(render(request, "runs/_live.html", context, status=status), version)


@require_GET
@run_page
def curves(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """The curves' numbers as JSON, thinned to what a screen can show."""
    version = version_of(run)
    if unchanged := not_modified(request, version):
        return unchanged
    found = selectors.curves(run)
    if run.judge and (watched := watch(found)):
        found |= watched.curves
    metrics = {name: charts.thin(points) for name, points in found.items()}
    body = {
        "version": version,
        "is_finished": run.is_finished,
        "total_steps": run.total_steps,
        "points": max((len(points) for points in metrics.values()), default=0),
        "metrics": metrics,
    }
    return tag(JsonResponse(body), version)


@require_http_methods(["GET", "POST"])
@run_page
def cancel(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """Ask once more, then cancel; a run that has ended stays as it is."""
    if request.method == "POST":
        try:
            services.cancel(actor=request.user, run=run)
        except StudioError as error:
            messages.error(request, str(error))
        return redirect("runs:detail", project.slug, run.number)
    if run.is_finished:
        messages.info(request, _("Run %(number)s has ended already.") % {"number": run.number})
        return redirect("runs:detail", project.slug, run.number)
    context = {"project": project, "is_admin": True, "here": "loop", "run": run}
    return render(request, "runs/cancel.html", context)


@require_GET
@admin_required
def all_runs(request: MemberRequest, project: Project) -> HttpResponse:
    """Every run, newest first."""
    page = runs_page(project, request.GET.get("page"))
    return render(request, "runs/runs.html", {"project": project, "is_admin": True, "here": "loop", "page": page})
