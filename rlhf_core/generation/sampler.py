"""Batched sampling: one prefill, then a step a token for the rows that still go on.

Every row draws its tokens with its own stream of uniform numbers, a function of its seed and the token's index alone,
so a response doesn't depend on which neighbours it had, on the batch's order or on anyone else's random state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import TrainingDiverged
from rlhf_core.generation.batch import check_tokens, pad_tokens
from rlhf_core.generation.cache import KeyValueCache
from rlhf_core.generation.filters import scores_to_draw_from
from rlhf_core.modules.palm import PaLM

COMPACT_BELOW = 0.75  # rows that ended leave once no more than this share of the batch goes on
FinishReason = Literal["end", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """One response.

    Attributes:
        tokens: what was drawn, the end token included where it was drawn, nothing after it.
        log_probs: log-probability of each token under the very distribution it was drawn from (temperature and
            filters included), in nats.
        finish_reason: "end" where the end token was drawn, "length" where the limit cut the response.
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
) -> list[Generation]:
    """Draw ``samples_per_prompt`` responses to each prompt.

    Args:
        palm: a causal PaLM; dropout is off while it generates.
        prompts: token ids, of any lengths, as they are; any id may occur in them, the end token too.
        sampling: ``max_new_tokens``, ``temperature``, ``top_k`` and ``top_p`` are used. A tiny temperature (1e-6)
            takes the likeliest token. ``max_prompt_tokens`` belongs to whoever encodes the prompts.
        end_id: a row stops when it draws this; None lets all rows run to the limit.
        seeds: one per response, those of prompt 0 first; each 0 to 2**64 - 1.
        finetune_scope: LoRA scope to answer with; None answers with the base.
        samples_per_prompt: responses to each prompt; the prompt itself is read once.
        on_step: called with (row, token) for each token as it is drawn.

    Returns:
        one Generation per seed, in order.

    Raises:
        ValueError: a prompt is empty or holds a token outside the vocabulary, or the seeds don't fit in number.
        TrainingDiverged: the model's logits are not finite.
    """
    if len(seeds) != len(prompts) * samples_per_prompt:
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts times {samples_per_prompt} samples")
    if not seeds:
        return []
    check_tokens(prompts, palm.num_tokens)
    was_training = palm.training
    palm.eval()
    try:
        with torch.inference_mode():
            batch = Decoding(palm, prompts, sampling, seeds, finetune_scope, samples_per_prompt)
            return batch.run(end_id, on_step)
    finally:
        palm.train(was_training)


class Decoding:
    """The state of one ``generate_batch``: the rows that go on, their cache, and what all rows have drawn."""

    def __init__(
        self,
        palm: PaLM,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        seeds: Sequence[int],
        finetune_scope: str | None,
        samples_per_prompt: int,
    ) -> None:
        self.palm = palm
        self.sampling = sampling
        self.finetune_scope = finetune_scope
        self.uniforms = torch.from_numpy(uniform_table(seeds, sampling.max_new_tokens)).to(palm.device)
        self.tokens: list[list[int]] = [[] for _ in seeds]
        self.log_probs: list[list[float]] = [[] for _ in seeds]
        self.rows = list(range(len(seeds)))  # which response each row of the cache belongs to
        self.cache, self.logits = self.prefill(prompts, samples_per_prompt)

    def prefill(self, prompts: Sequence[Sequence[int]], samples_per_prompt: int) -> tuple[KeyValueCache, Tensor]:
        """Read the prompts once; returns the cache and the logits (rows, vocabulary) after each prompt's last token."""
        palm = self.palm
        padded, lengths = pad_tokens(prompts, palm.device)
        cache = palm.new_cache(len(prompts), padded.shape[1] + self.sampling.max_new_tokens)
        hidden = palm(
            padded, lengths=lengths, cache=cache, finetune_scope=self.finetune_scope, return_only_embedding=True
        )
        cache.lengths += lengths
        last = hidden[torch.arange(len(prompts), device=palm.device), lengths - 1]
        logits = palm.to_logits(last)
        if samples_per_prompt > 1:
            copies = torch.arange(len(prompts), device=palm.device).repeat_interleave(samples_per_prompt)
            cache.select(copies)
            logits = logits[copies]
        return cache, logits

    def run(self, end_id: int | None, on_step: Callable[[int, int], None] | None) -> list[Generation]:
        """Draw until every row has ended or reached the limit."""
        going = [True] * len(self.rows)
        for index in range(self.sampling.max_new_tokens):
            drawn, log_probs = draw_tokens(
                self.logits,
                self.uniforms[:, index],
                temperature=self.sampling.temperature,
                top_k=self.sampling.top_k,
                top_p=self.sampling.top_p,
            )
            for place, (token, log_prob) in enumerate(zip(drawn.tolist(), log_probs.tolist(), strict=True)):
                if not going[place]:
                    continue
                if math.isnan(log_prob):
                    raise TrainingDiverged("the model's logits are not finite, so nothing can be drawn from them")
                row = self.rows[place]
                self.tokens[row].append(token)
                self.log_probs[row].append(log_prob)
                going[place] = token != end_id
                if on_step is not None:
                    on_step(row, token)
            count = sum(going)
            if not count or index + 1 == self.sampling.max_new_tokens:
                break
            if count <= COMPACT_BELOW * len(going):
                drawn = self.compact(going, drawn)
                going = [True] * count
            self.step(drawn)
        return [
            Generation(tokens, log_probs, "end" if tokens[-1] == end_id else "length")
            for tokens, log_probs in zip(self.tokens, self.log_probs, strict=True)
        ]

    def compact(self, going: list[bool], drawn: Tensor) -> Tensor:
        """Let the rows that ended leave the batch; returns ``drawn`` of those that stay."""
        kept = [place for place, goes_on in enumerate(going) if goes_on]
        places = torch.tensor(kept, device=drawn.device)
        self.cache.select(places)
        self.uniforms = self.uniforms[places]
        self.rows = [self.rows[place] for place in kept]
        return drawn[places]

    def step(self, drawn: Tensor) -> None:
        """Read the tokens just drawn; the logits after them replace the old ones."""
        logits = self.palm(drawn[:, None], cache=self.cache, finetune_scope=self.finetune_scope)
        self.cache.lengths += 1
        self.logits = logits[:, 0]


def uniform_table(seeds: Sequence[int], count: int) -> np.ndarray:
    """(seeds, count) float64 in [0, 1): row i is the Philox stream of seed i, whatever ``count`` and its neighbours.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
    """
    return np.stack([np.random.Generator(np.random.Philox(key=seed)).random(count) for seed in seeds])


def draw_tokens(
    logits: Tensor, uniforms: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at one uniform number.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) float64 in [0, 1).

    Returns:
        tokens (rows,) int64 and their log-probabilities (rows,) float64 under the distribution drawn from. A token
        of probability 0 is never drawn.
    """
    scores = scores_to_draw_from(logits, temperature, top_k, top_p)
    scores = scores - scores.amax(dim=-1, keepdim=True)
    # The sum in float64: over a large vocabulary the float32 one would be off by more than rule 5 allows.
    cumulative = scores.exp().cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    targets = torch.minimum(uniforms[:, None] * total, below_total)
    tokens = torch.searchsorted(cumulative, targets, right=True)
    tokens = tokens.clamp(max=logits.shape[-1] - 1)  # only NaN leads beyond, and shows in the log-probability
    log_probs = scores.gather(1, tokens).double() - total.log()
    return tokens[:, 0], log_probs[:, 0]
