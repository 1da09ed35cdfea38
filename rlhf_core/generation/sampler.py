"""Continuous batching: rows that end leave the batch, and waiting prompts take their places.

Every row draws its tokens with its own stream of uniform numbers, a function of its seed and the token's index alone,
so a response doesn't depend on which neighbours it had, on the batch's order or on anyone else's random state.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import TrainingDiverged
from rlhf_core.generation.batch import check_tokens
from rlhf_core.generation.decoder import Decoder
from rlhf_core.generation.drawing import draw_tokens, uniform_table
from rlhf_core.generation.stopping import FinishReason, Stopping
from rlhf_core.modules.palm import PaLM


@dataclass(frozen=True, slots=True)
class Generation:
    """One response.

    Attributes:
        tokens: what was drawn, the end token included where it was drawn, nothing after it.
        log_probs: log-probability of each token under the very distribution it was drawn from (temperature and
            filters included), in nats.
        finish_reason: "end" where an end token was drawn or a stop string completed, "length" where the limit cut the
            response.
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: FinishReason


def generate_batch(
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    end_id: int | None,
    seeds: Sequence[int],
    finetune_scope: str | None = None,
    samples_per_prompt: int = 1,
    on_step: Callable[[int, int], None] | None = None,
    rows: int | None = None,
    stopping: Stopping | None = None,
) -> list[Generation]:
    """Draw ``samples_per_prompt`` responses to each prompt.

    Args:
        palm: a causal PaLM; its dropout is off here, whatever its mode.
        prompts: token ids, of any lengths, as they are; any id may occur in them, the end token too.
        sampling: ``max_new_tokens``, ``temperature``, ``top_k``, ``top_p`` and ``min_p`` are used. A tiny temperature
            (1e-6) takes the likeliest token. ``max_prompt_tokens`` belongs to whoever encodes the prompts.
        end_id: a row stops when it draws this; None lets all rows run to the limit.
        seeds: one per response, those of prompt 0 first; each 0 to 2**64 - 1.
        finetune_scope: LoRA scope to answer with; None answers with the base.
        samples_per_prompt: responses to each prompt; the prompt itself is read once.
        on_step: called with (row, token) for each token as it is drawn.
        rows: responses drawn at the same time at most, which bounds the memory; None draws all at once.
        stopping: other ends than ``end_id``, such as stop strings.

    Returns:
        one Generation per seed, in order.

    Raises:
        ValueError: a prompt is empty or holds a token outside the vocabulary, or the seeds don't fit in number.
        TrainingDiverged: the model's logits are not finite.
    """
    found = dict(
        generate_stream(
            palm,
            prompts,
            sampling=sampling,
            end_id=end_id,
            seeds=seeds,
            finetune_scope=finetune_scope,
            samples_per_prompt=samples_per_prompt,
            on_step=on_step,
            rows=rows,
            stopping=stopping,
        )
    )
    return [found[row] for row in range(len(found))]


def generate_stream(
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    end_id: int | None,
    seeds: Sequence[int],
    finetune_scope: str | None = None,
    samples_per_prompt: int = 1,
    on_step: Callable[[int, int], None] | None = None,
    rows: int | None = None,
    stopping: Stopping | None = None,
) -> Iterator[tuple[int, Generation]]:
    """As ``generate_batch``, but each response comes with its number as soon as it has ended.

    The weights must stay as they are until the last one has come.
    """
    if len(seeds) != len(prompts) * samples_per_prompt:
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts times {samples_per_prompt} samples")
    if rows is not None and rows < 1:
        raise ValueError(f"rows = {rows}: at least one response must be drawn at a time")
    check_tokens(prompts, palm.num_tokens)
    if not seeds:
        return iter(())
    batch = ContinuousBatch(
        palm.decoder(finetune_scope),
        sampling,
        rows=min(rows or len(seeds), len(seeds)),
        prompt_room=max(map(len, prompts)),
        stopping=with_end(stopping, end_id),
        on_step=on_step,
    )
    for number, prompt in enumerate(prompts):
        batch.submit(prompt, seeds[number * samples_per_prompt : (number + 1) * samples_per_prompt])
    return batch.run()


def with_end(stopping: Stopping | None, end_id: int | None) -> Stopping:
    """``stopping`` that stops at ``end_id`` too."""
    ends = () if end_id is None else (end_id,)
    if stopping is None:
        return Stopping(ends)
    return Stopping((*stopping.end_ids, *ends), stopping.strings, stopping.decode)


@dataclass(slots=True)
class Waiting:
    """A prompt and its responses that have no row yet."""

    prompt: Sequence[int]
    responses: deque[tuple[int, int]]  # number and seed
    read: tuple[list[Tensor], Tensor] | None = None  # what the cache held of it and its logits, once it was read


@dataclass(slots=True)
class Row:
    """A response that is being drawn."""

    number: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


class ContinuousBatch:
    """Responses being drawn, at most ``rows`` at a time, and prompts that wait for a row.

    Args:
        decoder: the policy.
        sampling: for all responses.
        rows: responses at a time.
        prompt_room: tokens of the longest prompt that may come.
        stopping: what ends a response before its limit.
        on_step: called with (number, token) for each token as it is drawn.
    """

    def __init__(
        self,
        decoder: Decoder,
        sampling: SamplingConfig,
        *,
        rows: int,
        prompt_room: int,
        stopping: Stopping,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.decoder = decoder
        self.sampling = sampling
        self.stopping = stopping
        self.on_step = on_step
        self.cache = decoder.new_cache(rows, prompt_room + sampling.max_new_tokens)
        device = decoder.embedding.device
        self.uniforms = torch.zeros(rows, sampling.max_new_tokens, dtype=torch.float64, device=device)
        self.drawn = torch.zeros(rows, dtype=torch.long, device=device)  # tokens drawn by each row
        self.last = torch.zeros(rows, dtype=torch.long, device=device)  # the last of them, which is to be read
        self.active: list[Row] = []  # row i of the cache is that of response active[i]
        self.waiting: deque[Waiting] = deque()
        self.submitted = 0

    def submit(self, prompt: Sequence[int], seeds: Sequence[int]) -> range:
        """Let a prompt wait for rows, one a seed; it may be called at any time, while others are being drawn.

        Returns:
            the numbers of its responses.

        Raises:
            ValueError: the prompt is empty, longer than there is room for, or holds a token outside the vocabulary.
        """
        check_tokens([prompt], len(self.decoder.embedding))
        room = self.cache.capacity - self.sampling.max_new_tokens
        if len(prompt) > room:
            raise ValueError(f"a prompt of {len(prompt)} tokens is longer than the {room} that there is room for")
        numbers = range(self.submitted, self.submitted + len(seeds))
        self.submitted = numbers.stop
        self.waiting.append(Waiting(prompt, deque(zip(numbers, seeds, strict=True))))
        return numbers

    def run(self) -> Iterator[tuple[int, Generation]]:
        """Draw until nothing goes on or waits; each response comes with its number as it ends."""
        while self.active or self.waiting:
            yield from self.step()

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Generation]]:
        """Draw one token a row, and the first ones of prompts that find a place. Returns what has ended, with numbers.

        Raises:
            TrainingDiverged: the model's logits are not finite.
        """
        ended: list[tuple[int, Generation]] = []
        count = len(self.active)
        holes = self.draw(range(count), self.decoder.step(self.last[:count], self.cache), ended) if count else []
        while self.waiting and (holes or len(self.active) < self.cache.rows):
            free = [*holes, *range(len(self.active), self.cache.rows)]
            places, logits = self.admit(free)
            holes = [*holes[len(places) :], *self.draw(places, logits, ended)]
        for place in sorted(holes, reverse=True):
            self.leave(place)
        return ended

    def admit(self, free: Sequence[int]) -> tuple[list[int], Tensor]:
        """Seat waiting responses at the ``free`` places, in order.

        Returns:
            the places taken, and (places, num_tokens) the logits after their prompts.
        """
        joining: list[tuple[Waiting, Sequence[int]]] = []
        seeds: list[int] = []
        places: list[int] = []
        while self.waiting and len(places) < len(free):
            item = self.waiting[0]
            own = free[len(places) :][: len(item.responses)]
            for place in own:
                number, seed = item.responses.popleft()
                self.active[place : place + 1] = [Row(number)]
                seeds.append(seed)
            joining.append((item, own))
            places += own
            if not item.responses:
                self.waiting.popleft()
        unread = [(item, own[0]) for item, own in joining if item.read is None]
        if unread:
            logits = self.decoder.read_prompts(
                [item.prompt for item, _ in unread], self.cache, [at for _, at in unread]
            )
        rows = []
        for item, own in joining:
            if item.read is None:
                first, following = own[0], own[1:]
                following_logits, logits = logits[:1], logits[1:]
                for place in following:
                    self.cache.copy(first, place)
                if item.responses:
                    item.read = self.cache.take(first), following_logits
            else:
                held, following_logits = item.read
                for place in own:
                    self.cache.put(place, held)
            rows.append(following_logits.expand(len(own), -1))
        index = torch.tensor(places, device=self.last.device)
        self.uniforms[index] = torch.from_numpy(uniform_table(seeds, self.sampling.max_new_tokens)).to(index.device)
        self.drawn[index] = 0
        return places, torch.cat(rows)

    def draw(self, places: Sequence[int], logits: Tensor, ended: list[tuple[int, Generation]]) -> list[int]:
        """Draw a token for the rows at ``places``; adds to ``ended`` what ends so, and returns the places of that."""
        index = torch.tensor(places, device=logits.device)
        sampling = self.sampling
        tokens, log_probs = draw_tokens(
            logits,
            self.uniforms[index, self.drawn[index]],
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        self.last[index] = tokens
        self.drawn[index] += 1
        holes = []
        for place, token, log_prob in zip(places, tokens.tolist(), log_probs.tolist(), strict=True):
            if math.isnan(log_prob):
                raise TrainingDiverged("the model's logits are not finite, so nothing can be drawn from them")
            row = self.active[place]
            row.tokens.append(token)
            row.log_probs.append(log_prob)
            if self.on_step is not None:
                self.on_step(row.number, token)
            is_end = self.stopping.is_end(row.tokens)
            if is_end or len(row.tokens) == sampling.max_new_tokens:
                ended.append((row.number, Generation(row.tokens, row.log_probs, "end" if is_end else "length")))
                holes.append(place)
        return holes

    def leave(self, place: int) -> None:
        """Let the row at ``place`` leave; the last one takes its place."""
        last = len(self.active) - 1
        if place != last:
            self.active[place] = self.active[last]
            for tensor in (self.uniforms, self.drawn, self.last):
                tensor[place] = tensor[last]
        self.active.pop()
        self.cache.remove(place)
