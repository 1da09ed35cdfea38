"""Answers that are sent while they are made."""

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, StreamingHttpResponse


def streamed(request: HttpRequest, pieces: Iterator[str], content_type: str) -> StreamingHttpResponse:
    """Send ``pieces`` one after the other; the next one is made when the one before is on its way.

    Between two of them no connection to the database is held: a slow reader must not keep one from others. Over ASGI
    the pieces are made in a thread; left to itself, Django would read them all into memory first.
    """
    content = in_thread(pieces) if isinstance(request, ASGIRequest) else pieces
    return StreamingHttpResponse(content, content_type=content_type)


async def in_thread(pieces: Iterator[str]) -> AsyncIterator[str]:
    while (piece := await sync_to_async(next_of)(pieces)) is not None:
        yield piece


def next_of(pieces: Iterator[str]) -> str | None:
    """The next piece, or None at the end; the connection goes back to the pool."""
    try:
        return next(pieces, None)
    finally:
        close_old_connections()
