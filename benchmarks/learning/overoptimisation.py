"""A reward that saturates under a proxy that does not: what is exactly true of it, and curves fitted to what is found.

Of each liked id only two occurrences count, each occurrence of any id beyond the second costs 0.75, and a disliked id
costs 1 each time. A linear proxy can only weigh ids, so the policy that it likes most repeats a few of them: the proxy
rises all the way and the true reward turns.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.learning.frontier import BISECTIONS, TokenBandit
from benchmarks.learning.reward_models import token_counts

COUNTED = 2  # occurrences of a liked id
REPEAT_COST = 0.75


class Tilt(NamedTuple):
    """The exactly tilted policy of a linear proxy at one KL."""

    kl: float
    true: float
    proxy: float


def true_rewards(bandit: TokenBandit, responses: Tensor) -> Tensor:
    """(responses, steps) ids -> (responses,)."""
    counts = token_counts(responses, bandit.tokens)
    liked = counts[:, : bandit.positive].clamp(max=COUNTED).sum(dim=1)
    disliked = counts[:, bandit.positive : bandit.positive + bandit.negative].sum(dim=1)
    return liked - REPEAT_COST * (counts - COUNTED).clamp(min=0).sum(dim=1) - disliked


def expected_true_reward(bandit: TokenBandit, probabilities: Tensor) -> float:
    """The mean true reward of responses whose tokens are drawn independently: each id's count is binomial."""
    steps = bandit.steps
    counts = torch.arange(steps + 1, dtype=torch.float64)
    ways = torch.tensor([math.comb(steps, count) for count in range(steps + 1)], dtype=torch.float64)
    p = probabilities.double()[:, None]
    mass = ways * p**counts * (1 - p) ** (steps - counts)
    counted = (mass * counts.clamp(max=COUNTED)).sum(dim=1)
    repeated = (mass * (counts - COUNTED).clamp(min=0)).sum(dim=1)
    disliked = probabilities[bandit.positive : bandit.positive + bandit.negative].sum()
    return float(counted[: bandit.positive].sum() - REPEAT_COST * repeated.sum() - steps * disliked)


def tilt_at_kl(bandit: TokenBandit, weights: Tensor, kl: float) -> Tilt:
    """The policy with the largest linear proxy at this KL from uniform: token probabilities ∝ e^(strength · weight)."""

    def at(strength: float) -> tuple[Tensor, float]:
        log_probabilities = torch.log_softmax(weights * strength, dim=0)
        probabilities = log_probabilities.exp()
        return probabilities, bandit.steps * float(
            (probabilities * (log_probabilities + math.log(bandit.tokens))).sum()
        )

    low, high = 0.0, 1.0
    while at(high)[1] < kl and high < 1e6:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[1] < kl else (low, middle)
    probabilities, reached = at(high)
    proxy = bandit.steps * float((probabilities * weights).sum())
    return Tilt(reached, expected_true_reward(bandit, probabilities), proxy)


def best_of_n_curve(true: Tensor, proxy: Tensor, sizes: Sequence[int]) -> list[Tilt]:
    """Best-of-n by the proxy from (pool,) reference responses, in disjoint groups; KL as log n - (n - 1)/n."""
    curve = []
    for n in sizes:
        groups = len(true) // n
        chosen = proxy[: groups * n].view(groups, n).argmax(dim=1, keepdim=True)
        curve.append(
            Tilt(
                math.log(n) - (n - 1) / n,
                float(true[: groups * n].view(groups, n).gather(1, chosen).mean()),
                float(proxy[: groups * n].view(groups, n).gather(1, chosen).mean()),
            )
        )
    return curve
