"""The task whose best answer is known: rewards that add up over tokens drawn freely from a small vocabulary.

A response is ``steps`` tokens; each of ``positive`` ids earns 1, each of ``negative`` ids costs 1, the others earn
nothing, and the reference policy draws every id alike. The policy with the most reward at a given KL, and the one with
the most reward - β·KL, then draws each token by itself with probability ∝ e^(strength · reward of the token)
(strength = 1/β): an exponential tilt, whose reward and KL are sums. Nothing here is sampled or tabulated.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_core.errors import ConfigError

BISECTIONS = 100  # halve an interval until floats have no middle left


class Point(NamedTuple):
    """A policy on the frontier: mean reward of a response, and nats a response from the reference."""

    reward: float
    kl: float


class BestOfN(NamedTuple):
    """Choosing the best of n reference responses, of equal ones the first.

    Attributes:
        reward: mean of the chosen one.
        kl: nats from the reference, ties taken into account.
        kl_bound: log n - (n - 1)/n, which it is without ties.
    """

    reward: float
    kl: float
    kl_bound: float


@dataclass(frozen=True)
class TokenBandit:
    """The task, and what is exactly true of it.

    Raises:
        ConfigError: a number outside its range; more rewarded ids than the vocabulary has; or none.
    """

    tokens: int = 32
    positive: int = 4
    negative: int = 4
    steps: int = 16

    def __post_init__(self) -> None:
        for name, least in (("tokens", 4), ("positive", 0), ("negative", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(name, getattr(self, name), f"at least {least}")
        for name in ("positive", "negative"):
            if self.positive + self.negative > self.tokens or getattr(self, name) == self.tokens:
                raise ConfigError(
                    name, getattr(self, name), f"so many that positive and negative fit in {self.tokens} tokens"
                )
        if not self.positive + self.negative:
            raise ConfigError("positive", 0, "at least 1, or a negative of at least 1: else there is nothing to learn")

    @property
    def counts(self) -> dict[int, int]:
        """How many ids there are of each reward."""
        return {1: self.positive, 0: self.tokens - self.positive - self.negative, -1: self.negative}

    def reward_of(self, token: int) -> int:
        """The first ``positive`` ids earn 1, the next ``negative`` ones cost 1."""
        return 1 if token < self.positive else -1 if token < self.positive + self.negative else 0

    def reward(self, response: Iterable[int]) -> float:
        """The sum over the tokens."""
        return float(sum(map(self.reward_of, response)))

    def tilt(self, strength: float) -> Point:
        """The policy whose tokens have probability ∝ e^(strength · reward); 0 is the reference."""
        best = max(reward for reward, count in self.counts.items() if count)
        weights = {reward: count * math.exp(strength * (reward - best)) for reward, count in self.counts.items()}
        total = sum(weights.values())
        reward = sum(reward * weight for reward, weight in weights.items()) / total
        log_partition = math.log(total / self.tokens) + strength * best
        return Point(self.steps * reward, self.steps * (strength * reward - log_partition))

    def optimum(self, beta: float) -> tuple[Point, float]:
        """The policy with the largest reward - β·KL, and that value: β · steps · log E[e^(reward/β)]."""
        if not beta > 0:
            raise ConfigError("beta", beta, "above 0")
        point = self.tilt(1 / beta)
        return point, point.reward - beta * point.kl

    def at_kl(self, kl: float) -> tuple[Point, float]:
        """The largest reward at this KL, and what another nat would add to it (1/strength)."""
        low, high = 0.0, 1.0
        while self.tilt(high).kl < kl and high < 1e6:
            high *= 2
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.tilt(middle).kl < kl else (low, middle)
        return self.tilt(high), 1 / high

    def reference_rewards(self) -> dict[int, float]:
        """The probability of each reward that a reference response can have."""
        found = {0: 1.0}
        for _ in range(self.steps):
            longer: dict[int, float] = {}
            for reached, probability in found.items():
                for reward, count in self.counts.items():
                    if count:
                        reward += reached
                        longer[reward] = longer.get(reward, 0.0) + probability * count / self.tokens
            found = longer
        return dict(sorted(found.items()))

    def best_of(self, n: int) -> BestOfN:
        """Best-of-n from the reference: the largest of n has distribution function F^n.

        Among responses of equal reward the choice is the reference's own, so its KL is that of the rewards.
        """
        if n < 1:
            raise ConfigError("n", n, "at least 1")
        reward = kl = below = 0.0
        for value, probability in self.reference_rewards().items():
            up_to = min(below + probability, 1.0)
            chosen = up_to**n - below**n
            reward += value * chosen
            kl += chosen * math.log(chosen / probability) if chosen > 0 else 0.0
            below = up_to
        return BestOfN(reward, kl, math.log(n) - (n - 1) / n)
