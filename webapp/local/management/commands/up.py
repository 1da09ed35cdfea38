"""``./manage.py up``: start everything on this machine and stay in the foreground; Ctrl-C stops it all."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from webapp.local.process import LocalServiceError
from webapp.local.supervisor import AlreadyRuns, Supervisor, stream_for


def port_number(text: str) -> int:
    """A port, for the command line."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65_535):
        raise ArgumentTypeError(f"{text[:20]} is no port: it is a number from 1 to 65535")
    return int(text)


class Command(BaseCommand):
    help = (
        "Starts database, broker, web and workers, watches them and shows one log. Ctrl-C stops all and keeps the data."
    )
    requires_system_checks = ()  # the checks of the project want a database; they run in the web process

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=port_number, help="port of the pages; without it 8000 or the next free one")
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument(
            "--check",
            action="store_true",
            help="wait for the first pair that can be rated, print one line of JSON with the seconds per step, stop",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        check = options["check"]
        supervisor = Supervisor(
            settings.STEERSMAN_DATA, port=options["port"], host=options["host"], stream=stream_for(check)
        )
        try:
            result = supervisor.run(check=check)
        except AlreadyRuns as error:
            if check:
                self.stdout.write(json.dumps({"ok": False, "error": str(error), "seconds": {}}))
                raise SystemExit(1) from None
            self.stdout.write(str(error))
            return
        except LocalServiceError as error:
            if check:
                self.stdout.write(json.dumps({"ok": False, "error": str(error), "seconds": supervisor.seconds}))
            raise CommandError(str(error)) from error
        if result is not None:
            self.stdout.write(json.dumps(result))
