"""The rater page, and the list of ratings for admins."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django.views.decorators.vary import vary_on_headers

from webapp.errors import ChoiceInvalid, RemarkInvalid, RevisionClosed, SubmissionConflict, TokenUnknown
from webapp.feedback import kept, reports, selectors, services
from webapp.feedback.exports import rating_pages
from webapp.feedback.forms import (
    SKIP_REASONS,
    ChoiceForm,
    LeaseForm,
    PageForm,
    UndoForm,
    VerdictForm,
)
from webapp.feedback.keys import page_context
from webapp.feedback.models import Comparison, Presentation, Rating, load_rankings
from webapp.feedback.modes import mode_of, verdict_in_words
from webapp.feedback.modes.base import NOTHING_MORE, REASON_LENGTH, Extras
from webapp.feedback.page_words import page_words
from webapp.feedback.scores import load_scores_of
from webapp.feedback.sittings import last_sitting
from webapp.feedback.welcome_views import welcomed_first
from webapp.projects.access import MemberRequest, admin_required, member_required
from webapp.projects.models import Project
from webapp.projects.prose import to_html
from webapp.projects.selectors import current_guideline, is_project_admin
from webapp.streams import streamed

LOOKS = 18  # re-checks of an empty page by itself, ten seconds apart
PAGE_SIZE = 50
HISTORY_SIZE = 20


@dataclass(frozen=True)
class Told:
    """What a page says about the step just made; ``level`` is success, info, warning or error."""

    level: str
    text: str | Promise
    status: int = 200


LATE = Told(
    "info",
    gettext_lazy(
        "Saved. The time for that item had run out and somebody else had it; your rating is kept and marked as late."
    ),
)
CHANGED = Told("success", gettext_lazy("Changed. Models that have learned from the earlier verdict stay as they are."))
NOTHING_TO_UNDO = Told("info", gettext_lazy("There is nothing to undo."))
JUDGED_BEFORE = Told(
    "warning",
    gettext_lazy(
        "You have answered this item already, perhaps in another tab, and that answer stands. What you wrote now is "
        "not saved yet; it stands below."
    ),
    status=409,
)
REFUSED = 422
NOT_UNDERSTOOD = Told(
    "error", gettext_lazy("That was not understood, and nothing was saved. Please rate once more."), status=REFUSED
)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@welcomed_first
@require_http_methods(["GET", "POST"])
def rate(request: MemberRequest, project: Project) -> HttpResponse:
    """Show what to judge next; a POST records a verdict and shows the one after it."""
    told = None
    if request.method == "POST":
        form = VerdictForm(request.POST)
        told = record_verdict(request, project, form) if form.is_valid() else NOT_UNDERSTOOD
        if not request.htmx:
            if told and told.status == REFUSED and (item := refused_item(request, project, form)):
                return show_again(request, project, told, item, form)
            if told and told.status == 409:
                return show_conflict(request, project, told, form.cleaned_data["token"])
            return say_and_go_on(request, project, told)
    return show_item(request, project, told)


def record_verdict(request: MemberRequest, project: Project, form: VerdictForm) -> Told | None:
    """Submit; raises Http404 for an item that this rater was never shown."""
    try:
        submission = services.submit(rater=request.user, project=project, **form.cleaned_data)
    except TokenUnknown as error:
        raise Http404(str(error)) from None
    except (ChoiceInvalid, RemarkInvalid) as error:
        return Told("error", _("%(error)s So nothing was saved.") % {"error": error}, status=REFUSED)
    except SubmissionConflict as error:
        return told_of(error)
    return LATE if submission.is_late and not submission.is_duplicate else None


def told_of(error: SubmissionConflict) -> Told:
    return Told(
        "warning",
        _("%(error)s Perhaps you gave it in another tab. Undo leads back to it.") % {"error": error},
        status=409,
    )


def refused_item(request: MemberRequest, project: Project, form: forms.Form) -> selectors.ShownItem | None:
    """What a refused form is about; None where it names nothing that was shown to this rater."""
    try:
        token = form.fields["token"].clean(form.data.get("token"))
        found = services.find_presentation(rater=request.user, project=project, token=token)
    except (forms.ValidationError, TokenUnknown):
        return None
    return selectors.shown(found, project)


def show_again(
    request: MemberRequest,
    project: Project,
    told: Told,
    item: selectors.ShownItem,
    form: ChoiceForm,
) -> HttpResponse:
    """The answer to a plain form that was refused: the same page with what was written, so that it can be mended."""
    say(request, told)
    context = item_context(request, project, item, form.begun(item.kind), form.extras)
    context |= {"is_fragment": False, "is_ahead": False, "is_resting": False, "report_words": form.report_words}
    context["page_url"] = reverse("feedback:rate", args=[project.slug])  # a report's own address only takes forms
    return render(request, "feedback/rate.html", context | frame_context(request, project), status=told.status)


def show_conflict(request: MemberRequest, project: Project, told: Told, token: uuid.UUID) -> HttpResponse:
    """The answer to a plain form about an item that was judged meanwhile: to the next one, unless it says more.

    What was written into it then stands in the form that changes the verdict: beside what is stored, and not yet saved.
    """
    form = ChoiceForm(request.POST)
    try:
        entry = selectors.own_item(request.user, project, token)
    except Presentation.DoesNotExist:  # the key of the form was used for another item; this one is still to be judged
        found = services.find_presentation(rater=request.user, project=project, token=token)
        return show_again(request, project, told, selectors.shown(found, project), form)
    is_in_place = entry.item.token == token  # else it was drawn anew, perhaps in another order
    pieces = form.begun(entry.item.kind) if is_in_place or entry.item.kind != Comparison.Kind.RANKING else None
    begun = kept.begun(entry.item, form.extras, pieces, project)
    unsent = form.unsent(begun, is_saved_below=entry.may_revise)
    if not (begun if entry.may_revise else unsent) and not form.report_words:
        return say_and_go_on(request, project, told)
    say(request, JUDGED_BEFORE)
    choice, extras = entry.choice, entry.extras
    if entry.may_revise:
        choice, extras = kept.added(begun, choice, extras)
    return show_judged(
        request,
        project,
        entry,
        choice,
        extras,
        then="rate",
        status=409,
        unsent=unsent,
        is_other_order=not is_in_place and bool(begun.get("reason")),
    )


def say_and_go_on(request: MemberRequest, project: Project, told: Told | None, to: str = "rate") -> HttpResponse:
    """The answer to a plain form: to the next item, so that a reload sends nothing twice."""
    if told:
        say(request, told)
    return redirect(f"feedback:{to}", project.slug)


def say(request: MemberRequest, told: Told) -> None:
    """Tell it at the top of the page that comes."""
    messages.add_message(request, messages.DEFAULT_LEVELS[told.level.upper()], str(told.text))


@never_cache
@member_required
@welcomed_first
@require_POST
def heartbeat(request: MemberRequest, project: Project) -> HttpResponse:
    """Keep the page's items for their rater a while longer; 410 names those whose time had run out."""
    form = LeaseForm(request.POST)
    if not form.is_valid():
        return HttpResponse("which item?\n", content_type="text/plain", status=410)
    tokens = [token for token in form.cleaned_data.values() if token]
    renewed = {token: services.renew(rater=request.user, project=project, token=token) for token in tokens}
    gone = [str(token) for token, is_held in renewed.items() if not is_held]
    if gone:
        return HttpResponse("\n".join(gone), content_type="text/plain", status=410)
    return HttpResponse(status=204)


@never_cache
@member_required
@require_POST
def release(request: MemberRequest, project: Project) -> HttpResponse:
    """Hand back what the page fetched ahead and did not show, as it is hidden or left.

    It only gives back, so a first visit that is due does not keep it.
    """
    form = LeaseForm(request.POST)
    if form.is_valid():
        services.release_unseen(rater=request.user, project=project, token=form.cleaned_data["token"])
    return HttpResponse(status=204)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@require_POST
def pause(request: MemberRequest, project: Project) -> HttpResponse:
    """Hand everything back and rest, whether a first visit is due or not; the page that says so asks for nothing."""
    services.release_all(rater=request.user, project=project)
    if request.htmx:
        return render(request, "feedback/_sitting.html", {"sitting": last_sitting(request.user, project)})
    return redirect(f"{reverse('feedback:rate', args=[project.slug])}?paused=1")


def show_item(request: MemberRequest, project: Project, told: Told | None, *, wants_item: bool = True) -> HttpResponse:
    """The page with the rater's live item or a reason why there is none; for htmx the fragment.

    A page that names what it has already gets the item after that, to keep out of sight until it is needed, or nothing.
    """
    page = PageForm(request.POST if request.method == "POST" else request.GET)
    is_fragment = bool(request.htmx)
    beside = [token for token in page.cleaned_data.values() if token] if is_fragment and page.is_valid() else []
    if beside and (showing := page.cleaned_data["showing"]):
        services.mark_shown(rater=request.user, token=showing)
    is_resting = not is_fragment and "paused" in request.GET
    may_claim = wants_item and not project.is_paused and not is_resting
    presentation = services.claim(rater=request.user, project=project, beside=beside) if may_claim else None
    context = item_context(request, project, selectors.shown(presentation, project) if presentation else None)
    context |= {
        "told": told,
        "is_fragment": is_fragment,
        "is_ahead": bool(beside) or not wants_item,
        "is_resting": is_resting,
    }
    if is_resting:
        context["sitting"] = last_sitting(request.user, project)
    if is_fragment:
        return render(request, "feedback/_item.html", context, status=told.status if told else 200)
    return render(request, "feedback/rate.html", context | frame_context(request, project))


def item_context(
    request: MemberRequest,
    project: Project,
    item: selectors.ShownItem | None,
    choice: str | None = None,
    extras: Extras = NOTHING_MORE,
    given: Sequence[str] = (),
) -> dict[str, Any]:
    """What the item, judged before as ``choice`` with ``extras``, or the reason why there is none, takes.

    ``given``: flags of the verdict as it is stored; they are shown though the project may have dropped them since.
    """
    context: dict[str, Any] = {
        "project": project,
        "item": item,
        "reasons": SKIP_REASONS,
        "submission_id": uuid.uuid4(),
        "done_today": selectors.rated_today(request.user, project),
    }
    if item:
        context |= {"reason_length": REASON_LENGTH, "extras": extras}
        context["flags"] = [*project.flags, *(flag for flag in given if flag not in project.flags)]
        mode = mode_of(item.kind)
        context |= {"mode": mode, "bar": mode.bar}
        context |= mode.page(project, item, choice, extras)
    else:
        look = request.GET.get("look", "")
        looks = int(look) if look.isdecimal() and len(look) < 4 else 0
        context |= {"empty": "paused" if project.is_paused else "waiting", "looks": looks, "looks_left": looks < LOOKS}
        context["may_undo"] = selectors.act_before(request.user, project) is not None  # perhaps a skip, or of yesterday
    if item is None or not request.htmx:
        context["is_admin"] = is_project_admin(request.user, project)
    return context


def frame_context(request: MemberRequest, project: Project) -> dict[str, Any]:
    """What stands around the item: the guideline drawer, and how this rater wants the page."""
    context = page_context(request.user) | {"script_words": page_words()}
    guideline = current_guideline(project)
    if guideline is None:
        return context
    membership = request.part.membership
    return context | {
        "guideline": guideline,
        "guideline_html": to_html(guideline.body),
        "guideline_is_new": membership is not None and membership.guideline_read < guideline.version,
        "guideline_was_read": membership is not None and membership.guideline_read > 0,
    }


@never_cache
@vary_on_headers("HX-Request")
@member_required
@welcomed_first
@require_GET
def undo(request: MemberRequest, project: Project) -> HttpResponse:
    """To the rater's last act, or to the one before that of the token ``before``; ten acts deep.

    Redo is the way back: to the act after that of the token ``after``, and from the last one to the item in hand.
    """
    form = UndoForm(request.GET)
    before, after = (form.cleaned_data["before"], form.cleaned_data["after"]) if form.is_valid() else (None, None)
    if after:
        act = selectors.act_after(request.user, project, after)
    else:
        act = selectors.act_before(request.user, project, before)
    if act:
        return redirect(f"{reverse('feedback:judged', args=[project.slug, act.token])}?then=rate")
    if request.htmx:
        return HttpResponse(status=204)
    if after:
        return redirect("feedback:rate", project.slug)
    return say_and_go_on(request, project, NOTHING_TO_UNDO)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@welcomed_first
@require_http_methods(["GET", "POST"])
def judged(request: MemberRequest, project: Project, token: uuid.UUID) -> HttpResponse:
    """An own verdict or skip, as it was shown; a POST changes it."""
    then = "rate" if request.GET.get("then") == "rate" else "history"
    form = ChoiceForm(request.POST) if request.method == "POST" else None
    told = revise_verdict(request, project, token, form) if form is not None and form.is_valid() else NOT_UNDERSTOOD
    if form is not None and request.htmx:
        return show_item(request, project, None if told == CHANGED else told, wants_item=then == "rate")
    if form is not None and told.status < 400:
        return say_and_go_on(request, project, told, to=then)
    try:
        entry = selectors.own_item(request.user, project, token)
    except Presentation.DoesNotExist:
        raise Http404("not an item that you have judged") from None
    choice, extras = entry.choice, entry.extras
    if choice is None:
        choice, extras = kept.kept(request.session, token) or (choice, extras)
    if form is None:
        return show_judged(request, project, entry, choice, extras, then=then)
    say(request, told)  # refused: what was written is shown again
    choice = form.begun(entry.item.kind) or choice
    unsent = form.unsent(kept.begun(entry.item, form.extras, choice, project), is_saved_below=entry.may_revise)
    return show_judged(request, project, entry, choice, form.extras, then=then, status=told.status, unsent=unsent)


def show_judged(
    request: MemberRequest,
    project: Project,
    entry: selectors.JudgedItem,
    choice: str | None,
    extras: Extras,
    *,
    then: str,
    status: int = 200,
    unsent: Sequence[str] = (),
    is_other_order: bool = False,
) -> HttpResponse:
    """An item that was judged or passed by, with ``choice`` and ``extras`` in the form that changes it.

    ``unsent``: what was written and has no place in that form. ``is_other_order``: a reason was written when the
    answers may have stood in another one.
    """
    context = item_context(request, project, entry.item, choice, extras, given=entry.extras.flags) | {
        "entry": entry,
        "words": words_of(entry),
        "acts": selectors.LAST_ACTS,
        "hours": selectors.REVISION_HOURS,
        "then": then,
        "unsent": unsent,
        "is_other_order": is_other_order,
        "is_fragment": bool(request.htmx),
    }
    if request.htmx:
        return render(request, "feedback/_judged.html", context)
    context["page_url"] = f"{reverse('feedback:judged', args=[project.slug, entry.item.token])}?then={then}"
    return render(request, "feedback/rate.html", context | frame_context(request, project), status=status)


def revise_verdict(request: MemberRequest, project: Project, token: uuid.UUID, form: ChoiceForm) -> Told:
    """Change a verdict; raises Http404 for an item that this rater never judged."""
    try:
        submission = services.revise(rater=request.user, project=project, token=token, **form.cleaned_data)
    except TokenUnknown as error:
        raise Http404(str(error)) from None
    except (ChoiceInvalid, RemarkInvalid) as error:
        return Told("error", _("%(error)s So nothing was saved.") % {"error": error}, status=REFUSED)
    except (SubmissionConflict, RevisionClosed) as error:
        return Told("warning", str(error), status=409)
    return LATE if submission.is_late and submission.rating.revision == 1 else CHANGED


@never_cache
@member_required
@welcomed_first
@require_GET
def history(request: MemberRequest, project: Project) -> HttpResponse:
    """The rater's own ratings as they were shown, each of which leads to where it can be changed."""
    page = Paginator(selectors.ratings_by(request.user, project), HISTORY_SIZE).get_page(request.GET.get("page"))
    entries = selectors.judged(list(page))
    context = {
        "project": project,
        "is_admin": is_project_admin(request.user, project),
        "here": "history",
        "page": page,
        "entries": [(entry, words_of(entry)) for entry in entries],
        "skipped": selectors.skipped_by(request.user, project) if page.number == 1 else [],
        "progress": selectors.progress(request.user, project),
        "acts": selectors.LAST_ACTS,
        "hours": selectors.REVISION_HOURS,
    }
    return render(request, "feedback/history.html", context)


def words_of(entry: selectors.JudgedItem) -> str:
    """A verdict in the words of its page; of what was passed by, none."""
    return "" if entry.choice is None else mode_of(entry.item.kind).told(entry.choice, entry.extras)


@admin_required
@require_GET
def queue(request: MemberRequest, project: Project) -> HttpResponse:
    """What waits and what was said, by whom: ratings of one source or of all."""
    source = request.GET.get("source", "")
    if source not in Rating.Source.values:
        source = ""
    ratings = selectors.ratings_of(project, source=source or None)
    page = Paginator(ratings, PAGE_SIZE).get_page(request.GET.get("page"))
    load_rankings(rating.comparison for rating in page)
    load_scores_of(rating.comparison for rating in page)
    context = {
        "project": project,
        "is_admin": True,
        "here": "queue",
        "counts": selectors.queue_counts(project),
        "raters": selectors.raters_of(project),
        "reports": list(reports.open_reports(project)[:PAGE_SIZE]),
        "sources": Rating.Source.choices,
        "source": source,
        "page": page,
        "rows": [
            (
                rating,
                verdict_in_words(rating, project.axes),
                None if rating.active_ms is None else rating.active_ms / 1000,
            )
            for rating in page
        ],
    }
    return render(request, "feedback/queue.html", context)


@never_cache
@admin_required
@require_GET
def export(request: MemberRequest, project: Project) -> StreamingHttpResponse:
    """Every rating as a line of JSON, to be kept."""
    answer = streamed(request, rating_pages(project), "application/jsonl; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{project.slug}-ratings.jsonl"'
    return answer
