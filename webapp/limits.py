"""What a request may weigh, decided before anything of it is kept."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

LARGEST_BODY = 12 * 2**20  # bytes: an import of 10 MB with its envelope


class BodyTooLarge(Exception):
    """More came than was announced, or nothing was announced and too much came."""


class BodyLimit:
    """An ASGI application that answers 413 for a larger body; without it each one is written to disk, whoever sends it.

    What is announced too large is refused unread; what is not announced is counted as it comes.
    """

    def __init__(self, app: App, largest: int = LARGEST_BODY) -> None:
        self.app, self.largest = app, largest

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:20]) > self.largest:
            await self.refuse(send)
            return
        came = 0

        async def count() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.largest:
                raise BodyTooLarge
            return message

        try:
            await self.app(scope, count, send)
        except BodyTooLarge:  # Django reads the whole body before it answers anything
            await self.refuse(send)

    async def refuse(self, send: Send) -> None:
        text = f"A request has at most {self.largest // 2**20} MB.\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text})
