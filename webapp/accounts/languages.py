"""In which language a person reads the pages: the account's choice, else the browser's cookie, else what it asks for.

A project's own words, what people wrote, exports and logs are not translated.
"""

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.locale import LocaleMiddleware
from django.utils import translation
from django.utils.cache import patch_vary_headers

from webapp.accounts.models import User

LANGUAGES = dict(settings.LANGUAGES)


class LanguageMiddleware(LocaleMiddleware):
    """Django's own, by cookie and ``Accept-Language``, and above both the account's choice.

    The user is read where there is a session alone: a page that needs no database goes on needing none.
    """

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)  # first, so that an error in what follows is told in a language as well
        if settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return
        chosen = getattr(request.user, "language", "")
        if chosen in LANGUAGES:
            translation.activate(chosen)
            request.LANGUAGE_CODE = chosen

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        answer = super().process_response(request, response)
        patch_vary_headers(answer, ["Cookie"])  # the choice lies in one, or in the account that one names
        return answer


def choose_language(*, user: User, language: str) -> None:
    """Keep the language in which ``user`` reads the pages, on every device.

    Raises:
        ValueError: no language of the pages.
    """
    if language not in LANGUAGES:
        raise ValueError(f"there are no pages in {language!r}: choose one of {', '.join(LANGUAGES)}")
    user.language = language
    user.save(update_fields=["language"])
