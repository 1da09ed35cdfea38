"""Reporting an item, and settling reports."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST
from django.views.decorators.vary import vary_on_headers

from webapp.feedback import reports
from webapp.feedback.forms import ReportForm, SettleForm
from webapp.feedback.views import Told, pass_by
from webapp.feedback.welcome_views import welcomed_first
from webapp.projects.access import MemberRequest, admin_required, member_required
from webapp.projects.models import Project

REPORTED = Told("info", gettext_lazy("Reported. You do not get it again; an admin looks at it."))


@never_cache
@vary_on_headers("HX-Request")
@member_required
@welcomed_first
@require_POST
def report(request: MemberRequest, project: Project) -> HttpResponse:
    """Pass an item by for good, and tell the admins why."""
    return pass_by(request, project, ReportForm(request.POST), reports.report, REPORTED)


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
