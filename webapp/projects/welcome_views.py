"""Pages by which admins write a rater's first visit."""

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from webapp.projects import services, welcome
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.forms import ConsentForm, PracticeForm, accepted
from webapp.projects.models import PracticePair, Project


@admin_required
@require_http_methods(["GET", "POST"])
def first_visit(request: MemberRequest, project: Project) -> HttpResponse:
    """What raters agree to, and the practice pairs one after the other."""
    form = ConsentForm(request.POST or None, instance=project)
    if form.is_valid() and accepted(
        form, lambda: services.update_project(actor=request.user, project=project, **form.cleaned_data)
    ):
        messages.success(request, _("Saved. Raters are asked on their next visit, those who agreed before are not."))
        return redirect("projects:first_visit", project.slug)
    context = {
        "project": project,
        "is_admin": True,
        "here": "settings",
        "form": form,
        "pairs": list(project.practice_pairs.all()),
        "most": welcome.MOST_PAIRS,
    }
    return render(request, "projects/first_visit.html", context, status=422 if form.is_bound else 200)


@admin_required
@require_http_methods(["GET", "POST"])
def practice_pair(request: MemberRequest, project: Project, number: int = 0) -> HttpResponse:
    """One practice pair: a new one, or one to be changed or taken away."""
    pair = project.practice_pairs.filter(pk=number).first() if number else PracticePair(project=project)
    if pair is None:
        raise Http404("no such practice pair")
    if number and "remove" in request.POST:
        welcome.remove_pair(actor=request.user, project=project, pair=pair)
        messages.success(request, _("The practice pair is taken away."))
        return redirect("projects:first_visit", project.slug)
    form = PracticeForm(request.POST or None, instance=pair)
    if form.is_valid() and accepted(
        form, lambda: welcome.save_pair(actor=request.user, project=project, pair=form.instance)
    ):
        messages.success(request, _("The practice pair is saved."))
        return redirect("projects:first_visit", project.slug)
    context = {"project": project, "is_admin": True, "here": "settings", "form": form, "is_new": not number}
    return render(request, "projects/practice_pair.html", context, status=422 if form.is_bound else 200)
