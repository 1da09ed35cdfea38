"""Scoring responses by a reward model that is held in memory, a few at a time so that drawing never waits long."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rlhf_core.checkpoint import load_reward_model
from rlhf_core.rewards import ModelReward, reward_of
from rlhf_core.store import checkpoint_path, verify
from workers.sampler.wire import NotFinite, OtherTokens, Scored, TokensUnread

PIECE_ROWS = 8  # scored at once: a draw that comes in waits for no more


@dataclass(frozen=True)
class Judge:
    """A reward model in memory; ``id`` is that of the checkpoint whose bytes were verified as it was loaded."""

    id: str
    reward: ModelReward
    tokenizer_sha256: str

    @property
    def num_tokens(self) -> int:
        return int(self.reward.reward_model.palm.config.num_tokens)


def load_judge(store: Path, identity: str, device: torch.device) -> Judge:
    """The reward model of a checkpoint.

    Raises:
        CheckpointError: it is missing, altered, or no reward model.
    """
    reward_model, tokenizer, manifest = load_reward_model(checkpoint_path(store, identity), device)
    return Judge(manifest["id"], reward_of(reward_model, tokenizer.end), tokenizer.sha256)


def tokenizer_of(store: Path, identity: str) -> str:
    """The SHA-256 of the tokenizer that a checkpoint reads and writes by. Raises CheckpointError as above."""
    return str(verify(checkpoint_path(store, identity))["tokenizer_sha256"])


@dataclass
class ScoreTicket:
    """One request to score responses. ``deadline`` is on this process's monotonic clock."""

    judge: Judge
    prompts: Sequence[list[int]]
    responses: Sequence[list[int]]
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    scores: list[float] = field(default_factory=list)
    uncertainties: list[float | None] = field(default_factory=list)
    error: Exception | None = None

    def go_on(self) -> None:
        """Score the next few responses; ``done`` is set after the last.

        Raises:
            NotFinite: a score or an uncertainty is not.
        """
        at = slice(len(self.scores), len(self.scores) + PIECE_ROWS)
        scores, uncertainty = self.judge.reward.score_with_uncertainty(list(self.prompts[at]), list(self.responses[at]))
        found = scores.tolist()
        doubts = [] if uncertainty is None else uncertainty.tolist()
        if not all(map(math.isfinite, [*found, *doubts])):
            raise NotFinite(f"reward model {self.judge.id[:12]} gives scores that are not finite: {found} ± {doubts}")
        self.scores += found
        self.uncertainties += doubts or [None] * len(found)
        if len(self.scores) == len(self.responses):
            self.done.set()

    def finish(self, error: Exception) -> None:
        self.error = error
        self.done.set()

    def answer(self) -> Scored:
        """What was found. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        return Scored(self.judge.id, self.scores, self.uncertainties)


def make_ticket(
    judge: Judge, tokenizer_sha256: str, prompts: Sequence[list[int]], responses: Sequence[list[int]], seconds: float
) -> ScoreTicket:
    """A request that can be met.

    Args:
        tokenizer_sha256: of the policy that wrote the responses.
        seconds: until the deadline.

    Raises:
        OtherTokens: the reward model reads other tokens than the policy writes.
        TokensUnread: a response is empty, or a token is none of the tokenizer's.
    """
    if judge.tokenizer_sha256 != tokenizer_sha256:
        raise OtherTokens(f"reward model {judge.id[:12]} reads other tokens than the policy writes")
    if not all(responses):
        raise TokensUnread("a response has no tokens")
    if any(not 0 <= token < judge.num_tokens for row in (*prompts, *responses) for token in row):
        raise TokensUnread(f"a token is not between 0 and {judge.num_tokens - 1}")
    return ScoreTicket(judge, prompts, responses, time.monotonic() + seconds)
