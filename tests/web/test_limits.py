"""The largest request and the time it took, against the ASGI application as the web process runs it."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from webapp.limits import LARGEST_BODY, BodyLimit
from webapp.timing import ServerTiming


def ask(app, pieces, headers=()):
    """Send a POST of ``pieces``; the status, and how many pieces were read."""
    answer, read = ask_all(app, pieces, headers)
    return answer["status"], read


def ask_all(app, pieces, headers=()):
    """``ask`` with the whole head of the answer."""
    sent, read = [], 0

    async def receive():
        nonlocal read
        if read == len(pieces):
            await asyncio.Event().wait()  # whoever asked stays connected
        read += 1
        return {"type": "http.request", "body": pieces[read - 1], "more_body": read < len(pieces)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    with ThreadPoolExecutor(1) as thread:  # browser tests leave a running event loop in this one
        thread.submit(lambda: asyncio.run(app(scope, receive, send))).result()
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0], read


async def echo(scope, receive, send):
    more = True
    while more:
        more = (await receive())["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"read"})


def test_what_is_announced_too_large_is_refused_unread():
    app = BodyLimit(echo, largest=100)
    assert ask(app, [b"a" * 100], [(b"content-length", b"100")]) == (200, 1)
    for announced in (b"101", b"9" * 5000, b"-1", b"1e3"):
        assert ask(app, [b"a"], [(b"content-length", announced)]) == (413, 0)


def test_what_comes_unannounced_is_counted():
    app = BodyLimit(echo, largest=100)
    assert ask(app, [b"a" * 50] * 2) == (200, 2)
    assert ask(app, [b"a" * 50] * 1000) == (413, 3)
    assert ask(app, [b"a" * 50] * 1000, [(b"content-length", b"50")]) == (413, 3)


@pytest.mark.parametrize(("pieces", "status"), [(12, 403), (13, 413)])
def test_the_studio_reads_12_mb_and_no_more(settings, db, pieces, status):
    from webapp.asgi import application

    body = [b"a" * 2**20] * pieces
    headers = [(b"host", b"localhost"), (b"content-type", b"text/plain")]
    assert LARGEST_BODY == 12 * 2**20
    found, read = ask(application, body, headers)
    assert (found, read) == (status, pieces)


async def think(scope, receive, send):
    await asyncio.sleep(0.02)
    await echo(scope, receive, send)


def test_an_answer_says_how_long_it_took():
    answer, _ = ask_all(ServerTiming(think), [b"a"])
    (found,) = (value.decode() for name, value in answer["headers"] if name == b"server-timing")
    assert float(re.fullmatch(r"total;dur=(\d+\.\d)", found)[1]) >= 20


def test_every_page_of_the_studio_says_how_long_it_took(settings, db):
    from webapp.asgi import application

    answer, _ = ask_all(application, [b""], [(b"host", b"localhost")])
    assert b"server-timing" in dict(answer["headers"])
