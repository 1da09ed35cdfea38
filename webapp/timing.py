"""How long the server took for a page, told in the header that browsers draw in their network panel."""

import time
from collections.abc import Mapping
from typing import Any

from webapp.limits import App, Message, Receive, Send


class ServerTiming:
    """An ASGI application that adds ``Server-Timing: total;dur=…``, in ms (W3C Server Timing).

    From the request's arrival, once its head was read, to the head of the answer: waiting for a thread, for the
    database and rendering are in it, the network is not.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        begun = time.perf_counter()

        async def send_with_time(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = b"total;dur=%.1f" % (1000 * (time.perf_counter() - begun))
                message = {**message, "headers": [*message["headers"], (b"server-timing", took)]}
            await send(message)

        await self.app(scope, receive, send_with_time if scope["type"] == "http" else send)
