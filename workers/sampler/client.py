"""Asking the sampler; standard library only, so that a worker stays small."""

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from rlhf_core.errors import CheckpointError, QueueFull, SteersmanError
from workers.sampler.wire import UNSCORABLE, DrawnSample, Scored, Unscorable

CONNECT_SECONDS = 3.0
GRACE_SECONDS = 10.0  # beyond the deadline, within which the sampler itself should answer


class SamplerUnavailable(SteersmanError):
    """The sampler does not answer, or not in time; asking again later may help."""


@dataclass(frozen=True)
class Drawn:
    """``checkpoint`` is the id of the policy that made the samples, as the sampler reports it."""

    checkpoint: str
    samples: list[DrawnSample]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class SamplerClient:
    """A thin client; each call is a connection of its own.

    Args:
        address: what ``sampler_address`` returns.
    """

    def __init__(self, address: Path | tuple[str, int]) -> None:
        self.address = address

    def draw(
        self,
        checkpoint: str,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Mapping[str, Any],
        *,
        deadline_seconds: float = 60.0,
    ) -> Drawn:
        """One response to each prompt, by the policy with the SHA-256 ``checkpoint``.

        Raises:
            QueueFull: too much waits already; it says when to ask again.
            CheckpointError: the policy can not be loaded.
            SamplerUnavailable: no answer.
            ValueError: the sampler called the request malformed or too large.
        """
        request = {
            "checkpoint": checkpoint,
            "prompts": list(prompts),
            "seeds": list(seeds),
            "sampling": dict(sampling),
            "deadline_seconds": deadline_seconds,
        }
        answer = self.demand("/sample", request, deadline_seconds)
        samples = [DrawnSample(**sample) for sample in answer["samples"]]
        return Drawn(checkpoint=str(answer["checkpoint"]), samples=samples)

    def score(
        self,
        reward_model: str,
        policy: str,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        *,
        deadline_seconds: float = 10.0,
    ) -> Scored:
        """What the reward model with the SHA-256 ``reward_model`` says of responses of ``policy``, all as token ids.

        Raises:
            PolicyUnreadable: the policy's manifest cannot be read.
            OtherTokens: the reward model reads other tokens than the policy writes.
            NotFinite: a score of these responses is not.
            TokensUnread: a response is empty, or has a token that the reward model does not know.
            QueueFull, CheckpointError, SamplerUnavailable, ValueError: as for ``draw``.
        """
        request = {
            "reward_model": reward_model,
            "policy": policy,
            "prompts": list(map(list, prompts)),
            "responses": list(map(list, responses)),
            "deadline_seconds": deadline_seconds,
        }
        return Scored(**self.demand("/score", request, deadline_seconds))

    def demand(self, path: str, request: dict[str, Any], deadline_seconds: float) -> dict[str, Any]:
        """The answer to a request; a refusal as the error that it stands for."""
        status, headers, answer = self.ask("POST", path, request, deadline_seconds + GRACE_SECONDS)
        message = str(answer.get("error", f"status {status}"))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise QueueFull(float(headers.get("Retry-After", "1")))
        if status == HTTPStatus.CONFLICT:
            raise CheckpointError(message)
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise UNSCORABLE.get(str(answer.get("name")), Unscorable)(message)
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            raise ValueError(message)
        if status != HTTPStatus.OK:
            raise SamplerUnavailable(message)
        return answer

    def health(self) -> dict[str, Any]:
        """What the sampler is doing.

        Raises:
            SamplerUnavailable: no answer.
        """
        return self.ask("GET", "/health", None, CONNECT_SECONDS)[2]

    def ask(
        self, method: str, path: str, content: dict[str, Any] | None, timeout: float
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        connection: http.client.HTTPConnection
        if isinstance(self.address, Path):
            connection = UnixConnection(self.address, timeout)
        else:
            connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        body = None if content is None else json.dumps(content, ensure_ascii=False).encode()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            is_absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            why = "it is not up, or not yet; it is asked again in a moment" if is_absent else str(error)
            raise SamplerUnavailable(f"the sampler does not answer at {self.address}: {why}") from error
        finally:
            connection.close()


def default_client() -> SamplerClient:
    """A client for the address in the settings."""
    from django.conf import settings

    from workers.sampler.address import sampler_address

    return SamplerClient(sampler_address(settings.SAMPLER_ADDRESS, settings.STEERSMAN_DATA))
