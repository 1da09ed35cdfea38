"""Whether a rater could tell which policy wrote what: ``python -m benchmarks.blindness``; JSON out.

``sides``: how often the first of two samples stands left in 10,000 draws, and how likely so uneven a result is for a
fair coin. ``pages``: for each prompt there are two pairs with the same two texts, one time by policies 1 and 2, one
time by 2 and 1; the two pages, where both happen to show the texts in the same order, must be the same byte for byte,
but for the time and what is drawn at random for each page: nonces, tokens and keys.
"""

import argparse
import http.client
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.feedback import CSRF, FIELD
from benchmarks.feedback_project import make_sessions
from benchmarks.studio import studio

DRAWS = 10_000
PROMPTS = 60
RANDOM = re.compile(r'nonce="[^"]+"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|csrfmiddlewaretoken" value="[^"]+"')
CSRF_HEADER = re.compile(r'"X-CSRFToken":\s*"[^"]+"|&quot;X-CSRFToken&quot;:\s*&quot;[^&]+&quot;')
OF_THE_MOMENT = {"date", "expires", "server-timing", "set-cookie"}
SHOWN = re.compile(r'<div class="shown"[^>]*>(.*?)</div>', re.DOTALL)


def fair_coin_p(heads: int, tosses: int) -> float:
    """Probability that a fair coin is at least so uneven, both ways; exact (two-sided binomial test)."""
    gap = abs(heads - tosses / 2)
    log_total = tosses * math.log(2)
    tail = 0.0
    for k in range(tosses + 1):
        if abs(k - tosses / 2) >= gap - 1e-9:
            ways = math.lgamma(tosses + 1) - math.lgamma(k + 1) - math.lgamma(tosses - k + 1)
            tail += math.exp(ways - log_total)
    return min(1.0, tail)


def draw_sides() -> dict[str, Any]:
    from webapp.feedback.services import draw_side

    left = sum(draw_side() for _ in range(DRAWS))
    return {"draws": DRAWS, "first_is_left": left, "p_value": fair_coin_p(left, DRAWS)}


def make_pairs() -> Any:
    """A project with two policies and, for each prompt, the same pair of texts by them in both ways."""
    from rlhf_core.config import SamplingConfig
    from webapp.accounts.services import ensure_admin
    from webapp.feedback.services import NewSample, make_items, record_samples
    from webapp.projects.models import Prompt
    from webapp.projects.services import create_project, import_prompts, update_project
    from webapp.registry.services import record_checkpoint, sampling_settings

    admin = ensure_admin()
    project = create_project(
        actor=admin, name="Blind", slug="blind", question="Which is better?", single_question="How good is it?"
    )
    update_project(actor=admin, project=project, overlap=1, buffer_target=0)
    lines = "\n".join(f"Prompt number {number}, of a benchmark" for number in range(PROMPTS))
    import_prompts(actor=admin, project=project, text=lines, format="text", held_out_percent=0, source="benchmark")
    policies = [
        record_checkpoint(project=project, kind="policy", sha256=str(number) * 64, parent=None, metrics={})
        for number in (1, 2)
    ]
    sampling = sampling_settings(SamplingConfig())
    for prompt in Prompt.objects.filter(project=project):
        texts = [f"Once more about {prompt.text}.", f"Nothing new about {prompt.text}."]
        for seed, (one, two) in enumerate([texts, texts[::-1]]):
            pair = []
            for policy, text in ((policies[0], one), (policies[1], two)):
                new = NewSample(prompt.pk, seed, [1], [5, 6, 2], text, "end", -3.0)
                pair += record_samples(checkpoint=policy, sampling=sampling, samples=[new])
            make_items(project=project, samples_by_prompt={prompt.pk: pair})
    return project


def read_pages(url: str, slug: str, session: str) -> list[str]:
    """Every page of the rater's queue, each item passed by after a look."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    headers = {"Cookie": f"sessionid={session}; csrftoken={CSRF}", "Referer": url}
    pages: list[str] = []
    while True:
        connection.request("GET", f"/p/{slug}/rate/", headers=headers)
        answer = connection.getresponse()
        page = answer.read().decode()
        token = dict(FIELD.findall(page)).get("token")
        if token is None:
            return pages
        pages.append(as_compared(answer.getheaders(), page))
        form = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
        sent = urlencode({"csrfmiddlewaretoken": CSRF, "token": token, "reason": ""})
        connection.request("POST", f"/p/{slug}/rate/skip/", sent, headers=form)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in (200, 302):
            raise RuntimeError(f"an item could not be skipped: {answer.status}")


def as_compared(headers: Iterable[tuple[str, str]], page: str) -> str:
    """A page below the headers that came with it, without those that differ from one moment to the next."""
    told = [f"{name}: {value}" for name, value in headers if name.lower() not in OF_THE_MOMENT]
    return "\n".join([*told, "", page])


def compare_pages(pages: list[str]) -> dict[str, Any]:
    """How many pages with the same texts in the same order there are, and how many of them differ."""
    alike = defaultdict(list)
    for page in pages:
        bare = re.sub(r"'nonce-[^']+'", "", CSRF_HEADER.sub("", RANDOM.sub("", page)))
        alike[tuple(SHOWN.findall(page))].append(bare)
    twins = [group for group in alike.values() if len(group) == 2]
    telling = [set(one.splitlines()) ^ set(other.splitlines()) for one, other in twins if one != other]
    return {
        "shown": len(pages),
        "compared": 2 * len(twins),
        "different": 2 * len(telling),
        "lines": sorted(telling[0]) if telling else [],  # of the first two that differ
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with studio() as url:
        project = make_pairs()
        (session,) = make_sessions(project, 1)
        pages = compare_pages(read_pages(url, project.slug, session))
        print(json.dumps({"sides": draw_sides(), "pages": pages}, indent=1))


if __name__ == "__main__":
    main()
