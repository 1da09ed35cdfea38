"""The loop board, and what it lets an admin do at once."""

import uuid

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_GET, require_POST

from webapp.errors import PromotionConflict
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Membership, Project
from webapp.projects.selectors import projects_for
from webapp.registry import services as registry
from webapp.registry.models import ServingPointer
from webapp.registry.selectors import serving_in
from webapp.runs import charts, selectors, services
from webapp.runs.board import look_at_board
from webapp.runs.figures import seconds_left
from webapp.runs.models import Run
from webapp.runs.polling import STOP_POLLING, tag

SIMULATED_AT_ONCE = 200


@require_GET
@admin_required
def board(request: MemberRequest, project: Project) -> HttpResponse:
    """The loop: what serves, what to do next, every version. While something goes on, its fragment is polled."""
    found = look_at_board(project)
    simulating = selectors.simulating(project, SIMULATED_AT_ONCE)
    is_live = found.live is not None or simulating is not None
    if request.htmx and not is_live:
        return HttpResponse(status=STOP_POLLING, headers={"HX-Refresh": "true"})  # the tables below changed too
    context = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "look": found,
        "board": found.board,
        "simulating": simulating,
        "is_live": is_live,
        "simulated_at_once": SIMULATED_AT_ONCE,
        "adoptable": policies_to_adopt(request) if found.board.serving is None else (),
        "live_left": left_of(found.live),
    }
    if request.htmx:
        return tag(render(request, "runs/_now.html", context), uuid.uuid4().hex)
    if run := found.last_policy_run:
        context |= {
            "charts": charts.main_charts(run.kind, is_judged=run.judge_id is not None)[:2],
            "steps": run.steps,
            "curves_url": reverse("runs:curves", args=[project.slug, run.number]),
        }
    response = render(request, "runs/board.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


@require_POST
@admin_required
def adopt_policy(request: MemberRequest, project: Project) -> HttpResponse:
    """Begin with the policy that serves in another project of this admin's."""
    slug = request.POST.get("source", "")
    source = None if "\0" in slug else policies_to_adopt(request).filter(project__slug=slug).first()
    if source is None:
        raise Http404("there is no such project, or no policy serves in it")
    try:
        registry.adopt_policy(project=project, source=source, actor=request.user)
    except PromotionConflict as error:
        messages.error(request, str(error))
    return redirect("runs:board", project.slug)


def policies_to_adopt(request: MemberRequest) -> QuerySet[ServingPointer]:
    return serving_in(projects_for(request.user, Membership.Role.ADMIN))


def left_of(run: Run | None) -> float | None:
    if run is None:
        return None
    return seconds_left(run.started_at, timezone.now(), run.step, run.total_steps)


@require_POST
@admin_required
def simulate(request: MemberRequest, project: Project) -> HttpResponse:
    """Ask simulated raters for a batch of ratings; they are marked as simulated wherever they are shown."""
    services.ask_for_simulated_ratings(actor=request.user, project=project, count=SIMULATED_AT_ONCE)
    return redirect("runs:board", project.slug)
