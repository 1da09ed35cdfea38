"""Pages that ask again and again: what tells a version that the browser has, and what ends the asking."""

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.utils.cache import patch_vary_headers
from django.utils.http import quote_etag
from django.utils.translation import get_language

STOP_POLLING = 286  # htmx swaps the answer in and asks no more


def etag_of(version: str) -> str:
    """What tells this version from others, in the language that it is shown in."""
    return quote_etag(f"{version}-{get_language()}")


def not_modified(request: HttpRequest, version: str) -> HttpResponse | None:
    """304 where the browser has this version already."""
    if etag_of(version) in request.headers.get("If-None-Match", ""):
        return tag(HttpResponseNotModified(), version)
    return None


def tag(response: HttpResponse, version: str) -> HttpResponse:
    """Let the browser keep the answer, and ask each time whether it still holds."""
    response["ETag"] = etag_of(version)
    response["Cache-Control"] = "private, no-cache"
    patch_vary_headers(response, ["HX-Request", "Cookie"])
    return response
