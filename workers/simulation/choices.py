"""How a taste becomes a key: the difference in worth plus logistic noise, as Bradley and Terry have it."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from workers.simulated import logistic_noise
from workers.simulation.tastes import Scale, Taste, judge

STRENGTHS = (1.0, 2.5)
"""Beyond the first a preference is clear, beyond the second strong; in units of the logistic noise."""
SCORE_STEPS = (-0.8416, -0.2533, 0.2533, 0.8416)
"""Fifths of the normal distribution: of the base policy's responses about as many get each of the scores 1 to 5."""
LOGISTIC_VARIANCE = math.pi**2 / 3


@dataclass(frozen=True, slots=True)
class Rater:
    """A taste, on its scale, with doubts.

    Attributes:
        ability: factor before a difference of one standard deviation; 0 chooses blindly.
        seed: makes the doubts; the same texts get the same verdict, whichever stands left and whenever they come.
    """

    taste: Taste
    scale: Scale
    ability: float
    seed: str

    def choose(self, prompt: str, left: str, right: str) -> str:
        """The key for a pair: left is preferred with probability sigma(ability * (taste(left) - taste(right)) / sd).

        The noisy difference gives the strength too. Where the taste makes no difference at all, the two are equal.
        """
        difference = (judge(self.taste, prompt, left) - judge(self.taste, prompt, right)) / self.scale.sd
        if difference == 0:
            return "4"
        first, second = sorted((left, right))
        noise = self.noise(prompt, first, second)
        felt = self.ability * difference + (noise if left == first else -noise)
        strength = 1 + sum(abs(felt) > border for border in STRENGTHS)
        return str(4 - strength if felt > 0 else 4 + strength)

    def score(self, prompt: str, response: str) -> str:
        """The key for a single response, 1 to 5: where its noisy worth lies among the base policy's."""
        place = (judge(self.taste, prompt, response) - self.scale.mean) / self.scale.sd
        felt = self.ability * place + self.noise(prompt, response)
        spread = math.sqrt(self.ability**2 + LOGISTIC_VARIANCE)
        return str(1 + sum(felt > border * spread for border in SCORE_STEPS))

    def rank(self, prompt: str, answers: Sequence[str]) -> list[str]:
        """The place of each answer, by its noisy worth; the same text twice shares a place.

        The noise has Gumbel's distribution, so that an order is a draw of the model of Plackett and Luce, and any two
        of the answers stand to each other as in ``choose``: the difference of two such draws is logistic.
        """
        felt = [
            self.ability * judge(self.taste, prompt, text) / self.scale.sd
            - math.log(-math.log(self.uniform(prompt, text)))
            for text in answers
        ]
        order = sorted(set(felt), reverse=True)
        return [str(order.index(one) + 1) for one in felt]

    def noise(self, *texts: str) -> float:
        """A draw of the standard logistic distribution that belongs to these texts and this rater."""
        return logistic_noise(self.uniform(*texts))

    def uniform(self, *texts: str) -> float:
        """An even draw between 0 and 1, neither of which it is, that belongs to these texts and this rater."""
        digest = hashlib.sha256("\0".join((self.seed, *texts)).encode("utf-8", "surrogatepass")).digest()
        return (int.from_bytes(digest[:7]) + 0.5) / 2**56
