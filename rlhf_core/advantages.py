"""Generalised advantage estimation over responses of different lengths."""

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


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask; 1 is a perfect critic, 0 one no better than the mean.

    Returns of no variance have nothing to explain: the answer is then 0.
    """
    kept_returns, residuals = returns[mask], (returns - values)[mask]
    variance = kept_returns.var(correction=0)
    if not float(variance) > 0.0:
        return 0.0
    return float(1.0 - residuals.var(correction=0) / variance)
