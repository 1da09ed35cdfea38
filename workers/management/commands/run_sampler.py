"""``manage.py run_sampler``: the process that draws samples; it needs no database and no broker."""

import logging
import os
import signal
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

log = logging.getLogger("sampler")
NICENESS = 10  # on a CPU, training and pages go first


class Command(BaseCommand):
    help = "Hold the serving policies and draw samples for the queue. One such process per device."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--device", default="", help="cpu, cuda, cuda:1 ...; default: SAMPLER_DEVICE")
        parser.add_argument("--capacity", type=int, default=128, help="responses that may wait; more are refused")
        parser.add_argument("--batch-rows", type=int, default=32, help="responses drawn at once")

    def handle(self, *args: Any, **options: Any) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", str(settings.SAMPLER_THREADS))  # read when torch loads
        import torch

        from workers.sampler.address import sampler_address
        from workers.sampler.engine import Sampler
        from workers.sampler.server import Door, SamplerBusy

        torch.set_num_threads(settings.SAMPLER_THREADS)
        wanted = options["device"] or settings.SAMPLER_DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
        if wanted == "cpu":
            os.nice(NICENESS)
        sampler = Sampler(
            settings.CHECKPOINT_STORE, wanted, capacity=options["capacity"], batch_rows=options["batch_rows"]
        )
        address = sampler_address(settings.SAMPLER_ADDRESS, settings.STEERSMAN_DATA)
        try:
            door = Door(address, sampler)
        except (SamplerBusy, OSError) as error:
            raise CommandError(f"the sampler can not listen at {address}: {error}") from error
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sampler.stop())
        threading.Thread(target=door.serve_forever, daemon=True).start()
        log.info("ready: draws samples on %s, answers at %s", wanted, address)
        try:
            sampler.run()
        finally:
            door.shutdown()
            door.server_close()
        log.info("stopped")
