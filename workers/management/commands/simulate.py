"""``manage.py simulate``: the closed loop with simulated raters, measured."""

import json
import math
import signal
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from webapp.errors import StudioError
from webapp.local.process import LocalServiceError
from webapp.local.supervisor import point_django_at
from webapp.local.temporary import temporary_studio
from workers.simulation.browser import BrowserError
from workers.simulation.loop import Plan, Simulation, SimulationError
from workers.simulation.report import table
from workers.simulation.tastes import SHIPPED, TasteError, load_taste

FAILURES = (SimulationError, BrowserError, TasteError, StudioError, LocalServiceError, DatabaseError)
"""What ends a seed; the next one has a studio of its own."""


class Command(BaseCommand):
    help = (
        "Close the loop twice with simulated raters who log in and rate over HTTP: ratings, reward model, PPO, "
        "evaluation, promotion. Prints one line of JSON a seed; progress and a table go to stderr."
    )
    requires_system_checks = ()  # some want a database, which a studio of its own does not have yet

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", default="film-reviews", help="slug of the project (default: %(default)s)")
        parser.add_argument("--raters", type=int, default=4, help="simulated raters at once (default: %(default)s)")
        parser.add_argument("--labels", type=int, default=400, help="ratings a round (default: %(default)s)")
        parser.add_argument(
            "--ability", type=float, default=2.0, help="how sure of their taste they are, a sd (default: %(default)s)"
        )
        parser.add_argument(
            "--taste",
            default=SHIPPED,
            metavar="MODULE:FUNCTION",
            help="a function of (prompt, response) that returns a number (default: positive sentiment by a lexicon)",
        )
        parser.add_argument("--seed", type=int, default=0, help="of raters and runs (default: %(default)s)")
        parser.add_argument("--seeds", type=int, default=1, help="so many, from --seed upward (default: %(default)s)")
        parser.add_argument(
            "--url",
            help="a studio that runs, whose database and broker this command's settings name; "
            "without it each seed gets a studio of its own, in a temporary folder",
        )
        parser.add_argument("--json", action="store_true", help="print nothing but the lines of JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        check(options)
        try:
            taste = load_taste(options["taste"])
        except TasteError as error:
            raise CommandError(str(error)) from error
        plan = Plan(options["project"], options["raters"], options["labels"], options["ability"], taste)
        results, failures = [], []
        with signals_are_ctrl_c():
            for seed in range(options["seed"], options["seed"] + options["seeds"]):
                try:
                    results.append(self.simulate(plan, seed, options["url"], quiet=options["json"]))
                except FAILURES as error:
                    failures.append(f"seed {seed}: {error}")
                    if options["seeds"] > 1 and not options["json"]:
                        self.stderr.write(f"{failures[-1]}; on with the next one")
                    continue
                except KeyboardInterrupt:
                    raise CommandError("stopped; a temporary studio was removed", returncode=130) from None
                self.stdout.write(json.dumps(results[-1]))
                self.stdout.flush()
        if results and not options["json"]:
            self.stderr.write(table(results))
        if failures:
            raise CommandError("\n".join(failures))  # exit code 1, once every seed has had its turn

    def simulate(self, plan: Plan, seed: int, url: str | None, *, quiet: bool) -> dict[str, Any]:
        """One seed, in the studio at ``url`` or in one of its own."""
        begun = time.monotonic()

        def tell(line: str) -> None:
            if not quiet:
                self.stderr.write(f"seed {seed}, {time.monotonic() - begun:5.0f} s: {line}")

        if url:
            return Simulation(url, plan, seed, tell).run()
        tell("starting a studio of its own")
        with temporary_studio() as studio:
            point_django_at(studio.database_url)
            settings.BROKER_URL = studio.broker_url
            tell(f"it is at {studio.url}")
            return Simulation(studio.url, plan, seed, tell).run()


def check(options: dict[str, Any]) -> None:
    """Raise CommandError for a value that makes no sense."""
    for name in ("raters", "labels", "seeds"):
        if options[name] < 1:
            raise CommandError(f"--{name} is {options[name]}: it must be at least 1")
    if not (math.isfinite(options["ability"]) and options["ability"] >= 0):
        raise CommandError(f"--ability is {options['ability']}: it must be 0 or more")
    if options["seed"] < 0:
        raise CommandError(f"--seed is {options['seed']}: it must be 0 or more")
    if options["url"] and options["seeds"] > 1:
        raise CommandError("each seed begins with the base policy and no ratings, so --seeds cannot share one --url")


@contextmanager
def signals_are_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like Ctrl-C, so that a temporary studio is removed."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in kept.items():
        if handler != signal.SIG_IGN:  # under nohup a terminal that is closed ends nothing
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
