"""The sampler's door: HTTP with JSON over a socket file or a loopback port. It has no log-in: keep it on one machine
or on an internal network.

``POST /sample``: {"checkpoint", "prompts", "seeds", "sampling", "deadline_seconds"} -> {"checkpoint", "samples"};
400 malformed, 409 the policy can not be loaded, 413 too large, 429 with Retry-After while the queue is full, 503
shutting down, 504 the deadline passed. ``POST /score``: {"reward_model", "policy", "prompts", "responses",
"deadline_seconds"}, both in token ids -> {"reward_model", "scores", "uncertainties"}; the same refusals, and 422 where
responses have no score, whose "name" says why (see ``wire``). ``GET /health``: what it is doing.
"""

import json
import logging
import os
import socket
import socketserver
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from rlhf_core.config import SamplingConfig, settings_from_dict
from rlhf_core.errors import CheckpointError, QueueFull
from workers.sampler.engine import DeadlinePassed, Sampler, SamplerStopped
from workers.sampler.wire import Unscorable

LARGEST_ROW = 6 * 32_768 + 1024  # bytes; an import takes prompts of 32 KiB, and JSON writes a control character as six
LARGEST_DRAIN = 64 * 2**20  # bytes of a refused request that are read, so that whoever sends it hears why
DRAIN_SECONDS = 5.0
LONGEST_DEADLINE = 300.0  # seconds
NOWHERE = {"error": "there are only GET /health, POST /sample and POST /score"}
log = logging.getLogger("sampler")


class SamplerBusy(RuntimeError):
    """Another sampler already answers at this address."""


class RequestTooLarge(ValueError):
    """A request of more bytes than a full batch can have, or of none."""

    def __init__(self, length: int, message: str) -> None:
        super().__init__(message)
        self.length = length


class Door(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts requests, a thread each; they wait in the sampler's bounded queue."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: Path | tuple[str, int], sampler: Sampler) -> None:
        self.sampler = sampler
        self.path = address if isinstance(address, Path) else None
        if self.path is not None:
            self.address_family = socket.AF_UNIX
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_dead_socket(self.path)
            before = os.umask(0o077)  # only the owner may connect
            try:
                super().__init__(str(self.path), Handler)  # type: ignore[arg-type]
            finally:
                os.umask(before)
        else:
            super().__init__(address, Handler)  # type: ignore[arg-type]

    def server_close(self) -> None:
        super().server_close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def remove_dead_socket(path: Path) -> None:
    """Remove a socket file that nobody answers any more.

    Raises:
        SamplerBusy: somebody does.
    """
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SamplerBusy(f"a sampler already answers at {path}")


class Handler(BaseHTTPRequestHandler):
    """One request: read, ask the sampler, answer."""

    server: Door
    protocol_version = "HTTP/1.1"
    timeout = LONGEST_DEADLINE + 60

    def do_GET(self) -> None:  # noqa: N802 (the base class's name)
        if self.path == "/health":
            self.answer(HTTPStatus.OK, self.server.sampler.health())
        else:
            self.answer(HTTPStatus.NOT_FOUND, NOWHERE)

    def do_POST(self) -> None:  # noqa: N802
        does = {"/sample": self.draw, "/score": self.score}.get(self.path)
        if does is None:
            self.answer(HTTPStatus.NOT_FOUND, NOWHERE)
            return
        try:
            content = does()
        except QueueFull as error:
            self.answer(HTTPStatus.TOO_MANY_REQUESTS, {"error": str(error)}, retry_after=error.retry_after_seconds)
        except DeadlinePassed as error:
            self.answer(HTTPStatus.GATEWAY_TIMEOUT, {"error": str(error)})
        except SamplerStopped as error:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except CheckpointError as error:
            log.warning("%s", error)
            self.answer(HTTPStatus.CONFLICT, {"error": str(error)})
        except Unscorable as error:
            said = {"error": str(error), "name": type(error).__name__}
            self.answer(HTTPStatus.UNPROCESSABLE_ENTITY, said)
        except RequestTooLarge as error:
            self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": str(error)})
            self.drain(error.length)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": f"{type(error).__name__}: {error}"})
        except Exception as error:
            log.exception("%s failed", self.path)
            self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})
        else:
            self.answer(HTTPStatus.OK, content)

    def draw(self) -> dict[str, Any]:
        """Responses to prompts."""
        request = self.read_request()
        prompts = [str(prompt) for prompt in request["prompts"]]
        seeds = [int(seed) for seed in request["seeds"]]
        if any(not 0 <= seed < 2**63 for seed in seeds):
            raise ValueError("a seed is 0 to 2**63 - 1")
        checkpoint, samples = self.server.sampler.draw(
            checkpoint=str(request["checkpoint"]),
            prompts=prompts,
            seeds=seeds,
            sampling=settings_from_dict(SamplingConfig, request["sampling"]),
            deadline_seconds=deadline_of(request),
        )
        return {"checkpoint": checkpoint, "samples": [asdict(sample) for sample in samples]}

    def score(self) -> dict[str, Any]:
        """What a reward model says of responses."""
        request = self.read_request()
        prompts, responses = (
            [[int(token) for token in row] for row in request[name]] for name in ("prompts", "responses")
        )
        return asdict(
            self.server.sampler.score(
                reward_model=str(request["reward_model"]),
                policy=str(request["policy"]),
                prompts=prompts,
                responses=responses,
                deadline_seconds=deadline_of(request),
            )
        )

    def read_request(self) -> dict[str, Any]:
        """What was asked.

        Raises:
            ValueError, TypeError: the request is malformed.
        """
        length = int(self.headers.get("Content-Length", ""))
        largest = self.server.sampler.batch_rows * LARGEST_ROW
        if not 0 < length <= largest:
            self.close_connection = True
            raise RequestTooLarge(length, f"a request has 1 to {largest} bytes, not {length}")
        request = json.loads(self.rfile.read(length))
        if not isinstance(request, dict):
            raise ValueError("a request is a JSON object")
        return request

    def drain(self, length: int) -> None:
        """Read what was refused: who is still sending would find the connection broken, and no answer."""
        left = min(length, LARGEST_DRAIN)
        self.connection.settimeout(DRAIN_SECONDS)
        with suppress(OSError):
            while left > 0 and (piece := self.rfile.read(min(left, 65_536))):
                left -= len(piece)

    def answer(self, status: HTTPStatus, content: dict[str, Any], *, retry_after: float | None = None) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if retry_after is not None:
                self.send_header("Retry-After", str(int(retry_after)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # whoever asked has gone
            self.close_connection = True

    def address_string(self) -> str:
        return "local" if isinstance(self.client_address, (str, bytes)) else str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def deadline_of(request: dict[str, Any]) -> float:
    """In how many seconds an answer is wanted. Raises ValueError where that is out of range."""
    deadline = float(request["deadline_seconds"])
    if not 0 < deadline <= LONGEST_DEADLINE:
        raise ValueError(f"deadline_seconds = {deadline:g} is not between 0 and {LONGEST_DEADLINE:g}")
    return deadline
