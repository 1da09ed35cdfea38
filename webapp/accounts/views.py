"""Coming in: log in and out, one-time links, passwords."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import PasswordChangeForm, SetPasswordForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from webapp.accounts import services
from webapp.accounts.forms import LanguageForm
from webapp.accounts.languages import choose_language
from webapp.accounts.models import User
from webapp.errors import LinkInvalid

LONGEST_ADDRESS = 2000  # characters
PASSWORD_BACKEND = "django.contrib.auth.backends.ModelBackend"


@never_cache
@require_http_methods(["GET", "POST"])
def use_link(request: HttpRequest, token: str) -> HttpResponse:
    """Ask for a press of a button, then log in: a preview that a chat program fetches must not use the link up."""
    if request.method == "GET":
        return render(request, "accounts/link.html")
    try:
        user = services.use_login_link(token=token)
    except LinkInvalid as error:
        return render(request, "accounts/link.html", {"error": error}, status=410)
    login(request, user, backend=PASSWORD_BACKEND)
    if not user.has_usable_password():
        said = _("You are logged in. This link is used up: set a password, so that you can come back.")
        messages.info(request, said)
        return redirect("accounts:password")
    return redirect("projects:home")


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def change_password(request: HttpRequest) -> HttpResponse:
    """Change the password; who came by a link and has none yet sets one."""
    user = request.user
    assert isinstance(user, User)
    form_class = PasswordChangeForm if user.has_usable_password() else SetPasswordForm
    form = form_class(user, request.POST or None)
    next(iter(form.fields.values())).widget.attrs["autofocus"] = True  # SetPasswordForm has none
    if form.is_valid():
        form.save()
        update_session_auth_hash(request, user)  # this log-in stays, the others of this person end
        services.record_audit(actor=user, action="password.changed", target=user.get_username())
        messages.success(request, _("The password is saved. Other places where you were logged in are logged out."))
        return redirect("projects:home")
    return render(request, "accounts/password.html", {"form": form}, status=422 if form.is_bound else 200)


@require_POST
def set_language(request: HttpRequest) -> HttpResponse:
    """Show the pages in another language from now on: kept with the account, and in this browser for who is logged out.

    422 for a language that the pages do not have; nothing is changed then.
    """
    form = LanguageForm(request.POST)
    if not form.is_valid():
        known = ", ".join(code for code, _name in settings.LANGUAGES)
        return HttpResponse(f"language: one of {known}\n", content_type="text/plain", status=422)
    language, target = form.cleaned_data["language"], form.cleaned_data["next"]
    if isinstance(request.user, User):
        choose_language(user=request.user, language=language)
    is_ours = url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure())
    if not is_ours or not target.startswith("/") or len(target) > LONGEST_ADDRESS:
        target = "/"
    answer = HttpResponseRedirect(target)
    answer.set_cookie(
        settings.LANGUAGE_COOKIE_NAME,
        language,
        max_age=settings.LANGUAGE_COOKIE_AGE,
        httponly=settings.LANGUAGE_COOKIE_HTTPONLY,
        samesite="Lax",
        secure=settings.LANGUAGE_COOKIE_SECURE,
    )
    return answer
