"""Drawing samples: the policies held in memory, the bounded queue before them, and the loop that batches what waits.

Handler threads call ``Sampler.draw`` and wait; one thread runs ``Sampler.run`` and is the only one that computes.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import SamplingConfig
from rlhf_core.errors import QueueFull, SteersmanError
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.modules.palm import PaLM
from rlhf_core.store import checkpoint_path
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from workers.sampler.wire import DrawnSample

POLICIES_HELD = 2


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


class Policies:
    """The policies used last, ``held`` at most. A new one is loaded beside the old ones, which go on serving."""

    def __init__(self, store: Path, device: torch.device, held: int = POLICIES_HELD) -> None:
        self.store = store
        self.device = device
        self.held = held
        self.policies: OrderedDict[str, Policy] = OrderedDict()
        self.lock = threading.Lock()
        self.loading = threading.Lock()

    def get(self, identity: str) -> Policy:
        """The policy of checkpoint ``identity``.

        Raises:
            CheckpointError: it is missing, altered, or no policy; the others stay.
        """
        found = self.held_now(identity)
        if found is not None:
            return found
        with self.loading:
            found = self.held_now(identity)
            if found is not None:
                return found
            palm, tokenizer, manifest = load_policy(checkpoint_path(self.store, identity), self.device)
            policy = Policy(manifest["id"], palm, tokenizer)
            with self.lock:
                self.policies[identity] = policy
                while len(self.policies) > self.held:
                    self.policies.popitem(last=False)
            return policy

    def held_now(self, identity: str) -> Policy | None:
        with self.lock:
            found = self.policies.get(identity)
            if found is not None:
                self.policies.move_to_end(identity)
            return found


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
        self.policies = Policies(store, torch.device(device))
        self.capacity = capacity
        self.batch_rows = batch_rows
        self.window_seconds = window_seconds
        self.waiting: list[Ticket] = []
        self.changed = threading.Condition()
        self.is_stopped = False
        self.drawn = 0
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

    def run(self) -> None:
        """Draw what waits, batch by batch, until ``stop``."""
        while not self.is_stopped:
            tickets = self.next_batch()
            if tickets:
                self.draw_batch(tickets)
        with self.changed:
            for ticket in self.waiting:
                ticket.finish(error=SamplerStopped("the sampler is shutting down"))
            self.waiting.clear()

    def stop(self) -> None:
        """Refuse what waits and let ``run`` return; a batch being drawn is broken off."""
        self.is_stopped = True
        with self.changed:
            self.changed.notify_all()

    def next_batch(self) -> list[Ticket]:
        """Wait for a request, then a little for others like it; take as many as fit, in order of arrival."""
        with self.changed:
            while not self.waiting and not self.is_stopped:
                self.changed.wait()
            if self.is_stopped:
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
        with self.policies.lock:
            held = [policy.id for policy in self.policies.policies.values()]
        return {
            "policies": held,
            "waiting": waiting,
            "capacity": self.capacity,
            "drawn": self.drawn,
            "samples_per_second": round(self.rows_per_second, 2),
            "device": str(self.policies.device),
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
