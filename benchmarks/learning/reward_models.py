"""Pairs with labels by a known reward, and the models that learn from them: ours, and a linear one beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_core.config import RewardConfig
from rlhf_core.masking import Sequences, join_sequences
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_head import WITH_BINS
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Feedback, ScoredResponse
from rlhf_core.seeds import derive_seed
from rlhf_core.training.descent import descend
from rlhf_core.training.feedback import labels_of
from rlhf_core.training.posterior import fit_posterior
from rlhf_core.training.reward import feedback_loss, make_optimizer, plan_steps

STRENGTH = 2  # of every label: with one strength in use the model of comparisons is Bradley-Terry's
NEWTON_STEPS = 100
SCORED_AT_ONCE = 512


@dataclass(frozen=True)
class Pairs:
    """Two responses a row.

    Attributes:
        first, second: (pairs, steps) token ids.
        margin: (pairs,) true reward of the first less that of the second.
        first_is_better: (pairs,) bool, a label drawn by Bradley-Terry from the margin.
    """

    first: Tensor
    second: Tensor
    margin: Tensor
    first_is_better: Tensor

    def rows(self, count: int) -> "Pairs":
        """The first ``count`` pairs."""
        return Pairs(*(one[:count] for one in (self.first, self.second, self.margin, self.first_is_better)))

    def comparisons(self, prompt: Sequence[int]) -> list[Comparison]:
        """The labels as records of feedback."""
        return [
            Comparison(
                prompt_id="",
                prompt_tokens=tuple(prompt),
                chosen_tokens=tuple(first if better else second),
                rejected_tokens=tuple(second if better else first),
                strength=STRENGTH,
            )
            for first, second, better in zip(
                self.first.tolist(), self.second.tolist(), self.first_is_better.tolist(), strict=True
            )
        ]


def draw_pairs(
    reward: Callable[[Tensor], Tensor], tokens: int, steps: int, count: int, generator: torch.Generator
) -> Pairs:
    """Pairs of uniform responses; equal rewards are labelled by a fair coin, as Bradley-Terry has it."""
    first, second = torch.randint(tokens, (2, count, steps), generator=generator)
    margin = reward(first) - reward(second)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    return Pairs(first, second, margin, drawn < torch.sigmoid(margin.double()))


def token_counts(responses: Tensor, tokens: int) -> Tensor:
    """(responses, steps) ids -> (responses, tokens) how often each id occurs."""
    return F.one_hot(responses, tokens).sum(dim=1).double()


def fit_linear(pairs: Pairs, tokens: int, *, variance: float) -> Tensor:
    """(tokens,) weights of a Bradley-Terry model that adds up a weight a token: the mode under N(0, variance) weights.

    Newton's method on a convex loss, so the answer is the only one.
    """
    features = token_counts(pairs.first, tokens) - token_counts(pairs.second, tokens)
    labels = pairs.first_is_better.double()
    weights = torch.zeros(tokens, dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        probabilities = torch.sigmoid(features @ weights)
        gradient = features.T @ (probabilities - labels) + weights / variance
        curvature = (features.T * (probabilities * (1 - probabilities))) @ features
        step = torch.linalg.solve(curvature + torch.eye(tokens, dtype=torch.float64) / variance, gradient)
        weights = weights - step
        if float(step.abs().max()) < 1e-10:
            break
    return weights


def train_reward_model(palm: PaLM, feedback: Sequence[Feedback], config: RewardConfig, dropout: float) -> RewardModel:
    """A reward model of ours from ``palm``, by the steps and the loss of ``rlhf_core.training.reward``.

    An ensemble knows what the labels leave open of it, as one of the trainer does; it is to be normalised.
    """
    torch.manual_seed(derive_seed(config.seed, "initialise"))
    model = RewardModel(
        palm,
        dropout=dropout,
        num_binned_output=config.bins if config.head in WITH_BINS else 0,
        use_lora=config.lora_rank > 0,
        lora_r=max(config.lora_rank, 1),
        head=config.head,
        ensemble=config.ensemble,
        ensemble_members=config.ensemble_members,
        ensemble_scoring=config.ensemble_scoring,
        ensemble_penalty=config.ensemble_penalty,
    )
    ratings = [item.score for item in feedback if isinstance(item, ScoredResponse)]
    model.start_from_habits(
        torch.tensor([item.strength for item in feedback if isinstance(item, Comparison)]).long(),
        labels_of(ratings, model) if ratings else None,
    )
    optimizer = make_optimizer(model, config)
    order = plan_steps(len(feedback), config)
    max_grad_norm = config.max_grad_norm * sqrt(config.ensemble)  # of the members' gradients together
    model.train()
    for step, rows in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / len(order)) * group["factor"]
        torch.manual_seed(derive_seed(config.seed, "dropout", step))
        loss = feedback_loss(model, [feedback[row] for row in rows]).loss
        descend(optimizer, loss, model.finetune_parameters(), max_grad_norm, f"step {step + 1}")
    if model.members > 1:
        fit_posterior(model, feedback)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def values_of(model: RewardModel, prompt: Sequence[int], responses: Tensor) -> Tensor:
    """(responses, steps) ids -> (responses,) what the model thinks of them, as it is normalised."""
    return model.score(sequences_of(prompt, responses), batch_size=SCORED_AT_ONCE)


def sequences_of(prompt: Sequence[int], responses: Tensor) -> Sequences:
    """(responses, steps) ids, each behind the prompt."""
    rows = responses.tolist()
    return join_sequences([prompt] * len(rows), rows)


@torch.no_grad()
def preference_probabilities(model: RewardModel, prompt: Sequence[int], pairs: Pairs) -> tuple[Tensor, Tensor]:
    """(pairs,) difference of values and probability that the first is preferred, by a model that is not normalised."""
    first, second = (values_of(model, prompt, responses) for responses in (pairs.first, pairs.second))
    return first - second, model.preference_probability(first[None], second[None])


def agreement_with(pairs: Pairs, difference: Tensor) -> float:
    """The share of pairs of unequal true reward that ``difference`` puts in their true order; a tie counts half."""
    unequal = pairs.margin != 0
    product = (pairs.margin * difference.double())[unequal]
    return float(((product > 0).double() + 0.5 * (product == 0)).mean())


def calibration_error(probabilities: Tensor, truth: Tensor, bins: int = 10) -> float:
    """Expected calibration error: over bins of equal width, the mean distance of predicted and true probability.

    ``truth`` are the true probabilities, not labels drawn from them, so no noise of labels is in it.

    Source: Guo et al. 2017, equation 3, https://arxiv.org/abs/1706.04599
    """
    place = (probabilities * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, (probabilities - truth).double())
    return float(gap.abs().sum() / len(probabilities))
