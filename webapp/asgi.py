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

from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import get_resolver  # noqa: E402

from webapp.limits import BodyLimit  # noqa: E402
from webapp.timing import ServerTiming  # noqa: E402

application = ServerTiming(BodyLimit(get_asgi_application()))

# All that stays for good is loaded now and then left out of garbage collection: to go through it takes 45 ms each time,
# which some rater would wait for.
_ = get_resolver().url_patterns
gc.collect()
gc.freeze()
