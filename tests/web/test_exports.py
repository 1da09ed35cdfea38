"""The download of ratings: a line of JSON for each revision of every mode, raters by pseudonym, in constant queries."""

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext

from tests.studio import enter
from webapp.feedback import exports
from webapp.feedback.exports import rating_lines, rating_pages
from webapp.feedback.models import Rating, Slot
from webapp.feedback.modes import Extras
from webapp.feedback.services import make_items, revise, submit
from webapp.projects.services import update_modes

SAID = {
    "pair": ("2", Extras(("spam",), "because")),
    "single": ("4", Extras(scores={"helpful": "5"})),
    "ranking": ("3,1,2", Extras()),
    "rule": ("2", Extras(evidence=("0-6",))),
    "rewrite": ("rewritten", Extras(text="anew")),
}
ANSWERS = {"pair": 2, "ranking": 3}


def rated(studio):
    settings = {"flags": ["spam"], "axes": ["helpful"], "rules": ["It is short."]}
    project = update_modes(actor=studio.admin, project=studio.ready_project(), **settings)
    for kind in SAID:
        studio.ask(project, kind, *(f"answer {n}" for n in range(ANSWERS.get(kind, 1))))
    ada = studio.rater(project)
    return project, ada, [rate(studio, studio.shown(ada, project)) for _ in SAID]


def rate(studio, presentation, act=submit, choice=None):
    pressed, extras = SAID[presentation.slot.comparison.kind]
    return studio.say(presentation.rater, presentation, choice or pressed, extras, act=act).rating


def test_a_line_holds_all_that_was_said_and_of_what(studio):
    project, ada, ratings = rated(studio)
    again = rate(studio, ratings[0].presentation, revise, choice="6")
    lines = [json.loads(line) for line in rating_lines(project)]
    assert [line["rating"] for line in lines] == [str(rating.pk) for rating in (*ratings, again)]
    assert [(line["revision"], line["is_current"]) for line in (lines[0], lines[-1])] == [(1, False), (2, True)]
    by_mode = {line["mode"]: line for line in lines}
    assert set(by_mode) == set(SAID)
    assert (by_mode["pair"]["flags"], by_mode["pair"]["reason"]) == (["spam"], "because")
    assert by_mode["single"]["details"] == {"axes": {"helpful": 5}}
    assert by_mode["rewrite"]["details"] == {"text": "anew"}
    assert (by_mode["rule"]["rule"], by_mode["rule"]["details"]["evidence"]) == ("It is short.", [[0, 6]])
    ranking = by_mode["ranking"]
    shown = [ranking["answers"][index]["sample"] for index in ranking["shown_order"]]
    assert [ranking["details"]["places"][sample] for sample in shown] == [3, 1, 2]
    pair = by_mode["pair"]
    left, right = (pair["answers"][index]["sample"] for index in pair["shown_order"])
    assert (pair["verdict"] < 0) == (left < right), (
        "6: the right one is better; samples stand in the order of their ids"
    )
    assert len({line["rater"] for line in lines}) == 1
    assert ada.username not in json.dumps(lines)
    assert str(ada.pk) not in json.dumps(lines)


def test_the_download_is_for_admins_and_costs_few_queries(studio, django_assert_max_num_queries):
    project, ada, _ = rated(studio)
    assert enter(ada).get(f"/p/{project.slug}/ratings.jsonl").status_code == 404
    client = enter(studio.admin)
    answer = client.get(f"/p/{project.slug}/ratings.jsonl")
    assert answer["Content-Disposition"] == f'attachment; filename="{project.slug}-ratings.jsonl"'
    assert len(answer.getvalue().splitlines()) == 5
    assert "ratings.jsonl" in client.get(f"/p/{project.slug}/ratings/").content.decode()
    with django_assert_max_num_queries(2):
        assert len(list(rating_lines(project))) == 5


def rated_often(studio, count: int, text: str):
    """Ratings of answers of ``text`` each, all of one project."""
    project = studio.ready_project()
    (prompt,) = studio.prompts(project, 1)
    samples = studio.samples(prompt, count, [f"{n} {text}" for n in range(count)])
    make_items(project=project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: "rewrite"})
    ada = studio.rater(project)
    first = studio.say(ada, studio.shown(ada, project), "1").rating
    slots = Slot.objects.filter(project=project).exclude(pk=first.slot_id)
    values = {name: getattr(first, name) for name in ("project", "rater", "presentation", "verdict", "source")}
    Rating.objects.bulk_create(
        Rating(slot=slot, comparison_id=slot.comparison_id, submission_id=uuid4(), **values) for slot in slots
    )
    return project


def test_a_download_reads_some_ratings_at_a_time_and_no_tokens(studio, monkeypatch):
    project = rated_often(studio, 25, "short")
    monkeypatch.setattr(exports, "CHUNK", 10)
    pages = rating_pages(project)
    read = []
    while True:
        with CaptureQueriesContext(connection) as queries:
            page = next(pages, None)
        read.append((len(page.splitlines()) if page else 0, len(queries)))
        assert not [query["sql"] for query in queries if 'tokens"' in query["sql"] or "LIMIT 10" not in query["sql"]]
        if page is None:
            break
    assert read == [(10, 1), (10, 1), (5, 1), (0, 0)], "a page is read when it is asked for"
    ids = [json.loads(line)["rating"] for line in rating_lines(project)]
    assert len(set(ids)) == 25
    assert ids == [str(pk) for pk in Rating.objects.order_by("created_at", "id").values_list("pk", flat=True)]


def test_the_memory_that_a_download_takes_does_not_grow_with_it(studio, monkeypatch):
    monkeypatch.setattr(exports, "CHUNK", 20)
    project = rated_often(studio, 400, "x" * 10_000)  # 4 MB of text
    pages = rating_pages(project)
    next(pages)
    tracemalloc.start()
    try:
        total = sum(len(page) for page in pages)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 3_800_000
    assert peak < 1_500_000, "20 rows of 10 kB, as rows, as JSON and as a page"


@pytest.mark.django_db(transaction=True)
def test_over_asgi_the_pages_are_sent_one_by_one_and_hold_no_connection(live_studio, monkeypatch):
    project = rated_often(live_studio, 25, "short")
    monkeypatch.setattr(exports, "CHUNK", 10)
    client = AsyncClient()
    client.force_login(live_studio.admin)
    held, sizes = [], []

    async def download() -> None:
        answer = await client.get(f"/p/{project.slug}/ratings.jsonl")
        async for page in answer.streaming_content:
            sizes.append(len(page.splitlines()))
            held.append(await sync_to_async(lambda: connection.connection is not None)())

    def serve() -> None:
        async_to_sync(download)()
        connection.close()

    with ThreadPoolExecutor(1) as server:  # as in a web process; here a browser's own loop may be running
        server.submit(serve).result()
    assert (sizes, held) == ([10, 10, 5], [False] * 3)
