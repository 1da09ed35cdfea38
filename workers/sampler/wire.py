"""What the sampler and its clients say to each other; nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from rlhf_core.errors import SteersmanError


class Unscorable(SteersmanError):
    """Some of the responses have no score by a reward model, however often it is asked; others may have."""


class NotFinite(Unscorable):
    """The score of a response, or how sure the reward model is of it, is no finite number."""


class TokensUnread(Unscorable, ValueError):
    """A response has no tokens, or one that the reward model does not know."""


class PolicyUnscorable(Unscorable):
    """No response of this policy has a score by this reward model, now; those of others may have."""


class OtherTokens(PolicyUnscorable):
    """The reward model reads other tokens than the policy writes."""


class PolicyUnreadable(PolicyUnscorable):
    """The policy's manifest is missing, altered, or cannot be read."""


UNSCORABLE = {kind.__name__: kind for kind in (Unscorable, NotFinite, TokensUnread, OtherTokens, PolicyUnreadable)}
"""What a refusal stands for, by the name under which it crosses the socket."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a reward model says of responses, in their order.

    Attributes:
        reward_model: the id of the checkpoint that scored, as the sampler reports it.
        uncertainties: standard deviation, between the model's members and of each by itself; None for each where it is
            no ensemble.
    """

    reward_model: str
    scores: list[float]
    uncertainties: list[float | None]


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
