"""Raters at work, over HTTP, against a real studio: ``python -m benchmarks.feedback {exact,think}``; JSON out.

``exact``: 32 clients without pause want 600 ratings (200 pairs, three each) and send 30 % of their verdicts twice;
goal: 0 overshoot, 0 duplicates, 0 lost. ``think``: 20 raters think 2 to 5 seconds; goal: submit-and-next takes the
server p95 <= 50 ms, as its Server-Timing header says; ``at_client`` is what these clients saw, which share the cores.
Clients bring a session, since logging in is slow on purpose. A project of its own; the demo's stays as it is.
"""

import argparse
import http.client
import json
import random
import re
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.studio import studio

FIELD = re.compile(r'name="(token|submission_id)" value="([0-9a-f-]{36})"')
CSRF = "a" * 32


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)  # from sending to the end of the answer
    server_seconds: list[float] = field(default_factory=list)  # of it, what the server says it took
    acknowledged: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


class Client:
    """A rater's browser, as far as HTTP goes: one kept connection, a session and a CSRF cookie."""

    def __init__(self, url: str, slug: str, session: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self.path = f"/p/{slug}/rate/"
        self.server_seconds = 0.0  # what the last answer took
        self.headers = {"Cookie": f"sessionid={session}; csrftoken={CSRF}", "HX-Request": "true", "Referer": url}

    def get(self) -> str:
        self.connection.request("GET", self.path, headers=self.headers)
        return self.read()

    def post(self, **fields: str) -> str:
        body = urlencode({"csrfmiddlewaretoken": CSRF, **fields})
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        self.connection.request("POST", self.path, body, headers={**self.headers, **form})
        return self.read()

    def read(self) -> str:
        response = self.connection.getresponse()
        text = response.read().decode()
        self.server_seconds = float((response.headers["Server-Timing"] or "").rpartition("dur=")[2]) / 1000
        if response.status not in (200, 409):
            raise RuntimeError(f"{response.status}: {text[:200]}")
        return text


def rate(client: Client, tally: Tally, dice: random.Random, *, pause: Callable[[], float], until: float) -> None:
    """Rate until nothing is left or the time is over; some verdicts are sent twice, as by a double click."""
    try:
        page = client.get()
        while time.monotonic() < until and (item := dict(FIELD.findall(page))).get("submission_id"):
            time.sleep(pause())
            choice = str(dice.randrange(8))
            begun = time.monotonic()
            page = client.post(**item, choice=choice, active_ms="1000")
            tally.seconds.append(time.monotonic() - begun)
            tally.server_seconds.append(client.server_seconds)
            tally.acknowledged.add(item["submission_id"])
            if dice.random() < 0.3:
                page = client.post(**item, choice=choice, active_ms="1000")
    except Exception as error:  # a thread's border: what went wrong is part of the report
        tally.errors.append(repr(error))


def make_project(slug: str, *, pairs: int, overlap: int) -> Any:
    """A project with ``pairs`` pairs of plain texts ready to rate."""
    from rlhf_core.config import SamplingConfig
    from webapp.accounts.services import ensure_admin
    from webapp.feedback.services import NewSample, make_items, record_samples
    from webapp.projects.models import Prompt
    from webapp.projects.services import create_project, import_prompts, update_project
    from webapp.registry.services import record_checkpoint, sampling_settings

    admin = ensure_admin()
    project = create_project(
        actor=admin, name=slug, slug=slug, question="Which is better?", single_question="How good is it?"
    )
    update_project(actor=admin, project=project, overlap=overlap, buffer_target=0)
    lines = "\n".join(f"Prompt number {number}, of a benchmark" for number in range(pairs))
    import_prompts(actor=admin, project=project, text=lines, format="text", held_out_percent=0, source="benchmark")
    checkpoint = record_checkpoint(project=project, kind="policy", sha256="0" * 64, parent=None, metrics={})
    drawn = [
        NewSample(prompt.pk, seed, [1], [5, 6, 2], f"Answer {seed} to {prompt.text}. " * 12, "end", -3.0)
        for prompt in Prompt.objects.filter(project=project)
        for seed in (0, 1)
    ]
    rows = record_samples(checkpoint=checkpoint, sampling=sampling_settings(SamplingConfig()), samples=drawn)
    by_prompt: dict[Any, list[Any]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_id, []).append(row)
    make_items(project=project, samples_by_prompt=by_prompt)
    return project


def make_sessions(project: Any, count: int) -> list[str]:
    """Raters of the project, each with a session of their own."""
    from webapp.accounts.models import User
    from webapp.projects.models import Membership

    keys = []
    for number in range(count):
        user = User.objects.create(username=f"{project.slug}-{number}")
        user.set_unusable_password()
        user.save()
        Membership.objects.create(project=project, user=user)
        keys.append(make_session(user))
    return keys


def make_session(user: Any) -> str:
    """The key of a session in which ``user`` is logged in."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def run_raters(
    url: str, project: Any, *, raters: int, pause: Callable[[random.Random], float], seconds: float
) -> Tally:
    tally = Tally()
    until = time.monotonic() + seconds
    threads = []
    for number, session in enumerate(make_sessions(project, raters)):
        dice = random.Random(number)
        client = Client(url, project.slug, session)
        arguments = {"pause": lambda dice=dice: pause(dice), "until": until}
        threads.append(threading.Thread(target=rate, args=(client, tally, dice), kwargs=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {name: round(1000 * cuts[n - 1], 1) for name, n in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99))}


def exact(url: str) -> dict[str, Any]:
    from django.db.models import Count

    from webapp.feedback.models import Rating

    project = make_project("exact", pairs=200, overlap=3)
    tally = run_raters(url, project, raters=32, pause=lambda dice: 0.0, seconds=120)
    ratings = Rating.objects.filter(project=project)
    counted = ratings.filter(is_current=True, counts_toward_overlap=True)
    stored = {str(key) for key in ratings.values_list("submission_id", flat=True)}
    per_item = counted.values("comparison").annotate(n=Count("id"))
    twice = ratings.filter(is_current=True).values("comparison", "rater").annotate(n=Count("id")).filter(n__gt=1)
    return {
        "wanted": 600,
        "counted": counted.count(),
        "overshoot": sum(max(0, row["n"] - 3) for row in per_item),
        "duplicates": twice.count(),
        "lost": len({uuid.UUID(key) for key in tally.acknowledged} - {uuid.UUID(key) for key in stored}),
        "errors": tally.errors,
        "submit_and_next": percentiles(tally.server_seconds),
        "at_client": percentiles(tally.seconds),
    }


def think(url: str, seconds: float) -> dict[str, Any]:
    project = make_project("think", pairs=1000, overlap=1)
    tally = run_raters(url, project, raters=20, pause=lambda dice: dice.uniform(2, 5), seconds=seconds)
    return {
        "raters": 20,
        "submissions": len(tally.seconds),
        "submit_and_next": percentiles(tally.server_seconds),
        "at_client": percentiles(tally.seconds),
        "errors": tally.errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["exact", "think"])
    parser.add_argument("--seconds", type=float, default=120, help="how long the raters of 'think' work")
    arguments = parser.parse_args()
    with studio() as url:
        result = exact(url) if arguments.what == "exact" else think(url, arguments.seconds)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
