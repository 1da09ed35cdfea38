"""Advantages: of tokens by generalised estimation over responses of different lengths, of responses by their group."""

from typing import Literal

import torch
from torch import Tensor


def estimate_advantages(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates; not normalised.

    Args:
        rewards: (batch, response) reward per token, in reward-model units, KL penalty included.
        values: (batch, response) the critic's estimate at the state *before* each token, same units.
        mask: (batch, response) bool, True for a response token; padding stands on the right.
        gamma: discount per token, 0 to 1.
        lam: 0 gives the one-step TD error, 1 the Monte Carlo return less the value.

    Returns:
        (batch, response) advantages, exactly 0 where ``mask`` is False. The value after the last token is 0: a
        response that was cut off counts as ended, since nothing more is ever paid for it.

    Raises:
        ValueError: the three tensors differ in shape.

    Source: Schulman et al. 2016, equation 16, https://arxiv.org/abs/1506.02438
    """
    if not rewards.shape == values.shape == mask.shape:
        raise ValueError(f"shapes differ: {rewards.shape=}, {values.shape=}, {mask.shape=}")
    advantages = torch.zeros_like(rewards)
    running = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, 0.0)
        next_value = torch.where(mask[:, t], values[:, t], 0.0)
        advantages[:, t] = running
    return advantages


def estimate_returns(advantages: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """What the critic is to learn: unwhitened advantages plus the values they were measured from; 0 off the mask."""
    return torch.where(mask, advantages + values, 0.0)


SAME_SCORE = 1e-5  # times the largest score of a group, or 1: what rounding may part equal scores by
Baseline = Literal["leave-one-out", "mean", "mean-deviation"]


def group_advantages(scores: Tensor, group_size: int, baseline: Baseline = "leave-one-out") -> Tensor:
    """How much better each response is than the others to the same prompt.

    Args:
        scores: (responses,), those to one prompt side by side.
        group_size: responses to each prompt, at least 2.
        baseline: "leave-one-out" subtracts the mean of the *other* responses, which leaves the gradient unbiased
            (RLOO, Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740); "mean" that of all (Dr. GRPO, Liu et al.
            2025, https://arxiv.org/abs/2503.20783), which is (group_size - 1) / group_size of it; "mean-deviation"
            also divides by their biased standard deviation (GRPO, Shao et al. 2024, https://arxiv.org/abs/2402.03300),
            which weighs prompts of nearly equal answers up.

    Returns:
        (responses,), exactly 0 in a group whose scores are all equal (``are_flat``): it has nothing to teach.

    Raises:
        ValueError: the scores make no whole groups, or groups of one.
    """
    if scores.ndim != 1 or group_size < 2 or len(scores) % group_size:
        raise ValueError(f"scores of shape {tuple(scores.shape)} make no whole groups of {group_size}, at least 2 each")
    groups = scores.view(-1, group_size)
    above = groups - groups.mean(dim=1, keepdim=True)
    if baseline == "leave-one-out":
        above = above * (group_size / (group_size - 1))
    elif baseline == "mean-deviation":
        above = above / above.square().mean(dim=1, keepdim=True).sqrt().clamp(min=torch.finfo(above.dtype).tiny)
    return torch.where(are_flat(scores, group_size)[:, None], 0.0, above).flatten()


def are_flat(scores: Tensor, group_size: int) -> Tensor:
    """(groups,) bool: whether all scores of a group are equal to rounding.

    Equal responses, read in one batch, may differ in a score's last bits, and to divide by the deviation would make
    whole ones of that.
    """
    groups = scores.view(-1, group_size)
    return groups.amax(dim=1) - groups.amin(dim=1) <= SAME_SCORE * groups.abs().amax(dim=1).clamp(min=1)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask; 1 is a perfect critic, 0 one no better than the mean.

    Returns of no variance have nothing to explain: the answer is then 0.
    """
    kept_returns, residuals = returns[mask], (returns - values)[mask]
    variance = kept_returns.var(correction=0)
    if not float(variance) > 0.0:
        return 0.0
    return float(1.0 - residuals.var(correction=0) / variance)
