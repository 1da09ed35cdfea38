"""Drawing samples: the policies held in memory, the bounded queue before them, and the loop that batches what waits.

Handler threads call ``Sampler.draw`` and wait; one thread runs ``Sampler.run`` and is the only one that computes. While
nothing waits to be drawn, it scores responses by reward models (``Sampler.score``).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import SamplingConfig
from rlhf_core.errors import CheckpointError, QueueFull, SteersmanError
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.modules.palm import PaLM
from rlhf_core.store import checkpoint_path
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from workers.sampler.held import Held
from workers.sampler.scoring import Judge, ScoreTicket, load_judge, make_ticket, tokenizer_of
from workers.sampler.wire import DrawnSample, PolicyUnreadable, Scored

POLICIES_HELD = 2
REWARD_MODELS_HELD = 2
TOKENIZERS_KNOWN = 1024  # their hashes
SCORES_WAITING = 4  # requests; more are told to come again
SCORES_RETRY_SECONDS = 5.0


class DeadlinePassed(SteersmanError):
    """Whoever asked no longer waits: the samples were not drawn."""


class SamplerStopped(SteersmanError):
    """The sampler is shutting down."""


@dataclass(frozen=True)
class Policy:
    """A policy in memory; ``id`` is that of the checkpoint whose bytes were verified as it was loaded."""

    id: str
    palm: PaLM
    tokenizer: Tokenizer


def load_served(store: Path, identity: str, device: torch.device) -> Policy:
    """The policy of a checkpoint.

    Raises:
        CheckpointError: it is missing, altered, or no policy.
    """
    palm, tokenizer, manifest = load_policy(checkpoint_path(store, identity), device)
    return Policy(manifest["id"], palm, tokenizer)


@dataclass
class Ticket:
    """One request in the queue. ``deadline`` is on this process's monotonic clock."""

    policy: Policy
    prompts: Sequence[str]
    seeds: Sequence[int]
    sampling: SamplingConfig
    deadline: float
    arrived: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    samples: list[DrawnSample] = field(default_factory=list)
    error: Exception | None = None

    @property
    def rows(self) -> int:
        return len(self.seeds)

    def joins(self, other: "Ticket") -> bool:
        """Whether both can be drawn in one batch."""
        return self.policy is other.policy and self.sampling == other.sampling

    def finish(self, samples: list[DrawnSample] | None = None, error: Exception | None = None) -> None:
        self.samples, self.error = samples or [], error
        self.done.set()


class Sampler:
    """The queue and the loop.

    Args:
        store: the checkpoint store.
        device: where the policies compute.
        capacity: rows (responses) that may wait; more are refused with QueueFull.
        batch_rows: rows drawn at once.
        window_seconds: how long the first request of a batch waits for others.
    """

    def __init__(
        self,
        store: Path,
        device: torch.device | str = "cpu",
        *,
        capacity: int = 128,
        batch_rows: int = 32,
        window_seconds: float = 0.03,
    ) -> None:
        self.device = torch.device(device)
        self.policies: Held[Policy] = Held(lambda id_: load_served(store, id_, self.device), POLICIES_HELD)
        self.judges: Held[Judge] = Held(lambda id_: load_judge(store, id_, self.device), REWARD_MODELS_HELD)
        self.tokenizers: Held[str] = Held(lambda id_: tokenizer_of(store, id_), TOKENIZERS_KNOWN)
        self.capacity = capacity
        self.batch_rows = batch_rows
        self.window_seconds = window_seconds
        self.waiting: list[Ticket] = []
        self.to_score: list[ScoreTicket] = []
        self.changed = threading.Condition()
        self.is_stopped = False
        self.drawn = self.scored = 0
        self.rows_per_second = 0.0

    def draw(
        self,
        checkpoint: str,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: SamplingConfig,
        deadline_seconds: float,
    ) -> tuple[str, list[DrawnSample]]:
        """One response to each prompt; row i is a function of policy, prompt i, settings and seed i alone.

        Returns:
            the id of the checkpoint that made them, and the samples in order.

        Raises:
            QueueFull: too many rows wait already.
            DeadlinePassed: they could not be drawn in time.
            CheckpointError: the policy can not be loaded.
            ValueError: prompts and seeds differ in number, or there are none or too many.
        """
        if len(prompts) != len(seeds) or not 0 < len(seeds) <= self.batch_rows:
            raise ValueError(f"{len(prompts)} prompts, {len(seeds)} seeds: one seed each, 1 to {self.batch_rows} rows")
        deadline = time.monotonic() + deadline_seconds
        self.check_room(len(seeds))
        policy = self.policies.get(checkpoint)
        ticket = Ticket(policy, prompts, seeds, sampling, deadline)
        with self.changed:
            self.check_room(ticket.rows)
            self.waiting.append(ticket)
            self.changed.notify_all()
        if not ticket.done.wait(max(0.0, deadline - time.monotonic()) + 5.0):
            raise DeadlinePassed(f"no sample within {deadline_seconds:g} s")
        if ticket.error is not None:
            raise ticket.error
        return policy.id, ticket.samples

    def check_room(self, rows: int) -> None:
        with self.changed:
            if self.is_stopped:
                raise SamplerStopped("the sampler is shutting down")
            waiting = sum(ticket.rows for ticket in self.waiting)
            if waiting + rows > self.capacity:
                raise QueueFull(retry_after_seconds=max(1.0, round(waiting / max(self.rows_per_second, 1.0))))

    def score(
        self,
        reward_model: str,
        policy: str,
        prompts: Sequence[list[int]],
        responses: Sequence[list[int]],
        deadline_seconds: float,
    ) -> Scored:
        """What the reward model of checkpoint ``reward_model`` says of responses, once nothing waits to be drawn.

        Args:
            policy: the checkpoint that wrote the responses; it is not loaded.
            prompts, responses: token ids.

        Raises:
            QueueFull: enough waits to be scored already.
            DeadlinePassed: they could not be scored in time.
            CheckpointError: the reward model can not be loaded.
            PolicyUnreadable: the policy's manifest cannot be read.
            OtherTokens: the reward model reads other tokens than the policy writes.
            NotFinite: a score is not.
            TokensUnread: a response is empty, or a token is none.
            ValueError: prompts and responses differ in number, or there are none or too many.
        """
        if len(prompts) != len(responses) or not 0 < len(responses) <= self.batch_rows:
            raise ValueError(f"{len(prompts)} prompts, {len(responses)} responses: one each, 1 to {self.batch_rows}")
        end = time.monotonic() + deadline_seconds
        self.check_room_to_score()
        judge = self.judges.get(reward_model)
        try:
            tokenizer = self.tokenizers.get(policy)
        except CheckpointError as error:
            raise PolicyUnreadable(f"the policy cannot be read: {error}") from error
        ticket = make_ticket(judge, tokenizer, prompts, responses, end - time.monotonic())
        with self.changed:
            self.check_room_to_score()
            self.to_score.append(ticket)
            self.changed.notify_all()
        if not ticket.done.wait(max(0.0, end - time.monotonic()) + 5.0):
            raise DeadlinePassed(f"not scored within {deadline_seconds:g} s")
        return ticket.answer()

    def check_room_to_score(self) -> None:
        with self.changed:
            if self.is_stopped:
                raise SamplerStopped("the sampler is shutting down")
            if len(self.to_score) >= SCORES_WAITING:
                raise QueueFull(retry_after_seconds=SCORES_RETRY_SECONDS)

    def run(self) -> None:
        """Draw what waits, batch by batch, until ``stop``; score a few responses whenever nothing does."""
        while not self.is_stopped:
            tickets = self.next_batch()
            if tickets:
                self.draw_batch(tickets)
            else:
                self.score_some()
        stopped = SamplerStopped("the sampler is shutting down")
        with self.changed:
            for ticket in self.waiting:
                ticket.finish(error=stopped)
            for asked in self.to_score:
                asked.finish(error=stopped)
            self.waiting.clear()
            self.to_score.clear()

    def score_some(self) -> None:
        """Score the next few responses of the request that came first; whatever fails reaches who asked alone."""
        with self.changed:
            ticket = self.to_score[0] if self.to_score else None
        if ticket is None:
            return
        if ticket.deadline <= time.monotonic():
            ticket.finish(error=DeadlinePassed("the deadline passed while the request to score waited"))
        else:
            try:
                ticket.go_on()
            except Exception as error:
                ticket.finish(error=error)
        if ticket.done.is_set():
            with self.changed:
                self.to_score.remove(ticket)
                self.scored += len(ticket.scores)

    def stop(self) -> None:
        """Refuse what waits and let ``run`` return; a batch being drawn is broken off."""
        self.is_stopped = True
        with self.changed:
            self.changed.notify_all()

    def next_batch(self) -> list[Ticket]:
        """Wait for a request, then a little for others like it; take as many as fit, in order of arrival.

        Empty: the sampler is to stop, or there is something to score and nothing to draw.
        """
        with self.changed:
            while not self.waiting and not self.to_score and not self.is_stopped:
                self.changed.wait()
            if self.is_stopped or not self.waiting:
                return []
            until = self.waiting[0].arrived + self.window_seconds
            while len(self.joinable()) == len(self.waiting) and time.monotonic() < until and not self.is_stopped:
                self.changed.wait(max(0.001, until - time.monotonic()))
            chosen = self.joinable()
            self.waiting = [ticket for ticket in self.waiting if ticket not in chosen]
            return chosen

    def joinable(self) -> list[Ticket]:
        chosen: list[Ticket] = []
        rows = 0
        for ticket in self.waiting:
            if ticket.joins(self.waiting[0]) and rows + ticket.rows <= self.batch_rows:
                chosen.append(ticket)
                rows += ticket.rows
        return chosen

    def draw_batch(self, tickets: list[Ticket]) -> None:
        now = time.monotonic()
        late = [ticket for ticket in tickets if ticket.deadline <= now]
        tickets = [ticket for ticket in tickets if ticket.deadline > now]
        for ticket in late:
            ticket.finish(error=DeadlinePassed("the deadline passed while the request waited"))
        if not tickets:
            return
        try:
            samples = draw_samples(tickets, self.make_watch(max(ticket.deadline for ticket in tickets)))
        except Exception as error:  # whatever fails must reach those who wait; the loop goes on
            for ticket in tickets:
                ticket.finish(error=error)
            return
        rate = len(samples) / max(time.monotonic() - now, 1e-6)
        self.rows_per_second = rate if not self.drawn else 0.8 * self.rows_per_second + 0.2 * rate
        self.drawn += len(samples)
        for ticket in tickets:
            ticket.finish(samples[: ticket.rows])
            samples = samples[ticket.rows :]

    def make_watch(self, deadline: float) -> Callable[[int, int], None]:
        """Called with each token: breaks the batch off once nobody waits for it."""

        def watch(row: int, token: int) -> None:
            if self.is_stopped:
                raise SamplerStopped("the sampler is shutting down")
            if time.monotonic() > deadline:
                raise DeadlinePassed("the deadline passed while the samples were drawn")

        return watch

    def health(self) -> dict[str, Any]:
        """What the sampler is doing, in numbers."""
        with self.changed:
            waiting = sum(ticket.rows for ticket in self.waiting)
        return {
            "policies": self.policies.ids(),
            "reward_models": self.judges.ids(),
            "waiting": waiting,
            "capacity": self.capacity,
            "drawn": self.drawn,
            "samples_per_second": round(self.rows_per_second, 2),
            "scored": self.scored,
            "device": str(self.device),
        }


def draw_samples(tickets: Sequence[Ticket], watch: Callable[[int, int], None]) -> list[DrawnSample]:
    """The samples of all tickets, in order; all have the same policy and settings."""
    policy, sampling = tickets[0].policy, tickets[0].sampling
    texts = [text for ticket in tickets for text in ticket.prompts]
    seeds = [seed for ticket in tickets for seed in ticket.seeds]
    prompts = [encode_prompt(policy.tokenizer, text, sampling.max_prompt_tokens) for text in texts]
    drawn = generate_batch(
        policy.palm, prompts, sampling=sampling, end_id=policy.tokenizer.end, seeds=seeds, on_step=watch
    )
    return [
        DrawnSample(
            seed=seed,
            prompt_tokens=prompt,
            tokens=generation.tokens,
            text=policy.tokenizer.decode(generation.tokens),
            finish_reason=generation.finish_reason,
            log_prob=sum(generation.log_probs),
        )
        for seed, prompt, generation in zip(seeds, prompts, drawn, strict=True)
    ]
