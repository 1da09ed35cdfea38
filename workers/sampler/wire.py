"""What the sampler and its clients say to each other; standard library only."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class DrawnSample:
    """One response and all it takes to draw it again, but for the policy and the settings.

    ``log_prob`` is summed over ``tokens``, in nats, under the distribution that they were drawn from.
    """

    seed: int
    prompt_tokens: list[int]
    tokens: list[int]
    text: str
    finish_reason: Literal["end", "length"]
    log_prob: float
