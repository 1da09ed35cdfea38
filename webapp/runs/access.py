"""Which run or policy a page is of: its number in the address becomes the row."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import Http404, HttpResponseBase

from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint
from webapp.runs.models import Run
from webapp.runs.policy_details import find_policy
from webapp.runs.run_details import find_run


def run_page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view takes the run in place of its number; an unknown number is 404."""

    @admin_required
    @wraps(view)
    def guarded(request: MemberRequest, project: Project, number: int) -> Any:
        try:
            run = find_run(project, number)
        except Run.DoesNotExist:
            raise Http404(f"{project} has no run {number}") from None
        return view(request, project, run)

    return guarded


def policy_page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view takes the policy in place of its version; an unknown version is 404."""

    @admin_required
    @wraps(view)
    def guarded(request: MemberRequest, project: Project, version: int) -> Any:
        try:
            policy = find_policy(project, version)
        except Checkpoint.DoesNotExist:
            raise Http404(f"{project} has no policy {version}") from None
        return view(request, project, policy)

    return guarded
