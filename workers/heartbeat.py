"""A sign of life for whoever watches from outside: a file that is touched every few seconds while the process runs.

It says nothing about the broker or the database: that one of them is away makes no worker ill, and starting the worker
again would mend nothing.
"""

import threading
import time
from pathlib import Path
from typing import Any

from django.conf import settings

BEAT_SECONDS = 5.0


def begin(**_: Any) -> None:
    """Touch HEARTBEAT_FILE from now on, if one is named; a Celery signal calls this once the process is ready."""
    if settings.HEARTBEAT_FILE:
        path = Path(settings.HEARTBEAT_FILE)
        threading.Thread(target=keep_touching, args=[path], name="heartbeat", daemon=True).start()


def keep_touching(path: Path) -> None:
    while True:
        path.touch()
        time.sleep(BEAT_SECONDS)
