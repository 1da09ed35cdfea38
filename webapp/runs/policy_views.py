"""A policy's page, its promotion, and the family of policies."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from webapp.errors import PromotionConflict, StudioError
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Project
from webapp.registry import services as registry
from webapp.registry.forms import PromoteForm
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.runs import charts, selectors
from webapp.runs.access import policy_page
from webapp.runs.family import family_of
from webapp.runs.findings import PAIRS_AT_FIRST, findings_in, side_by_side
from webapp.runs.live import watched_in
from webapp.runs.origins import origin_of, sources_of
from webapp.runs.policy_details import promotions_of, running_evaluation, samples_of
from webapp.runs.run_details import duration_of
from webapp.runs.unscored import unscored_among


@require_GET
@policy_page
def policy(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """A policy: its samples, whether it serves, and the way back to the ratings that made it."""
    return render(request, "runs/policy.html", policy_context(request, project, policy))


def policy_context(
    request: MemberRequest, project: Project, policy: Checkpoint, form: PromoteForm | None = None
) -> dict[str, Any]:
    pointer = serving(project)
    origin = origin_of(policy)
    history = list(promotions_of(policy))
    is_serving = pointer is not None and pointer.checkpoint_id == policy.pk
    samples = samples_of(policy, request.GET.get("page"))
    context = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "page_url": reverse("runs:policy", args=[project.slug, policy.version]),
        "policy": policy,
        "serving": pointer,
        "is_serving": is_serving,
        "is_rollback": pointer is not None and not is_serving and policy.version < pointer.checkpoint.version,
        "was_serving": any(event.to_checkpoint_id == policy.pk for event in history),
        "history": history,
        "origin": origin,
        "source": sources_of([policy], request.user).get(policy.pk, ""),
        "seconds": duration_of(origin.run),
        "samples": samples,
        "unscored": unscored_among(project, samples),
        "evaluating": running_evaluation(policy),
        "form": form or PromoteForm(initial={"expected_epoch": pointer.epoch if pointer else 0}),
    }
    if findings := findings_in(selectors.evaluations_of(policy).first()):
        _, pairs = side_by_side(findings, None, PAIRS_AT_FIRST)
        context |= {"findings": findings, "pairs": pairs}
    if origin.run is not None:
        context |= {
            "charts": charts.main_charts(origin.run.kind, is_judged=origin.run.judge_id is not None)[:2],
            "steps": origin.run.steps,
            "curves_url": reverse("runs:curves", args=[project.slug, origin.run.number]),
            "watched": watched_in(origin.run),
        }
    return context


@require_POST
@policy_page
def promote(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """Let this policy serve. Refused with 409 where somebody moved the pointer since the page was loaded."""
    form = PromoteForm(request.POST)
    if not form.is_valid():
        return render(request, "runs/policy.html", policy_context(request, project, policy, form), status=422)
    try:
        registry.promote(
            project=project,
            checkpoint=policy,
            actor=request.user,
            reason=form.cleaned_data["reason"],
            expected_epoch=form.cleaned_data["expected_epoch"],
        )
    except PromotionConflict as error:
        context = policy_context(request, project, policy)
        context["conflict"] = error
        context["form"] = PromoteForm(initial={"expected_epoch": error.epoch, "reason": form.cleaned_data["reason"]})
        return render(request, "runs/policy.html", context, status=409)
    except StudioError as error:
        messages.error(request, str(error))
        return redirect("runs:policy", project.slug, policy.version)
    messages.success(
        request,
        _("%(policy)s serves now. Samples of it come into the queue, and the older ones that wait are withdrawn.")
        % {"policy": policy},
    )
    return redirect("runs:board", project.slug)


@require_GET
@admin_required
def lineage(request: MemberRequest, project: Project) -> HttpResponse:
    """The family of policies as a tree: which came from which, which served, which were evaluated."""
    context = {"project": project, "is_admin": True, "here": "loop", "family": family_of(project, request.user)}
    return render(request, "runs/lineage.html", context)
