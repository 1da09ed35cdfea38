"""A rater's own keys and other settings of the page."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from webapp.accounts.services import save_page_settings
from webapp.feedback.forms import PageSettingsForm, ToggleForm
from webapp.feedback.keys import KEYS, TOGGLES, own_keys, page_context
from webapp.projects.access import MemberRequest, member_required
from webapp.projects.models import Project
from webapp.projects.selectors import is_project_admin


@never_cache
@member_required
@require_http_methods(["GET", "POST"])
def page_settings(request: MemberRequest, project: Project) -> HttpResponse:
    """Choose other keys, and when to be reminded of a break; for all projects of this person."""
    if "reset" in request.POST:
        save_page_settings(user=request.user, keys={})
        messages.success(request, _("All keys are the usual ones again."))
        return redirect("feedback:keys", project.slug)
    stored = {key: own_keys(request.user).get(key, key) for key in KEYS}
    form = PageSettingsForm(
        request.POST or None,
        keys=KEYS,
        initial={**stored, "rest_minutes": page_context(request.user)["rest_minutes"]},
    )
    if form.is_valid():
        changed = {key: own for key, own in form.chosen().items() if own != key}
        save_page_settings(user=request.user, keys=changed, rest_minutes=form.cleaned_data["rest_minutes"])
        messages.success(request, _("Saved. It holds in all your projects."))
        return redirect("feedback:keys", project.slug)
    context = {
        "project": project,
        "is_admin": is_project_admin(request.user, project),
        "form": form,
        "fields": [(form[key], key, words) for key, words in KEYS.items()],
        "is_changed": bool(own_keys(request.user)),
    }
    return render(request, "feedback/keys.html", context, status=422 if form.is_bound else 200)


@member_required
@require_POST
def toggle(request: MemberRequest, project: Project) -> HttpResponse:
    """Keep how the texts are looked at."""
    form = ToggleForm(request.POST)
    if not form.is_valid() or form.cleaned_data["name"] not in TOGGLES:
        return HttpResponse("which one?\n", content_type="text/plain", status=422)
    name, is_on = form.cleaned_data["name"], form.cleaned_data["is_on"]
    others = [other for other in page_context(request.user)["toggles"] if other != name]
    save_page_settings(user=request.user, toggles=[*others, *([name] if is_on else [])])
    return HttpResponse(status=204)
