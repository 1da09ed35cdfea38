"""Masks made from lengths, and means and variances over what a mask keeps.

A mask is True where a token counts. It always comes from lengths, never from token ids, so a token that happens to
equal the padding id still counts. What lies outside a mask never enters a result, not even as NaN.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """(batch,) lengths -> (batch, size) bool, True at the first ``lengths[i]`` positions of row i."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def response_mask(prompt_lengths: Tensor, lengths: Tensor, size: int) -> Tensor:
    """(batch, size) bool, True from ``prompt_lengths[i]`` up to ``lengths[i]``: the response and its end token."""
    return length_mask(lengths, size) & ~length_mask(prompt_lengths, size)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of ``x`` where ``mask`` is True, over everything or along ``dim``; 0 where nothing is kept."""
    kept = torch.where(mask, x, 0.0)
    if dim is None:
        return kept.sum() / mask.sum().clamp(min=1)
    return kept.sum(dim) / mask.sum(dim).clamp(min=1)


def mean_of_rows(x: Tensor, mask: Tensor) -> Tensor:
    """(tokens, dim) in the order of ``mask``'s True places -> (batch, dim), the mean of each row; 0 where it has none.

    Args:
        mask: (batch, seq) bool; row and column of its True places are those of ``x``'s tokens.
    """
    sums = x.new_zeros(len(mask), x.shape[1]).index_add(0, mask.nonzero()[:, 0], x)
    return sums / mask.sum(dim=1, keepdim=True).clamp(min=1)


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Biased variance (divided by n, not n - 1) of ``x`` where ``mask`` is True."""
    return masked_mean((torch.where(mask, x, 0.0) - masked_mean(x, mask)).square(), mask)


def masked_whiten(x: Tensor, mask: Tensor, *, center: bool = True, epsilon: float = 1e-8) -> Tensor:
    """Scale ``x`` to variance 1 over the mask; 0 outside it.

    Args:
        x: any shape.
        mask: bool, same shape.
        center: True brings the mean to 0; False keeps the mean (for rewards, whose sign means something).
        epsilon: added to the variance, so that equal values give 0 (or their mean) and not NaN.

    Source: "The N implementation details of RLHF with PPO", detail on whitening (biased variance, ``shift_mean``).
    """
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_variance(x, mask) + epsilon)
    if not center:
        whitened = whitened + mean
    return torch.where(mask, whitened, 0.0)


class Sequences(NamedTuple):
    """Prompts and responses side by side in one right-padded tensor, with the lengths that all masks come from.

    Attributes:
        tokens: (batch, longest) int64.
        prompt_lengths: (batch,) tokens of each prompt.
        lengths: (batch,) tokens of each prompt and response together.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    lengths: Tensor

    @property
    def response_lengths(self) -> Tensor:
        return self.lengths - self.prompt_lengths

    def rows(self, index: Tensor) -> "Sequences":
        """Some rows, cut to the longest of them."""
        lengths = self.lengths[index]
        return Sequences(self.tokens[index, : int(lengths.max())], self.prompt_lengths[index], lengths)


def join_sequences(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, pad: int = 0, device: Any = None
) -> Sequences:
    """Put each response behind its prompt and pad on the right; ``pad`` is never read back, lengths are."""
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    prompt_lengths = torch.tensor([len(prompt) for prompt in prompts])
    lengths = torch.tensor([len(row) for row in rows])
    return Sequences(tokens.to(device), prompt_lengths.to(device), lengths.to(device))
