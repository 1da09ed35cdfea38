"""Drawing tokens: one uniform number a row, and the cumulative distribution turned round."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf_core.generation.filters import scores_to_draw_from


def uniform_table(seeds: Sequence[int], count: int) -> np.ndarray:
    """(seeds, count) float64 in [0, 1): row i is the Philox stream of seed i, whatever ``count`` and its neighbours.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
    """
    return np.stack([np.random.Generator(np.random.Philox(key=seed)).random(count) for seed in seeds])


def draw_tokens(
    logits: Tensor, uniforms: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at one uniform number.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) float64 in [0, 1).

    Returns:
        tokens (rows,) int64 and their log-probabilities (rows,) float64 under the distribution drawn from, NaN where
        the logits are not finite. A token of probability 0 is never drawn.
    """
    scores = scores_to_draw_from(logits, temperature, top_k, top_p, min_p)
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp_()
    # The sum in float64: over a large vocabulary the float32 one would be off by more than rule 5 allows.
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # u < 1, but u * total may round to total itself, beyond which there is no token.
    targets = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, targets, right=True)
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)  # only NaN leads beyond, and shows in the log-probability
    log_probs = weights.gather(1, tokens).double().log_() - total.log()
    return tokens[:, 0], log_probs[:, 0]
