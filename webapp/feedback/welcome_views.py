"""A rater's first visit: consent, the guideline, and practice pairs whose answers are explained."""

from dataclasses import dataclass
from functools import wraps
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from webapp.feedback.forms import PracticeAnswerForm
from webapp.feedback.keys import page_context
from webapp.feedback.models import Comparison
from webapp.feedback.modes import mode_of
from webapp.feedback.modes.base import NOTHING_MORE
from webapp.feedback.selectors import ShownItem
from webapp.projects import welcome
from webapp.projects.access import MemberRequest, ProjectView, member_required
from webapp.projects.models import PracticePair, Project
from webapp.projects.prose import to_html
from webapp.projects.selectors import current_guideline, is_project_admin

NOBODY = UUID(int=0)


def welcomed_first(view: ProjectView) -> ProjectView:
    """Leads a member whose first visit is due there, whatever is asked for: nothing is shown or taken before.

    A script is told 403, at which the rater page loads itself anew. Who has read an older guideline is led to the new
    one too, but only by a whole page: what a script asks for belongs to a page that is open already.
    """

    @wraps(view)
    def guarded(request: MemberRequest, project: Project, /, *args: object, **kwargs: object) -> HttpResponseBase:
        membership = request.part.membership
        is_script = request.htmx or request.headers.get("X-Requested-With") == "fetch"
        if welcome.is_due(request.user, request.part):
            if is_script:
                return HttpResponse("first visit\n", content_type="text/plain", status=403)
            if request.method == "POST":
                lost = _("What you sent was not saved: read this first. Go back in the browser to find it again.")
                messages.warning(request, lost)
            return redirect("feedback:welcome", project.slug)
        if request.method == "GET" and not is_script and "paused" not in request.GET:
            current = current_guideline(project)
            if membership and current and 0 < membership.guideline_read < current.version:
                return redirect("projects:guideline", project.slug)
        return view(request, project, *args, **kwargs)

    return guarded


@never_cache
@member_required
@require_http_methods(["GET", "POST"])
def greet(request: MemberRequest, project: Project) -> HttpResponse:
    """What is agreed to and the guideline; a POST agrees."""
    if request.method == "POST":
        welcome.consent_to(user=request.user, project=project)
        return redirect("feedback:practise" if project.practice_pairs.exists() else "feedback:rate", project.slug)
    guideline = current_guideline(project)
    context = {
        "project": project,
        "consent_html": to_html(project.consent) if project.consent else "",
        "guideline": guideline,
        "guideline_html": to_html(guideline.body) if guideline else "",
        "pairs": project.practice_pairs.count(),
        "is_admin": is_project_admin(request.user, project),
    }
    return render(request, "feedback/welcome.html", context)


@dataclass(frozen=True)
class Answered:
    """What a member said of a practice pair, and whether it is what the admins say."""

    words: str
    is_right: bool


@never_cache
@member_required
@require_http_methods(["GET", "POST"])
def practise(request: MemberRequest, project: Project) -> HttpResponse:
    """The next practice pair; a POST answers it and shows why that was right or not."""
    membership = request.part.membership
    if membership and project.consent and membership.consented_at is None:
        return redirect("feedback:welcome", project.slug)
    pair, number, count = welcome.next_pair(request.user, project)
    mode, answered = mode_of(Comparison.Kind.PAIR), None
    form = PracticeAnswerForm(request.POST or None)
    if form.is_valid():
        pair = get_object_or_404(PracticePair, project=project, pk=form.cleaned_data["pair"])
        choice = form.cleaned_data["choice"]
        answered = Answered(words=mode.told(choice, NOTHING_MORE), is_right=welcome.side_of(choice) == pair.best)
        welcome.practise(user=request.user, project=project, pair=pair)
    if pair is None:
        return redirect("feedback:rate", project.slug)
    item = ShownItem(
        kind=mode.kind,
        question=project.question,
        prompt_label=project.prompt_label,
        prompt_text=pair.prompt,
        answers=(pair.left, pair.right),
        token=NOBODY,
        guideline_version=None,
    )
    context = page_context(request.user) | {
        "project": project,
        "pair": pair,
        "item": item,
        "mode": mode,
        "number": number,
        "count": count,
        "answered": answered,
        "is_practice": True,
        "is_admin": is_project_admin(request.user, project),
    }
    return render(request, "feedback/practice.html", context)
