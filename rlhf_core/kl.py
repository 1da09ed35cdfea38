"""Divergence of a policy from its reference: estimators, the per-token penalty and the adaptive coefficient.

All estimators take log-probabilities of the *drawn* tokens, at the temperature they were drawn with, under the policy
and under the frozen reference. The estimator names k1, k2, k3 are those of Schulman, "Approximating KL divergence"
(2020, http://joschu.net/blog/kl-approx.html).
"""

import torch
from torch import Tensor


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log π - log π_ref: unbiased and signed. Its gradient has mean zero: it belongs in the reward, not in a loss."""
    return log_probs - reference_log_probs


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """½ (log π - log π_ref)²: biased as a number, but on fresh samples its gradient is that of KL(π ‖ π_ref).

    The estimator to use where the penalty stands in the loss (arXiv 2506.09477, 2512.21852).
    """
    return 0.5 * (log_probs - reference_log_probs).square()


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """π_ref/π - 1 - log(π_ref/π): unbiased and never negative; for reporting (as a loss it pushes the other KL)."""
    difference = reference_log_probs - log_probs
    return torch.expm1(difference) - difference


def sequence_kl(per_token: Tensor, mask: Tensor) -> Tensor:
    """(batch, response) per-token estimates -> nats per response: the sum over a row's tokens, the mean over rows."""
    return torch.where(mask, per_token, 0.0).sum(dim=1).mean()


def penalised_rewards(
    scores: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, *, coefficient: float
) -> Tensor:
    """Reward per token: -β·k1 at each token, and the score of the response on its last valid token.

    Args:
        scores: (batch,) score of each whole response.
        log_probs: (batch, response) under the policy that drew the tokens.
        reference_log_probs: (batch, response) under the frozen reference, same temperature.
        mask: (batch, response) bool; each row keeps at least one token and padding stands on the right.
        coefficient: β, reward given up for a nat.

    Returns:
        (batch, response), detached from any graph: the penalty is a reward, and no gradient flows through a reward.

    Raises:
        ValueError: a row of the mask is empty.

    Source: Ziegler et al. 2019, equation 2, https://arxiv.org/abs/1909.08593
    """
    lengths = mask.sum(dim=1)
    if int(lengths.min()) < 1:
        raise ValueError("a response has no tokens, so its score has nowhere to stand")
    rewards = torch.where(mask, -coefficient * k1(log_probs.detach(), reference_log_probs.detach()), 0.0)
    rewards[torch.arange(len(lengths)), lengths - 1] += scores.detach()
    return rewards


class AdaptiveKLController:
    """Moves β so that the KL of a response approaches a target.

    β ← β · (1 + clip(KL / target - 1, ±0.2) · n / horizon) after n responses. Without a target β stays as it is.

    Args:
        coefficient: β at the start.
        target: nats a response, or None.
        horizon: responses over which a full error of 0.2 changes β by a fifth.

    Source: Ziegler et al. 2019, section 2.2, https://arxiv.org/abs/1909.08593 (there β0 0.15, target 6, horizon 10,000)
    """

    ERROR_LIMIT = 0.2

    def __init__(self, coefficient: float, target: float | None, horizon: int) -> None:
        self.coefficient = coefficient
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, responses: int) -> float:
        """Take in the mean KL of ``responses`` responses; gives the new β."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -self.ERROR_LIMIT), self.ERROR_LIMIT)
            self.coefficient *= max(0.0, 1.0 + error * responses / self.horizon)
        return self.coefficient
