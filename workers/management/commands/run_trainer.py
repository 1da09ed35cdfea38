"""``manage.py run_trainer``: training without Celery, for a machine that only trains."""

import logging
import signal
import threading
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection

from webapp.runs.models import Run
from workers.reaper import reap
from workers.supervisor import supervise

log = logging.getLogger("trainer")
LOOK_SECONDS = 2.0


class Command(BaseCommand):
    help = "Train the runs that wait, one after the other. SIGTERM saves the state and puts the run back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="train one run, or none if none waits, and leave")

    def handle(self, *args: Any, **options: Any) -> None:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        looked = 0.0
        while not stopping.is_set():
            try:
                if not looked or time.monotonic() - looked >= settings.RUN_REAP_SECONDS:
                    looked = time.monotonic()
                    reap(ring=False)
                waiting = Run.objects.filter(state=Run.State.QUEUED).order_by("created_at")
                found = waiting.values_list("pk", flat=True)
                trained = any(
                    supervise(run_id, should_stop=stopping.is_set) for run_id in found
                )  # the first that is free
            except (OperationalError, InterfaceError) as error:
                log.warning("the database does not answer: %s", error)
                connection.close()
                trained = False
            if options["once"]:
                return
            if not trained:
                stopping.wait(LOOK_SECONDS)
