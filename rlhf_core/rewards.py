"""Rewards: whatever says how good responses are, a model, a function, a rule or several (docs/algorithms/rewards.md).

A reward takes prompts and responses as lists of token ids, row by row, and gives (rows,) finite numbers. Whatever can
be called so is one. What others wrote is checked: what is no number is refused, with its row and how its text begins.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from rlhf_core.config import EnsembleScoring
from rlhf_core.ensembles import check_scoring, combine_scores, disagreement
from rlhf_core.errors import ConfigError, FunctionError, ScoreError
from rlhf_core.functions import TextFunction, ask, ask_many, describe
from rlhf_core.generation.best_of_n import Score, as_scores, rows_not_finite
from rlhf_core.masking import join_sequences
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.text.template import cut_response
from rlhf_core.text.tokenizer import Tokenizer

Reward: TypeAlias = Score
Rows: TypeAlias = list[list[int]]
TOKENS_SHOWN = 8  # of a response that a message names


class ModelReward:
    """A reward model as a reward of whole responses; what stands after the first end token is not read."""

    def __init__(self, reward_model: RewardModel, end_id: int | None) -> None:
        self.reward_model = reward_model.eval()  # no dropout: equal responses get equal scores
        self.end_id = end_id

    def read(self, prompts: Rows, responses: Rows) -> tuple[Tensor, Tensor | None]:
        """(members, rows) normalised scores, and variances; see ``RewardModel.read``."""
        end = self.end_id
        ended = responses if end is None else [cut_response(response, end) for response in responses]
        return self.reward_model.read(join_sequences(prompts, ended, device=self.reward_model.palm.device))

    def __call__(self, prompts: Rows, responses: Rows) -> Tensor:
        return self.reward_model.combine(*self.read(prompts, responses))

    def uncertainty(self, prompts: Rows, responses: Rows) -> Tensor:
        """(rows,) standard deviation of the score, in its units; see ``RewardModel.uncertainty``."""
        return self.reward_model.uncertainty_of(*self.read(prompts, responses))

    def score_with_uncertainty(self, prompts: Rows, responses: Rows) -> tuple[Tensor, Tensor | None]:
        """(rows,) scores and (rows,) uncertainty, None for one model alone. Every member reads the texts once."""
        read = self.read(prompts, responses)
        is_alone = self.reward_model.members == 1
        return self.reward_model.combine(*read), None if is_alone else self.reward_model.uncertainty_of(*read)


def reward_of(reward_model: RewardModel, end_id: int | None) -> ModelReward:
    """A reward model as a reward of responses that end with ``end_id``; None reads them to their last token."""
    return ModelReward(reward_model, end_id)


def reward_from_function(function: TextFunction, tokenizer: Tokenizer, role: str = "reward") -> Reward:
    """A function of texts as a reward.

    Args:
        function: takes a prompt and a response and gives a number; or, marked by ``takes_batches``, a list of prompts
            and an equally long list of responses, and gives a number for each. Texts come exactly as they were read and
            written: without special tokens, a response with the blank that it begins with.
        tokenizer: turns token ids into the texts.
        role: what messages call it.

    Raises:
        FunctionError: when called, the function fails or gives something else than finite numbers, one a response.
    """

    def score(prompts: Rows, responses: Rows) -> Tensor:
        asked = [tokenizer.decode(prompt) for prompt in prompts]
        given = [tokenizer.decode(response) for response in responses]
        if getattr(function, "takes_batches", False):
            return torch.tensor(ask_many(function, role, asked, given))
        pairs = enumerate(zip(asked, given, strict=True))
        return torch.tensor([ask(function, role, prompt, response, row) for row, (prompt, response) in pairs])

    return score


# Rules


def pattern_reward(pattern: str, tokenizer: Tokenizer) -> Reward:
    """How often a regular expression is found in a response's text, counted without overlap.

    Raises:
        ConfigError: ``pattern`` is no regular expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError("pattern", pattern, f"a regular expression ({error})") from error

    def score(prompts: Rows, responses: Rows) -> Tensor:
        texts = [tokenizer.decode(response) for response in responses]
        return torch.tensor([float(sum(1 for _ in expression.finditer(text))) for text in texts])

    return score


def token_reward(wanted: Collection[int] = (), banned: Collection[int] = (), *, once: bool = False) -> Reward:
    """The wanted tokens of a response less the banned ones.

    Args:
        once: count each kind once a response at most: +1 where a wanted token stands, -1 where a banned one does.

    Raises:
        ConfigError: neither is named, or one token is both.
    """
    liked, disliked = frozenset(wanted), frozenset(banned)
    if not liked and not disliked:
        raise ConfigError("wanted", wanted, "some token ids, or else some that are banned")
    if both := liked & disliked:
        raise ConfigError("banned", sorted(both), "tokens that are not wanted as well")

    def score(prompts: Rows, responses: Rows) -> Tensor:
        counts = [(sum(token in liked for token in row), sum(token in disliked for token in row)) for row in responses]
        if once:
            counts = [(min(good, 1), min(bad, 1)) for good, bad in counts]
        return torch.tensor([float(good - bad) for good, bad in counts])

    return score


def length_reward(shortest: int, longest: int) -> Reward:
    """0 for a response of ``shortest`` to ``longest`` tokens, its end token included; -1 for each token outside.

    Raises:
        ConfigError: no length lies in between.
    """
    if not 0 <= shortest <= longest:
        raise ConfigError("longest", longest, f"at least shortest, which is {shortest}, and that at least 0")

    def score(prompts: Rows, responses: Rows) -> Tensor:
        lengths = [len(response) for response in responses]
        return torch.tensor([-float(max(shortest - length, length - longest, 0)) for length in lengths])

    return score


def end_reward(end_id: int) -> Reward:
    """1 for a response that ends by itself, with ``end_id``; 0 for one that the length limit cut."""

    def score(prompts: Rows, responses: Rows) -> Tensor:
        return torch.tensor([float(response[-1:] == [end_id]) for response in responses])

    return score


# Several


class Composite:
    """A weighted sum of named rewards.

    Args:
        parts: rewards by name.
        weights: by name; a part without one counts once. A negative weight makes a reward a cost.

    Raises:
        ConfigError: there is no part, or a weight is no finite number or belongs to no part.

    Attributes:
        latest: mean of each part over the responses of the latest call, before its weight, for logs.
    """

    def __init__(self, parts: Mapping[str, Reward], weights: Mapping[str, float] | None = None) -> None:
        if not parts:
            raise ConfigError("parts", {}, "one reward at least")
        given = dict(weights or {})
        for name, weight in given.items():
            if name not in parts:
                raise ConfigError("weights", name, "of the parts: " + ", ".join(parts))
            if not math.isfinite(weight):
                raise ConfigError(f"weights[{name!r}]", weight, "a finite number")
        self.parts = dict(parts)
        self.weights = {name: float(given.get(name, 1.0)) for name in parts}
        self.latest: dict[str, float] = {}

    def values(self, prompts: Rows, responses: Rows) -> dict[str, Tensor]:
        """(rows,) of each part, before its weight."""
        return {name: ask_reward(part, name, prompts, responses) for name, part in self.parts.items()}

    def __call__(self, prompts: Rows, responses: Rows) -> Tensor:
        found = self.values(prompts, responses)
        self.latest = {name: float(value.mean()) for name, value in found.items()}
        return torch.stack([self.weights[name] * value for name, value in found.items()]).sum(dim=0)


class Ensemble:
    """Several rewards of the same thing, in the same unit, as one; an optimist among them has no say alone.

    Members that are one reward model, sharing its trunk, are ``RewardModel(ensemble=...)``; this puts any rewards
    together.

    Args:
        members: the rewards.
        scoring, penalty: how their scores become one; see ``combine_scores``. The default is their mean, in which the
            penalty counts for nothing; a reward run's own is "mean-variance" with 10, which suits members of one trunk
            that know what their feedback leaves open.

    Raises:
        ConfigError: there are fewer than two members, no such scoring, or a penalty below 0.
    """

    def __init__(self, members: Sequence[Reward], scoring: EnsembleScoring = "mean", penalty: float = 1.0) -> None:
        if len(members) < 2:
            raise ConfigError("members", len(members), "at least 2 rewards")
        check_scoring(scoring, penalty)
        self.members = list(members)
        self.scoring = scoring
        self.penalty = penalty

    def values(self, prompts: Rows, responses: Rows) -> Tensor:
        """(members, rows)."""
        asked = enumerate(self.members, start=1)
        return torch.stack([ask_reward(one, f"member {number}", prompts, responses) for number, one in asked])

    def uncertainty(self, prompts: Rows, responses: Rows) -> Tensor:
        """(rows,) standard deviation between the members."""
        return disagreement(self.values(prompts, responses))

    def score_with_uncertainty(self, prompts: Rows, responses: Rows) -> tuple[Tensor, Tensor]:
        """(rows,) scores and (rows,) uncertainty; every member is asked once."""
        values = self.values(prompts, responses)
        return combine_scores(values, self.scoring, self.penalty), disagreement(values)

    def __call__(self, prompts: Rows, responses: Rows) -> Tensor:
        return combine_scores(self.values(prompts, responses), self.scoring, self.penalty)


def checked(reward: Reward, name: str = "reward") -> Reward:
    """The same reward, which raises FunctionError where it fails or gives what no reward may."""

    def score(prompts: Rows, responses: Rows) -> Tensor:
        return ask_reward(reward, name, prompts, responses)

    return score


def ask_reward(reward: Reward, name: str, prompts: Rows, responses: Rows) -> Tensor:
    """(rows,) float32 on the CPU: what a reward of token ids gives.

    Raises:
        FunctionError: it fails.
        ScoreError: it does not give one finite number for each response; names the first wrong row.
    """
    try:
        found = as_scores(reward(prompts, responses), len(responses)).cpu()
    except ScoreError as error:
        raise ScoreError(f"the reward {name!r}: {error}") from error
    except FunctionError:
        raise
    except Exception as error:  # a stranger's code
        raise FunctionError(f"the reward {name!r} fails at {len(responses)} responses: {describe(error)}") from error
    if wrong := rows_not_finite(found):
        row = wrong[0]
        raise ScoreError(
            f"the reward {name!r} gives {float(found[row])} for {len(wrong)} of {len(responses)} responses, the first "
            f"of them row {row}, which begins with the tokens {responses[row][:TOKENS_SHOWN]}: it must be finite"
        )
    return found
