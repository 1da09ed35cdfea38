"""A NUL is part of no address, header or cookie of ours, and no text column takes one."""

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from webapp.pages import bad_request

NUL = "\0"


class NoNul:
    """Answers 400 to an address or a header with a NUL, before anything is looked up by it.

    A cookie with one (in quotes, as ``\\000``) is left out, so that whoever sends it is unknown, as with any other that
    we never gave. What a form sends is judged field by field.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        query = unquote_to_bytes(request.META.get("QUERY_STRING", ""))
        if NUL in request.path_info or b"\0" in query or any(NUL in value for value in request.headers.values()):
            return bad_request(request, BadRequest("a NUL in the address or in a header"))
        for name in [name for name, value in request.COOKIES.items() if NUL in name + value]:
            del request.COOKIES[name]
        return self.get_response(request)
