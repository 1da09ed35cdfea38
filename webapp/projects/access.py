"""Who may open a page. A project that one has no part in looks like one that does not exist."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol
from urllib.parse import urlsplit

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django_htmx.middleware import HtmxDetails

from webapp.accounts.models import User
from webapp.projects import selectors
from webapp.projects.models import Membership, Project


class MemberRequest(HttpRequest):
    """A request of somebody who is logged in."""

    user: User
    htmx: HtmxDetails
    part: selectors.Part  # of a view that is open to members


class ProjectView(Protocol):
    __name__: str

    def __call__(self, request: Any, project: Project, /, *args: Any, **kwargs: Any) -> HttpResponseBase: ...


def ask_to_log_in(request: MemberRequest) -> HttpResponse:
    """The log-in page; a script gets 401 instead, so that it can keep what it was sending."""
    if request.htmx or request.headers.get("X-Requested-With") == "fetch":
        return HttpResponse("logged out", content_type="text/plain", status=401)
    here = request.get_full_path()
    if request.method != "GET":
        here = urlsplit(request.headers.get("Referer", "")).path or reverse("projects:home")
    return redirect_to_login(here)


def guard(view: ProjectView, role: str | None) -> Callable[..., HttpResponseBase]:
    @wraps(view)
    def guarded(request: MemberRequest, slug: str, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return ask_to_log_in(request)
        try:
            if role is None:
                request.part = selectors.part_in(request.user, slug)
                project = request.part.project
            else:
                project = selectors.project_for(request.user, slug, role=role)
        except Project.DoesNotExist:
            raise Http404("no such project, or no part in it") from None
        return view(request, project, *args, **kwargs)

    return guarded


def member_required(view: ProjectView) -> Callable[..., HttpResponseBase]:
    """Open to members of the project and studio admins; the view takes the project in place of its slug."""
    return guard(view, None)


def admin_required(view: ProjectView) -> Callable[..., HttpResponseBase]:
    """Open to admins of the project and studio admins; to anybody else the page does not exist."""
    return guard(view, Membership.Role.ADMIN)


def staff_required(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Open to studio admins, for what belongs to no project."""

    @wraps(view)
    def guarded(request: MemberRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return ask_to_log_in(request)
        if not request.user.is_staff:
            raise Http404("for studio admins")
        return view(request, *args, **kwargs)

    return guarded
