"""Pages that belong to no app: is the server well, and what to say when it is not."""

import sys

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, InternalError, OperationalError, connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache

DATABASE_IS_AWAY = (OperationalError, InterfaceError)
ENDED_BY_DATABASE = "25P03"  # a transaction that heard nothing for too long, which psycopg calls an internal error


@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """200 when this process and its database answer; 503 when the database does not."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DATABASE_IS_AWAY:
        return HttpResponse("database does not answer\n", content_type="text/plain", status=503)
    return HttpResponse("ok\n", content_type="text/plain")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What no page of ours sends; but a text can be too long without anybody's fault, and then there is a cure."""
    is_long = isinstance(exception, RequestDataTooBig)
    return HttpResponse(render_to_string("400.html", {"is_long": is_long}), status=413 if is_long else 400)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form without the key of its session. Where it was sent may take forms only, so nothing leads back there."""
    return render(request, "403_csrf.html", {"page_url": "/"}, status=403)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What is not there, or not for this reader. To a form's address, as above, nothing leads back."""
    context = {} if request.method in ("GET", "HEAD") else {"page_url": "/"}
    return render(request, "404.html", context, status=404)


def is_away(error: BaseException | None) -> bool:
    """Whether the database did not answer, or had to end what it was doing for us: worth another try."""
    is_ended = isinstance(error, InternalError) and getattr(error.__cause__, "sqlstate", "") == ENDED_BY_DATABASE
    return is_ended or isinstance(error, DATABASE_IS_AWAY)


def server_error(request: HttpRequest) -> HttpResponse:
    """The last page: rendered without the request, since to read its user asks the database."""
    if is_away(sys.exc_info()[1]):
        return HttpResponse(render_to_string("503.html"), status=503, headers={"Retry-After": "5"})
    return HttpResponse(render_to_string("500.html"), status=500)
