"""What scores the responses of a run: its reward model, a function that it names, or the sum of both."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.checkpoint import load_reward_model
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.functions import EXAMPLE_REWARD, load_function
from rlhf_core.rewards import Composite, ModelReward, Reward, Rows, ask_reward, reward_from_function, reward_of
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.run_directory import RunDirectory

TOLD_FROM = 8  # equal scores of fewer responses may be chance


@dataclass(frozen=True, slots=True)
class Scoring:
    """What scores a run's responses, and where it came from.

    Attributes:
        score: the reward.
        model: the part of it that a reward model gives; None where a function scores alone.
        function: the part that a function gives; None where a reward model scores alone.
        origin: for the manifest of what the run makes: "reward_model", the id of the reward model's checkpoint, and
            "reward", the function's name; None where there is none.
    """

    score: Reward
    model: ModelReward | None
    function: Reward | None
    origin: dict[str, str | None]

    def score_with_uncertainty(self, prompts: Rows, responses: Rows) -> tuple[list[float], list[float | None]]:
        """What ``score`` gives, and how far the members of the reward model disagree: None where it is no ensemble.

        Every member reads the texts once.
        """
        if self.model is None:
            return self.score(prompts, responses).tolist(), [None] * len(responses)
        scores, uncertainty = self.model.score_with_uncertainty(prompts, responses)
        if self.function is not None:
            scores = scores.cpu() + ask_reward(self.function, "function", prompts, responses)
        return scores.tolist(), [None] * len(responses) if uncertainty is None else uncertainty.tolist()


def load_scoring(run: RunDirectory, tokenizer: Tokenizer, device: torch.device) -> Scoring | None:
    """The reward that a run's inputs name, for responses written with ``tokenizer``; None where they name none.

    The reward model goes to ``device``. With both a reward model and a function the score is their sum.

    Raises:
        CheckpointError: the reward model is damaged, or reads other tokens.
        FunctionError: there is no such function.
    """
    model: ModelReward | None = None
    function: Reward | None = None
    origin: dict[str, str | None] = {"reward_model": None, "reward": run.inputs.get("reward")}
    if run.inputs.get("reward_model"):
        reward_model, reward_tokenizer, manifest = load_reward_model(run.reward_model)
        if reward_tokenizer.sha256 != tokenizer.sha256:
            raise CheckpointError("the reward model reads other tokens than the policy writes: their tokenizers differ")
        model = reward_of(reward_model.to(device), tokenizer.end)
        origin["reward_model"] = manifest["id"]
    if origin["reward"]:
        named = load_function(origin["reward"], "reward", EXAMPLE_REWARD)
        function = told_if_flat(reward_from_function(named, tokenizer), origin["reward"], run)
    if model is not None and function is not None:
        return Scoring(Composite({"reward model": model, "function": function}), model, function, origin)
    alone = model or function
    return None if alone is None else Scoring(alone, model, function, origin)


def needed_scoring(run: RunDirectory, tokenizer: Tokenizer, device: torch.device) -> Scoring:
    """``load_scoring`` for a run that cannot do without. Raises ConfigError where nothing is named."""
    found = load_scoring(run, tokenizer, device)
    if found is None:
        raise ConfigError("reward_model", None, "the folder of a checkpoint, or else a reward, module:function")
    return found


def told_if_flat(reward: Reward, name: str, run: RunDirectory) -> Reward:
    """The same reward; the run's log says so once if it tells none of the first responses apart."""
    asked = False

    def score(prompts: Rows, responses: Rows) -> Tensor:
        nonlocal asked
        found = reward(prompts, responses)
        if not asked and len(responses) >= TOLD_FROM:
            asked = True
            if bool((found == found[0]).all()):
                run.log(
                    f"the reward {name} gives {float(found[0]):g} to all {len(found)} responses of its first batch: a "
                    "policy learns nothing while it tells none apart. A reward that rises by degrees helps"
                )
        return found

    return score
