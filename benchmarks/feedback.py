"""Raters at work, over HTTP, against a real studio: ``python -m benchmarks.feedback {exact,think,steady}``; JSON out.

``exact``: clients without pause want ratings, four of each item, and send 30 % of their verdicts twice; goal: 0
overshoot, 0 duplicates, 0 lost. ``--mixed`` has items of all rating modes by turns, with axes, flags and reasons, else
there are pairs alone; ``--tabs 2`` gives each rater two clients, which stand before the same item. ``think``: 20 raters
think 2 to 5 seconds. ``steady``: verdicts arrive by a Poisson clock, 30 a second, whether or not those before
them were answered, and each claims the next item; a client's time runs from when its verdict was due. Goal of both:
submit-and-next takes the server p95 <= 50 ms, as its Server-Timing header says; ``at_client`` is what these clients
saw, which share the cores. Clients bring a session, since logging in is slow on purpose. A project of its own; the
demo's stays as it is.
"""

import argparse
import http.client
import json
import queue
import random
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.feedback_project import make_project, make_sessions
from benchmarks.feedback_verdicts import Fields, verdict_on
from benchmarks.studio import cpu_seconds, studio, web_pid

FIELD = re.compile(r'name="(token|submission_id)" value="([0-9a-f-]{36})"')
CSRF = "a" * 32
OVERLAP = 4
WARM_UP_SECONDS = 5.0


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)  # from sending to the end of the answer
    server_seconds: list[float] = field(default_factory=list)  # of it, what the server says it took
    acknowledged: list[tuple[str, Fields]] = field(default_factory=list)  # token and what was sent and said to be saved
    refused: int = 0  # another verdict on the same item was there first
    due: int = 0  # verdicts that a clock asked for
    errors: list[str] = field(default_factory=list)


class Client:
    """A rater's browser, as far as HTTP goes: one kept connection, a session and a CSRF cookie."""

    def __init__(self, url: str, slug: str, session: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self.path = f"/p/{slug}/rate/"
        self.server_seconds = 0.0  # what the last answer took
        self.is_refused = False  # whether it was 409
        self.headers = {"Cookie": f"sessionid={session}; csrftoken={CSRF}", "HX-Request": "true", "Referer": url}

    def get(self) -> str:
        self.connection.request("GET", self.path, headers=self.headers)
        return self.read()

    def post(self, **fields: str | list[str]) -> str:
        body = urlencode({"csrfmiddlewaretoken": CSRF, **fields}, doseq=True)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        self.connection.request("POST", self.path, body, headers={**self.headers, **form})
        return self.read()

    def read(self) -> str:
        response = self.connection.getresponse()
        text = response.read().decode()
        self.server_seconds = float((response.headers["Server-Timing"] or "").rpartition("dur=")[2]) / 1000
        if response.status not in (200, 409):
            raise RuntimeError(f"{response.status}: {text[:200]}")
        self.is_refused = response.status == 409
        return text


def rate(client: Client, tally: Tally, dice: random.Random, *, pause: Callable[[], float], until: float) -> None:
    """Rate until nothing is left or the time is over; some verdicts are sent twice, as by a double click."""
    try:
        page = client.get()
        while time.monotonic() < until and (item := dict(FIELD.findall(page))).get("submission_id"):
            time.sleep(pause())
            verdict = verdict_on(page, dice)
            begun = time.monotonic()
            page = client.post(**item, **verdict, active_ms="1000")
            tally.seconds.append(time.monotonic() - begun)
            tally.server_seconds.append(client.server_seconds)
            if client.is_refused:
                tally.refused += 1
            else:
                tally.acknowledged.append((item["token"], verdict))
            if dice.random() < 0.3:
                page = client.post(**item, **verdict, active_ms="1000")
    except Exception as error:  # a thread's border: what went wrong is part of the report
        tally.errors.append(repr(error))


def run_raters(
    url: str, project: Any, *, raters: int, pause: Callable[[random.Random], float], seconds: float, tabs: int = 1
) -> Tally:
    tally = Tally()
    sessions = make_sessions(project, raters)
    until = time.monotonic() + seconds
    threads = []
    for number, session in enumerate(sessions * tabs):
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


def exact(url: str, *, ratings: int, clients: int, tabs: int, seconds: float, is_mixed: bool = False) -> dict[str, Any]:
    """``ratings`` wanted ratings by ``clients`` clients, ``tabs`` of which are one rater's."""
    shape = mixed() if is_mixed else {}
    project = make_project("exact-mixed" if is_mixed else "exact", items=ratings // OVERLAP, overlap=OVERLAP, **shape)
    begun = time.monotonic()
    tally = run_raters(url, project, raters=clients // tabs, tabs=tabs, pause=lambda dice: 0.0, seconds=seconds)
    return {
        "clients": clients,
        "seconds": round(time.monotonic() - begun, 1),
        "wanted": ratings,
        **count_faults(project, tally.acknowledged),
        "by_mode": count_by_mode(project),
        "refused": tally.refused,
        "errors": tally.errors,
        "submit_and_next": percentiles(tally.server_seconds),
        "at_client": percentiles(tally.seconds),
    }


def mixed() -> dict[str, Any]:
    """All rating modes, and all that may be said beside a verdict."""
    from webapp.feedback.modes import MODES

    return {"kinds": list(MODES), "axes": ["helpful", "true"], "flags": ["spam", "personal data", "harmful"]}


def count_by_mode(project: Any) -> dict[str, int]:
    """How many current ratings there are of each mode."""
    from django.db.models import Count

    from webapp.feedback.models import Rating

    current = Rating.objects.filter(project=project, is_current=True).order_by()
    return dict(current.values_list("comparison__kind").annotate(n=Count("id")))


def count_faults(project: Any, acknowledged: Iterable[tuple[str, Fields]]) -> dict[str, int]:
    """What the database has of the wanted ratings, and what it has too much or too little of.

    Args:
        acknowledged: the token of an item as it was shown, and what was sent of it and said to be saved.

    Returns:
        ``claims``: presentations. ``counted``: ratings that count toward an overlap. ``overshoot``: those beyond the
        project's overlap. ``duplicates``: pairs of rater and item with more than one current rating. ``lost``:
        acknowledged verdicts that do not stand as they were sent.
    """
    from django.db.models import Count

    from webapp.feedback.models import Presentation, Rating, load_rankings
    from webapp.feedback.modes import Judgement

    current = Rating.objects.filter(project=project, is_current=True)
    counted = current.filter(counts_toward_overlap=True)
    per_item = counted.order_by().values_list("comparison").annotate(n=Count("id"))
    twice = current.order_by().values("comparison", "rater").annotate(n=Count("id")).filter(n__gt=1)
    shown = list(
        Presentation.objects.filter(slot__project=project).select_related(
            "slot__project", "slot__comparison__first", "slot__comparison__second"
        )
    )
    load_rankings(one.slot.comparison for one in shown)
    presented = {str(one.token): one for one in shown}
    stands = {(rating.comparison_id, rating.rater_id): Judgement.of(rating) for rating in current}
    lost = 0
    for token, fields in acknowledged:
        presentation = presented[token]
        item = (presentation.slot.comparison_id, presentation.rater_id)
        lost += stands.get(item) != as_sent(project, presentation, fields)
    return {
        "claims": len(presented),
        "counted": counted.count(),
        "overshoot": sum(max(0, n - project.overlap) for _, n in per_item),
        "duplicates": twice.count(),
        "lost": lost,
    }


def as_sent(project: Any, presentation: Any, fields: Fields) -> Any:
    """The verdict (a ``Judgement``) that these fields mean of the samples that were shown."""
    from django.http import QueryDict

    from webapp.feedback.forms import VerdictForm
    from webapp.feedback.services import judge

    sent = {"token": str(presentation.token), "submission_id": str(presentation.token), **fields}
    form = VerdictForm(QueryDict(urlencode(sent, doseq=True)))
    if not form.is_valid():
        raise ValueError(f"{fields} is no verdict: {form.errors.as_text()}")
    return judge(presentation, project, form.cleaned_data["choice"], form.cleaned_data["extras"])


def think(url: str, seconds: float) -> dict[str, Any]:
    project = make_project("think", items=1000, overlap=1)
    tally = run_raters(url, project, raters=20, pause=lambda dice: dice.uniform(2, 5), seconds=seconds)
    return {
        "raters": 20,
        "submissions": len(tally.seconds),
        "submit_and_next": percentiles(tally.server_seconds),
        "at_client": percentiles(tally.seconds),
        "errors": tally.errors,
    }


def answer_arrivals(client: Client, page: str, arrivals: "queue.Queue[float | None]", tally: Tally) -> None:
    """Judge the item of ``page``, and what follows it, once for each moment of ``arrivals`` (monotonic, s)."""
    try:
        while (due := arrivals.get()) is not None:
            item = dict(FIELD.findall(page))
            page = client.post(**item, choice="4", active_ms="1000")
            tally.seconds.append(time.monotonic() - due)
            tally.server_seconds.append(client.server_seconds)
            tally.acknowledged.append((item["token"], {"choice": "4"}))
    except Exception as error:  # a thread's border: what went wrong is part of the report
        tally.errors.append(repr(error))


def run_arrivals(clients: list[Client], *, rate: float, seconds: float, seed: int = 0) -> Tally:
    """Verdicts by a Poisson clock of ``rate`` a second, each sent by whichever client is free.

    The clock waits for no answer. Where all clients are busy a verdict waits for one, and that wait is part of its
    time, so that a slow server can not slow down what it is measured by (coordinated omission).
    """
    arrivals: queue.Queue[float | None] = queue.Queue()
    tally, dice = Tally(), random.Random(seed)
    pages = [client.get() for client in clients]
    workers = [
        threading.Thread(target=answer_arrivals, args=(client, page, arrivals, tally))
        for client, page in zip(clients, pages, strict=True)
    ]
    for worker in workers:
        worker.start()
    due = time.monotonic()
    end = due + seconds
    while (due := due + dice.expovariate(rate)) < end:
        time.sleep(max(0.0, due - time.monotonic()))
        arrivals.put(due)
        tally.due += 1
    for _ in workers:
        arrivals.put(None)
    for worker in workers:
        worker.join()
    return tally


def steady(url: str, *, rate: float, seconds: float, raters: int = 32) -> dict[str, Any]:
    """``rate`` verdicts a second for so long, after some seconds that warm the server up and do not count."""
    expected = rate * (WARM_UP_SECONDS + seconds)
    project = make_project("steady", items=int(1.25 * expected) + raters, overlap=1)
    clients = [Client(url, project.slug, session) for session in make_sessions(project, raters)]
    return steady_result(clients, rate=rate, seconds=seconds)


def steady_result(clients: list[Client], *, rate: float, seconds: float) -> dict[str, Any]:
    """Warm up, measure, and say what was seen; ``web_cpu_ms`` is what a verdict took of the web process's processor."""
    run_arrivals(clients, rate=rate, seconds=WARM_UP_SECONDS, seed=1)
    pid = web_pid()
    begun = cpu_seconds(pid)
    tally = run_arrivals(clients, rate=rate, seconds=seconds)
    cpu = cpu_seconds(pid) - begun
    return {
        "per_second": rate,
        "submissions": len(tally.seconds),
        "unanswered": tally.due - len(tally.seconds),
        "web_cpu_ms": round(1000 * cpu / max(1, len(tally.seconds)), 1),
        "submit_and_next": percentiles(tally.server_seconds),
        "at_client": percentiles(tally.seconds),
        "errors": tally.errors,
    }


def positive(text: str) -> float:
    """A number above 0 from the command line."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["exact", "think", "steady"])
    parser.add_argument(
        "--seconds", type=positive, help="how long 'think' (120) and 'steady' (60) work, and the most for 'exact' (120)"
    )
    parser.add_argument("--rate", type=positive, default=30.0, help="verdicts a second of 'steady'")
    parser.add_argument("--ratings", type=int, default=600, help=f"wanted by 'exact', a multiple of {OVERLAP}")
    parser.add_argument("--clients", type=int, default=32, help="of 'exact', a multiple of --tabs")
    parser.add_argument("--mixed", action="store_true", help="items of all rating modes, of 'exact'")
    parser.add_argument("--tabs", type=int, default=1, help="clients that are one rater's, of 'exact'")
    given = parser.parse_args()
    if given.ratings < OVERLAP or given.ratings % OVERLAP:
        parser.error(f"--ratings {given.ratings}: must be a multiple of {OVERLAP}, since each item is rated so often")
    if given.tabs < 1 or given.clients < OVERLAP * given.tabs or given.clients % given.tabs:
        parser.error(f"--clients {given.clients} --tabs {given.tabs}: {OVERLAP} raters or more, each with so many tabs")
    with studio() as url:
        if given.what == "exact":
            shape = {"ratings": given.ratings, "clients": given.clients, "tabs": given.tabs, "is_mixed": given.mixed}
            result = exact(url, **shape, seconds=given.seconds or 120)
        elif given.what == "steady":
            result = steady(url, rate=given.rate, seconds=given.seconds or 60)
        else:
            result = think(url, given.seconds or 120)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
