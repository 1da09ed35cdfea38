"""Passing an item by, as a skip or with a report to the admins; and settling those reports."""

from collections.abc import Callable
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from django.views.decorators.vary import vary_on_headers

from webapp.errors import SubmissionConflict, TokenUnknown
from webapp.feedback import kept, reports, selectors, services
from webapp.feedback.forms import ChoiceForm, ReportForm, SettleForm, SkipForm
from webapp.feedback.views import (
    NOT_UNDERSTOOD,
    REFUSED,
    Told,
    refused_item,
    say_and_go_on,
    show_again,
    show_conflict,
    show_item,
    told_of,
)
from webapp.feedback.welcome_views import welcomed_first
from webapp.projects.access import MemberRequest, admin_required, member_required
from webapp.projects.models import Project

SKIPPED_AND_KEPT = Told("info", gettext_lazy("Skipped. What you wrote is kept: undo brings it back."))
REPORTED = Told("info", gettext_lazy("Reported. You do not get it again; an admin looks at it."))
REPORTED_AND_KEPT = Told(
    "info",
    gettext_lazy(
        "Reported. You do not get it again; an admin looks at it. What else you wrote is kept: undo brings it back."
    ),
)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@welcomed_first
@require_POST
def skip(request: MemberRequest, project: Project) -> HttpResponse:
    """Pass an item by for good."""
    reason = request.POST.get("because", request.POST.get("reason", ""))  # a verdict has a reason of its own
    form = SkipForm({"token": request.POST.get("token"), "reason": reason})
    return pass_by(request, project, form, services.skip, None, SKIPPED_AND_KEPT)


@never_cache
@vary_on_headers("HX-Request")
@member_required
@welcomed_first
@require_POST
def report(request: MemberRequest, project: Project) -> HttpResponse:
    """Pass an item by for good, and tell the admins why."""
    return pass_by(request, project, ReportForm(request.POST), reports.report, REPORTED, REPORTED_AND_KEPT)


def pass_by(
    request: MemberRequest,
    project: Project,
    form: forms.Form,
    act: Callable[..., object],
    done: Told | None,
    done_and_kept: Told,
) -> HttpResponse:
    """Let ``act`` take an item away with what ``form`` says, tell ``done``, and show the next item.

    A plain form brings along the verdict that was begun, which is kept for its rater: then it tells ``done_and_kept``.

    Raises Http404 for an item that this rater was never shown.
    """
    told = done
    if form.is_valid():
        token = form.cleaned_data["token"]
        try:
            act(rater=request.user, project=project, **form.cleaned_data)
        except TokenUnknown as error:
            raise Http404(str(error)) from None
        except SubmissionConflict as error:
            told = told_of(error)
            if not request.htmx:
                return show_conflict(request, project, told, token)
        else:
            if "submission_id" in request.POST and keep_begun(request, project, token):
                told = done_and_kept
    else:
        told = refusal_of(form)
        if not request.htmx and (item := refused_item(request, project, form)):
            return show_again(request, project, told, item, ChoiceForm(request.POST))
    if not request.htmx:
        return say_and_go_on(request, project, told)
    return show_item(request, project, told)


def keep_begun(request: MemberRequest, project: Project, token: UUID) -> bool:
    """Keep in the session what was begun in the verdict's form; False where that is nothing."""
    form = ChoiceForm(request.POST)
    found = services.find_presentation(rater=request.user, project=project, token=token)
    item = selectors.shown(found, project)
    return kept.keep(request.session, token, kept.begun(item, form.extras, form.begun(item.kind), project))


def refusal_of(form: forms.Form) -> Told:
    """What is wrong with what was sent to pass an item by."""
    if "words" not in form.errors:
        return NOT_UNDERSTOOD
    text = _("What you wrote of it was not sent: %(why)s Change it, then report once more.")
    return Told("error", text % {"why": " ".join(map(str, form.errors["words"]))}, status=REFUSED)


@admin_required
@require_POST
def settle(request: MemberRequest, project: Project) -> HttpResponse:
    """An admin's word on an item that was reported: withdrawn, or to be shown as before."""
    form = SettleForm(request.POST)
    is_withdrawn = form.is_valid() and form.cleaned_data["withdraw"]
    if form.is_valid() and reports.settle(
        actor=request.user, project=project, report=form.cleaned_data["report"], is_withdrawn=is_withdrawn
    ):
        said = (
            _("Withdrawn: nobody is offered it any more.") if is_withdrawn else _("Settled: it is offered as before.")
        )
        messages.success(request, said)
    else:
        messages.info(request, _("That report was settled before."))
    return redirect("feedback:queue", project.slug)
