"""The ratings behind a model, and what became of one."""

import uuid
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from webapp.feedback.models import Rating
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Project
from webapp.quality.models import Dataset
from webapp.quality.selectors import sources_used
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.runs import selectors
from webapp.runs.access import policy_page
from webapp.runs.counts import counts_of
from webapp.runs.origins import origin_of, sources_of
from webapp.runs.shown_ratings import demonstrations_in, find_rating, ratings_in, rules_of, show_rating
from webapp.runs.unscored import unscored_among


@require_GET
@policy_page
def ratings_behind(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """The ratings that trained the reward model that a policy was taught by."""
    origin = origin_of(policy)
    return show_ratings(request, project, origin.dataset, policy=policy)


@require_GET
@admin_required
def dataset(request: MemberRequest, project: Project, pk: uuid.UUID) -> HttpResponse:
    """The ratings of a dataset."""
    found = Dataset.objects.filter(project=project, pk=pk).first()
    if found is None:
        raise Http404("no such dataset")
    return show_ratings(request, project, found)


def show_ratings(
    request: MemberRequest, project: Project, dataset: Dataset | None, policy: Checkpoint | None = None
) -> HttpResponse:
    """The ratings of a dataset; of demonstrations those first, and the ratings that chose them by ``?show=ratings``."""
    source = request.GET.get("source", "")
    context: dict[str, Any] = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "dataset": dataset,
        "policy": policy,
        "policy_source": sources_of([policy], request.user).get(policy.pk, "") if policy else "",
        "source": source,
        "sources": Rating.Source.choices,
        "counts": counts_of(dataset),
        "rules": rules_of(dataset),
    }
    if dataset is not None:
        context["show"] = "ratings" if context["rules"] and request.GET.get("show") == "ratings" else ""
        context["runs"] = dataset.runs.prefetch_related("outputs").order_by("number")
        if context["rules"] and not context["show"]:
            page, found = demonstrations_in(dataset, request.GET.get("page"))
            context |= {"page": page, "demonstrations": found}
        else:
            page, shown = ratings_in(dataset, source=source, page=request.GET.get("page"))
            judged = [sample for one in shown for sample in one.rating.comparison.samples]
            context |= {"page": page, "shown": shown, "unscored": unscored_among(project, judged)}
    return render(request, "runs/ratings.html", context)


@require_GET
@admin_required
def rating(request: MemberRequest, project: Project, pk: uuid.UUID) -> HttpResponse:
    """What became of a rating: the datasets it is in, the runs they fed and the policies that came of them."""
    try:
        found = find_rating(project, pk)
    except Rating.DoesNotExist:
        raise Http404(f"{project} has no rating {pk}") from None
    pointer = serving(project)
    context = {
        "project": project,
        "is_admin": True,
        "here": "queue",
        "one": show_rating(found, project.axes),
        "fate": selectors.fate_of(found),
        "unscored": unscored_among(project, found.comparison.samples),
        "is_taken": found.source in sources_used(project),
        "serving_id": pointer.checkpoint_id if pointer else None,
    }
    return render(request, "runs/rating.html", context)
