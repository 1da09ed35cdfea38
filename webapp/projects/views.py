"""Pages of projects: home, create, settings, prompts, people, guideline."""

import io
from contextlib import suppress

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from webapp.accounts.forms import JoinForm
from webapp.errors import ImportRefused, InvitationInvalid, StudioError
from webapp.projects import selectors, services
from webapp.projects.access import MemberRequest, admin_required, member_required, staff_required
from webapp.projects.forms import (
    CreateForm,
    GuidelineForm,
    GuidelineReadForm,
    ImportForm,
    InvitationForm,
    ModesForm,
    SettingsForm,
    WithdrawForm,
    accepted,
)
from webapp.projects.models import Project
from webapp.projects.prose import to_html

PASSWORD_BACKEND = "django.contrib.auth.backends.ModelBackend"
PROMPTS_A_PAGE = 20
SHOWN_ERRORS = 200  # of a refused import: enough to mend by, and a page that still loads
KEPT_CHARACTERS = 200_000  # of a refused file, put into the text box to be mended there


@never_cache
@login_required
@require_GET
def home(request: MemberRequest) -> HttpResponse:
    """A rater of one project goes straight to rating; others choose."""
    projects = selectors.overview_for(request.user)
    if len(projects) == 1 and not projects[0].may_manage:
        return redirect("feedback:rate", projects[0].project.slug)
    return render(request, "projects/home.html", {"projects": projects})


@staff_required
@require_http_methods(["GET", "POST"])
def create(request: MemberRequest) -> HttpResponse:
    """A new project; the next step is its prompts."""
    form = CreateForm(request.POST or None)
    if form.is_valid() and accepted(form, lambda: services.create_project(actor=request.user, **form.cleaned_data)):
        messages.success(
            request, _("The project %(name)s is there. Next it needs prompts.") % {"name": form.cleaned_data["name"]}
        )
        return redirect("projects:import", form.cleaned_data["slug"])
    return render(request, "projects/create.html", {"form": form}, status=422 if form.is_bound else 200)


@admin_required
@require_http_methods(["GET", "POST"])
def change_settings(request: MemberRequest, project: Project) -> HttpResponse:
    """What raters are asked, how many ratings of what, and the pause."""
    overlap = project.overlap  # the form writes what was typed into the instance
    form = SettingsForm(request.POST or None, instance=project)
    if form.is_valid() and accepted(
        form, lambda: services.update_project(actor=request.user, project=project, **form.cleaned_data)
    ):
        told = _("The settings are saved.")
        if project.overlap != overlap:
            told = _(
                "The settings are saved. Each item made from now on gets ratings by %(overlap)s; what was "
                "made before keeps %(before)s."
            ) % {"overlap": project.overlap, "before": overlap}
        messages.success(request, told)
        return redirect("projects:settings", project.slug)
    if form.is_bound:
        project.refresh_from_db()  # the form has written what was typed into the instance; the strip shows what is true
    context = {"project": project, "is_admin": True, "here": "settings", "form": form, "mix": project.mix}
    return render(request, "projects/settings.html", context, status=422 if form.is_bound else 200)


@admin_required
@require_http_methods(["GET", "POST"])
def rating_modes(request: MemberRequest, project: Project) -> HttpResponse:
    """Which rating modes are used, and how much of each."""
    rules = list(project.rules.filter(is_active=True).values_list("text", flat=True))
    form = ModesForm(request.POST or None, instance=project, initial={"rules": rules})
    if form.is_valid() and accepted(
        form, lambda: services.update_modes(actor=request.user, project=project, **form.cleaned_data)
    ):
        messages.success(request, _("The rating modes are saved. They hold for items made from now on."))
        return redirect("projects:modes", project.slug)
    if form.is_bound:
        project.refresh_from_db()  # as above
    context = {"project": project, "is_admin": True, "here": "settings", "form": form}
    return render(request, "projects/modes.html", context, status=422 if form.is_bound else 200)


@admin_required
@require_http_methods(["GET", "POST"])
def import_prompts(request: MemberRequest, project: Project) -> HttpResponse:
    """Prompts from a file or pasted; refused whole when a line is not right, its number named and the input kept."""
    form = ImportForm(request.POST or None, request.FILES or None)
    context = {"project": project, "is_admin": True, "here": "prompts", "form": form}
    if form.is_valid():
        options = form.cleaned_data
        data = options["file"].read() if options["file"] else options["text"].encode()
        try:
            report = services.import_prompts(
                actor=request.user,
                project=project,
                stream=io.BytesIO(data),
                format=options["format"],
                held_out_percent=options["held_out_percent"],
                source=options["source"],
            )
        except ImportRefused as error:
            context |= {"refused": error, "lines": error.errors[:SHOWN_ERRORS], "more": error.errors[SHOWN_ERRORS:]}
            if options["file"] and len(data) <= KEPT_CHARACTERS:
                with suppress(UnicodeDecodeError):  # what is no UTF-8 can be mended in the file alone
                    text = data.decode()
                    put = {"text": text, "put_there": ImportForm.digest(text), "format": options["format"]}
                    context["form"] = ImportForm(initial={**request.POST.dict(), **put})
        else:
            messages.success(request, in_words(report))
            return redirect("projects:import", project.slug)
    words = request.GET.get("words", "").strip()
    page = Paginator(selectors.prompts_of(project, words), PROMPTS_A_PAGE).get_page(request.GET.get("page"))
    context |= {"counts": selectors.prompt_counts(project), "page": page, "words": words}
    return render(request, "projects/import.html", context, status=422 if form.is_bound else 200)


def in_words(report: services.ImportReport) -> str:
    """What became of an import, a sentence for each number."""
    told = [(report.created, ngettext("%(count)s new prompt.", "%(count)s new prompts.", report.created))]
    if known := report.duplicates:
        told.append((known, ngettext("%(count)s was there already.", "%(count)s were there already.", known)))
    if moved := report.reprioritised:
        text = ngettext(
            "%(count)s has another priority from now on.", "%(count)s have another priority from now on.", moved
        )
        told.append((moved, text))
    if plain := report.without_turns:
        text = ngettext(
            "%(count)s conversation was known as plain text and stays without turns.",
            "%(count)s conversations were known as plain text and stay without turns.",
            plain,
        )
        told.append((plain, text))
    return " ".join(text % {"count": count} for count, text in told)


@never_cache
@admin_required
@require_http_methods(["GET", "POST"])
def raters(request: MemberRequest, project: Project) -> HttpResponse:
    """Who takes part; a POST makes an invitation, whose link is shown once: only its hash is kept."""
    form = InvitationForm(request.POST or None)
    if form.is_valid():
        token = services.create_invitation(
            actor=request.user,
            project=project,
            role=form.cleaned_data["role"],
            valid_for=form.valid_for,
            uses=form.cleaned_data["uses"],
        )
        request.session["invitation"] = [str(project.pk), token]
        return redirect("projects:raters", project.slug)
    made_for, made = request.session.pop("invitation", ("", ""))
    link = request.build_absolute_uri(reverse("projects:join", args=[made])) if made_for == str(project.pk) else ""
    members = list(selectors.members_of(project))
    simulated = sum(member.user.is_simulated for member in members)
    context = {
        "project": project,
        "is_admin": True,
        "here": "raters",
        "form": form,
        "link": link,
        "members": members,
        "people": len(members) - simulated,
        "simulated": simulated,
        "invitations": selectors.open_invitations(project),
    }
    return render(request, "projects/raters.html", context, status=422 if form.is_bound else 200)


@admin_required
@require_POST
def withdraw_invitation(request: MemberRequest, project: Project) -> HttpResponse:
    """Nobody can join by this invitation any more."""
    form = WithdrawForm(request.POST)
    if form.is_valid() and services.withdraw_invitation(
        actor=request.user, project=project, invitation=form.cleaned_data["invitation"]
    ):
        messages.success(request, _("The invitation is withdrawn: its link lets nobody in any more."))
    else:
        messages.info(request, _("That invitation was over before."))
    return redirect("projects:raters", project.slug)


@never_cache
@require_http_methods(["GET", "POST"])
def join(request: MemberRequest, token: str) -> HttpResponse:
    """Use an invitation: with a new name and password, or as who one is logged in."""
    try:
        invitation = selectors.invitation_for(token)
        if request.method == "POST" and request.user.is_authenticated:
            services.join_with_invitation(token=token, user=request.user)
            return redirect("projects:home")
    except InvitationInvalid as error:
        return render(request, "projects/join.html", {"error": error}, status=410)
    form = JoinForm(request.POST or None)
    if form.is_valid():
        try:
            user = services.accept_invitation(token=token, **form.cleaned_data)
        except StudioError as error:
            form.add_error(None, str(error))
        else:
            login(request, user, backend=PASSWORD_BACKEND)
            messages.success(request, _("Welcome, %(name)s.") % {"name": user.get_username()})
            return redirect("projects:home")
    context = {"invitation": invitation, "form": form}
    return render(request, "projects/join.html", context, status=422 if form.is_bound else 200)


@member_required
@require_http_methods(["GET", "POST"])
def guideline(request: MemberRequest, project: Project) -> HttpResponse:
    """What raters are told. Members read it; an admin's POST makes the next version."""
    may_edit = selectors.is_project_admin(request.user, project)
    current = selectors.current_guideline(project)
    form = GuidelineForm(request.POST if request.method == "POST" and may_edit else None)
    if form.is_valid() and accepted(
        form,
        lambda: services.save_guideline(actor=request.user, project=project, body=form.cleaned_data["body"]),
    ):
        messages.success(request, _("The guideline is saved. It holds from now on."))
        return redirect("projects:guideline", project.slug)
    member = request.part.membership
    if not form.is_bound:
        form = GuidelineForm(initial={"body": current.body if current else ""})
    context = {
        "project": project,
        "is_admin": may_edit,
        "here": "guideline",
        "guideline": current,
        "html": to_html(current.body) if current else "",
        "is_unread": bool(member and current and member.guideline_read < current.version),
        "form": form if may_edit else None,
        "versions": list(project.guidelines.all()[:20]) if may_edit else [],
    }
    return render(request, "projects/guideline.html", context, status=422 if form.is_bound else 200)


@member_required
@require_POST
def guideline_read(request: MemberRequest, project: Project) -> HttpResponse:
    """A member has opened this version of the guideline; a plain form leads on to rating."""
    form = GuidelineReadForm(request.POST)
    if not form.is_valid():
        return HttpResponse("which version?\n", content_type="text/plain", status=422)
    current = selectors.current_guideline(project)
    if current:
        version = min(form.cleaned_data["version"], current.version)
        services.confirm_guideline(user=request.user, project=project, version=version)
    if not request.htmx and "go_on" in request.POST:
        return redirect("feedback:rate", project.slug)
    return HttpResponse(status=204)
