"""The web process: ``python -m uvicorn webapp.asgi:application``."""

import gc
import os
import warnings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
os.environ.setdefault(
    "STEERSMAN_ROLE", "web"
)  # short statement time-outs and a connection pool; see webapp/settings.py

# WhiteNoise answers with files, which Django reads whole: they are small, and a browser asks for each only once.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

import django  # noqa: E402
from asgiref.sync import sync_to_async  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.http import HttpRequest  # noqa: E402
from django.http.response import HttpResponseBase  # noqa: E402
from django.urls import get_resolver  # noqa: E402

from webapp.limits import BodyLimit  # noqa: E402
from webapp.timing import ServerTiming  # noqa: E402


class OneThreadHandler(ASGIHandler):
    """Django over ASGI with each request in one thread from its first middleware to its last.

    All our views and most middlewares are synchronous. Left to itself, Django changes between the event loop and a
    thread at every middleware, a dozen times a request, and each change waits for its turn.
    """

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response, thread_sensitive=True)(request)


django.setup(set_prefix=False)
application = ServerTiming(BodyLimit(OneThreadHandler()))

# All that stays for good is loaded now and then left out of garbage collection: to go through it takes 45 ms each time,
# which some rater would wait for.
_ = get_resolver().url_patterns
gc.collect()
gc.freeze()
