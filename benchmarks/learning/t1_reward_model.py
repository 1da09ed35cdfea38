"""T1: how well a reward model finds the true order of responses, by the number of labels.

Pairs of uniform responses, T0's text, are labelled by Bradley-Terry on the true reward, so about one label in five is
wrong; agreement is with the true order of fresh pairs of unequal reward. Beside our reward model stands the linear
Bradley-Terry model, which has the true form, fitted in the same run to the same labels. Calibration error is that of
the predicted probability of a preference against the true one. The reward model is an ensemble of a few that begin
differently: its probability is the mean of theirs. What the first of them finds alone stands beside it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.frontier import TokenBandit
from benchmarks.learning.harness import Say, Task
from benchmarks.learning.policies import small_palm
from benchmarks.learning.reward_models import (
    Pairs,
    agreement_with,
    calibration_error,
    draw_pairs,
    fit_linear,
    preference_probabilities,
    token_counts,
    train_reward_model,
)
from rlhf_core.config import RewardConfig, RewardHeadKind
from rlhf_core.errors import ConfigError
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Feedback
from rlhf_core.seeds import derive_generator, derive_seed

LABELS = (25, 50, 100, 200, 400, 800, 1600)
JUDGED_FROM = 200  # labels; with fewer, figures are shown but not judged
WEIGHT_VARIANCE = 0.25  # of the linear model's prior: 8 of 32 weights are ±1
DIM = 192  # the wider, the more alike are the ids' embeddings in size and the less alike in direction
TRUNK_STD = 1.0  # of its embeddings: which id stands there says more than what stands around it
FEWEST_EPOCHS = 3
DROPOUT = 0.2


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", type=int, nargs="+", default=list(LABELS), metavar="n", help="numbers of labels (25 to 1600)"
    )
    parser.add_argument("--members", type=int, default=2, help="reward models whose mean is judged (2)")
    parser.add_argument("--test-pairs", type=int, default=10_000, help="fresh pairs that accuracy is over (10000)")


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    for labels in options.labels:
        if labels < 2:
            raise ConfigError("labels", labels, "at least 2")
    if options.members < 1:
        raise ConfigError("members", options.members, "at least 1")
    if options.test_pairs < 2:
        raise ConfigError("test_pairs", options.test_pairs, "at least 2")
    bandit = TokenBandit()

    def pairs_of(count: int, name: str) -> Pairs:
        return draw_pairs(
            lambda ids: worth(bandit, ids), bandit.tokens, bandit.steps, count, derive_generator(seed, name)
        )

    training, testing = pairs_of(max(options.labels), "labels"), pairs_of(options.test_pairs, "test")
    features = token_counts(testing.first, bandit.tokens) - token_counts(testing.second, bandit.tokens)
    truth = torch.sigmoid(testing.margin)
    prompt = [bandit.tokens - 1]

    rows = []
    for labels in sorted(set(options.labels)):
        pairs = training.rows(labels)
        linear = features @ fit_linear(pairs, bandit.tokens, variance=WEIGHT_VARIANCE)
        comparisons = pairs.comparisons(prompt)
        models = [
            train(comparisons, seed, number, passes=passes_calibrated(labels)) for number in range(options.members)
        ]
        members = [preference_probabilities(model, prompt, testing)[1] for model in models]
        probabilities = torch.stack(members).mean(dim=0)
        rows.append(
            {
                "labels": labels,
                "accuracy": agreement_with(testing, probabilities - 0.5),
                "single_accuracy": agreement_with(testing, members[0] - 0.5),
                "linear_accuracy": agreement_with(testing, linear),
                "calibration_error": calibration_error(probabilities, truth),
                "single_calibration_error": calibration_error(members[0], truth),
                "linear_calibration_error": calibration_error(torch.sigmoid(linear), truth),
            }
        )
        say(f"{labels} labels: accuracy {rows[-1]['accuracy']:.3f}, linear {rows[-1]['linear_accuracy']:.3f}")
    judged = [row for row in rows if row["labels"] >= JUDGED_FROM] or rows
    return {
        "behind_linear": max(row["linear_accuracy"] - row["accuracy"] for row in judged),
        "calibration_error": max(row["calibration_error"] for row in judged),
        "single_behind_linear": max(row["linear_accuracy"] - row["single_accuracy"] for row in judged),
        "single_calibration_error": max(row["single_calibration_error"] for row in judged),
        "labels": rows,
        **{f"at_{row['labels']}": row["accuracy"] for row in rows},
    }


def worth(bandit: TokenBandit, responses: Tensor) -> Tensor:
    """(responses, steps) ids -> (responses,) true reward."""
    return torch.tensor([float(bandit.reward_of(token)) for token in range(bandit.tokens)])[responses].sum(dim=1)


def train(
    feedback: Sequence[Feedback],
    seed: int,
    number: int = 0,
    *,
    head: RewardHeadKind = "pairwise",
    passes: int | None = None,
) -> RewardModel:
    """One of several models that learn from the same feedback; they differ in trunk, head, order and dropout."""
    torch.manual_seed(derive_seed(seed, "trunk", len(feedback), *([number] if number else [])))
    palm = small_palm(TokenBandit().tokens, dim=DIM, embedding_std=TRUNK_STD)
    config = settings(len(feedback), derive_seed(seed, number) % 2**32 if number else seed, passes)
    return train_reward_model(palm, feedback, replace(config, head=head), dropout=DROPOUT)


def passes_for_order(labels: int) -> int:
    """As many passes over the labels as find the order best; they leave a model too sure of it."""
    return max(FEWEST_EPOCHS, round(8 * (200 / labels) ** 0.5))


def passes_calibrated(labels: int) -> int:
    """Fewer, which leave it about as sure as it may be."""
    return max(FEWEST_EPOCHS, round(7 * (200 / labels) ** (0.5 if labels <= 200 else 0.8)))


def settings(labels: int, seed: int, passes: int | None = None) -> RewardConfig:
    """All weights learn; decay holds few labels more, as a prior would. ``passes`` None: ``passes_for_order``.

    Adapters on a trunk that knows nothing lag behind: they cannot change which ids it tells apart. docs/benchmarks.md
    tells on which seeds this was chosen.
    """
    return RewardConfig(
        epochs=passes or passes_for_order(labels),
        learning_rate=3e-4,
        weight_decay=min(10.0, 2000 / labels),
        lora_rank=0,
        head="pairwise",
        seed=seed,
    )


TASK = Task(
    name="T1",
    words="the reward model's accuracy by the number of labels, beside the linear Bradley-Terry model",
    add_options=add_options,
    measure=measure,
    columns=(
        "behind_linear",
        "calibration_error",
        "single_behind_linear",
        "at_25",
        "at_100",
        "at_200",
        "at_400",
        "at_1600",
    ),
)
