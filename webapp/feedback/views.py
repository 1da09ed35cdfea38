"""The rater page, and the list of ratings for admins."""

import uuid
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django.views.decorators.vary import vary_on_headers

from webapp.errors import ChoiceInvalid, SubmissionConflict, TokenUnknown
from webapp.feedback import selectors, services
from webapp.feedback.forms import (
    BOTH_BAD,
    PAIR_STEPS,
    SINGLE_STEPS,
    SKIP_REASONS,
    LeaseForm,
    SkipForm,
    VerdictForm,
)
from webapp.feedback.models import Comparison, Rating
from webapp.feedback.words import verdict_in_words
from webapp.projects.access import MemberRequest, admin_required, member_required
from webapp.projects.models import Project
from webapp.projects.prose import to_html
from webapp.projects.selectors import current_guideline, is_project_admin, membership_of

LOOKS = 18  # re-checks of an empty page by itself, ten seconds apart
PAGE_SIZE = 50


@dataclass(frozen=True)
class Told:
    """What a page says about the step just made; ``level`` is success, info, warning or error."""

    level: str
    text: str
    status: int = 200


LATE = Told(
    "info",
    "Saved. The time for that item had run out and somebody else had it; your rating is kept and marked as late.",
)
NOT_UNDERSTOOD = Told("error", "That was not understood, and nothing was saved. Please rate once more.", status=422)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@require_http_methods(["GET", "POST"])
def rate(request: MemberRequest, project: Project) -> HttpResponse:
    """Show what to judge next; a POST records a verdict and shows the one after it."""
    told = None
    if request.method == "POST":
        form = VerdictForm(request.POST)
        told = record_verdict(request, form) if form.is_valid() else NOT_UNDERSTOOD
        if not request.htmx:
            return say_and_go_on(request, project, told)
    return show_item(request, project, told)


def record_verdict(request: MemberRequest, form: VerdictForm) -> Told | None:
    """Submit; raises Http404 for an item that this rater was never shown."""
    try:
        submission = services.submit(rater=request.user, **form.cleaned_data)
    except TokenUnknown as error:
        raise Http404(str(error)) from None
    except ChoiceInvalid as error:
        return Told("error", str(error), status=422)
    except SubmissionConflict as error:
        return told_of(error)
    return LATE if submission.is_late and not submission.is_duplicate else None


def told_of(error: SubmissionConflict) -> Told:
    return Told("warning", f"{error} Perhaps you gave it in another tab. Here is the next item.", status=409)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@require_POST
def skip(request: MemberRequest, project: Project) -> HttpResponse:
    """Pass an item by, for good."""
    form = SkipForm(request.POST)
    told = None
    if form.is_valid():
        try:
            services.skip(rater=request.user, **form.cleaned_data)
        except TokenUnknown as error:
            raise Http404(str(error)) from None
        except SubmissionConflict as error:
            told = told_of(error)
    else:
        told = NOT_UNDERSTOOD
    if not request.htmx:
        return say_and_go_on(request, project, told)
    return show_item(request, project, told)


def say_and_go_on(request: MemberRequest, project: Project, told: Told | None) -> HttpResponse:
    """The answer to a plain form: to the next item, so that a reload sends nothing twice."""
    if told:
        messages.add_message(request, messages.DEFAULT_LEVELS[told.level.upper()], told.text)
    return redirect("feedback:rate", project.slug)


@never_cache
@member_required
@require_POST
def heartbeat(request: MemberRequest, project: Project) -> HttpResponse:
    """Keep the item for its rater a while longer; 410 when its time had run out."""
    form = LeaseForm(request.POST)
    kept = form.is_valid() and services.renew(rater=request.user, token=form.cleaned_data["token"])
    return HttpResponse(status=204 if kept else 410)


def show_item(request: MemberRequest, project: Project, told: Told | None) -> HttpResponse:
    """The page, or for htmx the fragment, with the rater's live item or a reason why there is none."""
    presentation = None if project.is_paused else services.claim(rater=request.user, project=project)
    item = selectors.shown(presentation) if presentation else None
    is_fragment = bool(request.htmx)
    looks = int(look) if (look := request.GET.get("look", "")).isdecimal() and len(look) < 4 else 0
    context: dict[str, Any] = {
        "project": project,
        "item": item,
        "steps": PAIR_STEPS if item and item.kind == Comparison.Kind.PAIR else SINGLE_STEPS,
        "reasons": SKIP_REASONS,
        "submission_id": uuid.uuid4(),
        "told": told,
        "done_today": selectors.rated_today(request.user, project),
        "is_fragment": is_fragment,
    }
    if item is None:
        context |= {"empty": "paused" if project.is_paused else "waiting", "looks": looks, "looks_left": looks < LOOKS}
    if item is None or not is_fragment:
        context["is_admin"] = is_project_admin(request.user, project)
    if is_fragment:
        return render(request, "feedback/_item.html", context, status=told.status if told else 200)
    guideline = current_guideline(project)
    if guideline:
        membership = membership_of(request.user, project)
        context |= {
            "guideline": guideline,
            "guideline_html": to_html(guideline.body),
            "guideline_is_new": membership is not None and membership.guideline_read < guideline.version,
        }
    return render(request, "feedback/rate.html", context)


@never_cache
@member_required
@require_GET
def history(request: MemberRequest, project: Project) -> HttpResponse:
    """The rater's own last ratings, as they were shown."""
    context = {
        "project": project,
        "is_admin": is_project_admin(request.user, project),
        "here": "history",
        "entries": [(entry, words_of(entry)) for entry in selectors.history(request.user, project)],
        "progress": selectors.progress(request.user, project),
    }
    return render(request, "feedback/history.html", context)


def words_of(entry: selectors.JudgedItem) -> str:
    """A verdict in the words of its button."""
    steps = [*PAIR_STEPS, BOTH_BAD] if entry.item.kind == Comparison.Kind.PAIR else SINGLE_STEPS
    return next(step.name for step in steps if step.key == entry.choice)


@admin_required
@require_GET
def queue(request: MemberRequest, project: Project) -> HttpResponse:
    """What waits and what was said, by whom: ratings of one source or of all."""
    source = request.GET.get("source", "")
    if source not in Rating.Source.values:
        source = ""
    ratings = selectors.ratings_of(project, source=source or None)
    page = Paginator(ratings, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "is_admin": True,
        "here": "queue",
        "counts": selectors.queue_counts(project),
        "raters": selectors.raters_of(project),
        "sources": Rating.Source.choices,
        "source": source,
        "page": page,
        "rows": [
            (rating, verdict_in_words(rating), None if rating.active_ms is None else rating.active_ms / 1000)
            for rating in page
        ],
    }
    return render(request, "feedback/queue.html", context)
