"""How well a reward model agrees with raters, and whether it is as sure of it as it may be."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Feedback, ScoredResponse
from rlhf_core.training.feedback import join_responses

CALIBRATION_BINS = 5  # of the probability of the likelier side, .5 to 1


def head_outputs(model: RewardModel, items: Sequence[Feedback]) -> tuple[Tensor, int]:
    """(members, responses, outputs) of the heads for every response of ``items`` in order, and how many tokens."""
    sequences = join_responses(model, items)
    return model.head_outputs(sequences), int(sequences.lengths.sum())


def utilities(model: RewardModel, values: Tensor) -> list[float]:
    """(members, responses) values -> one a response: the members' mean, each in units of its comparisons' log-odds."""
    scales = model.comparison_log_scale.detach().exp().view(-1, 1)
    found: list[float] = (scales * values.view(model.members, -1)).mean(dim=0).tolist()
    return found


def concordance(values: Sequence[float], scores: Sequence[int]) -> list[float]:
    """For each pair of different scores: 1 where the values stand in the same order, ½ where equal, else 0."""
    pairs = combinations(zip(values, scores, strict=True), 2)
    return [agreement((a - b) * (first - second)) for (a, first), (b, second) in pairs if first != second]


def verdicts_right(chosen: Sequence[float], rejected: Sequence[float], items: Sequence[Comparison]) -> list[float]:
    """For each comparison that is no tie: 1 where the chosen value is the larger, ½ where equal, else 0."""
    return [agreement(a - b) for a, b, item in zip(chosen, rejected, items, strict=True) if item.strength > 0]


def agreement(product: float) -> float:
    """1 where it is positive, ½ where it is 0, else 0."""
    return 0.5 if product == 0 else float(product > 0)


@torch.no_grad()
def holdout_values(model: RewardModel, holdout: Sequence[Feedback], batch_size: int = 16) -> Tensor:
    """(members, responses) values of all responses of ``holdout`` in order."""
    model.eval()
    parts = [model.value(head_outputs(model, part)[0]) for part in batched(holdout, batch_size)]
    return torch.cat([part.view(model.members, -1) for part in parts], dim=1)


def measure_holdout(model: RewardModel, holdout: Sequence[Feedback], values: Tensor | None = None) -> dict[str, float]:
    """How often the model agrees with verdicts on prompts it never saw.

    ``holdout_accuracy`` is over ``holdout_count`` comparisons that are no ties; without any, over all pairs of
    differing scores. ``holdout_concordance`` is over those pairs, where there are scores.

    Args:
        values: what ``holdout_values`` gives, where it is at hand.
    """
    read = utilities(model, holdout_values(model, holdout) if values is None else values)
    position, scored, verdicts = 0, [], []
    for item in holdout:
        if isinstance(item, ScoredResponse):
            scored.append((read[position], item.score))
            position += 1
        else:
            verdicts += verdicts_right([read[position]], [read[position + 1]], [item])
            position += 2
    pairs = concordance([value for value, _ in scored], [score for _, score in scored])
    counted = verdicts or pairs
    found: dict[str, float] = {"holdout_count": len(counted)}
    if counted:
        found["holdout_accuracy"] = sum(counted) / len(counted)
    if pairs:
        found["holdout_concordance"] = sum(pairs) / len(pairs)
    return found


@torch.no_grad()
def calibration_of(model: RewardModel, holdout: Sequence[Feedback], values: Tensor) -> dict[str, Any] | None:
    """How sure the model is of held-out comparisons, beside how often it is right; None without any but ties.

    Args:
        values: what ``holdout_values`` gives.

    Returns:
        what ``calibrate`` gives.
    """
    starts, position = [], 0
    for item in holdout:
        if isinstance(item, Comparison) and item.strength > 0:
            starts.append(position)
        position += 1 if isinstance(item, ScoredResponse) else 2
    if not starts:
        return None
    first = torch.tensor(starts, device=values.device)
    chances = model.preference_probability(values[:, first], values[:, first + 1])
    return calibrate(chances.tolist())


def calibrate(chances: Sequence[float], bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """Expected calibration error and the bins behind it, over comparisons that one side won.

    Each comparison counts where the model leans: with probability max(p, 1 - p), right if that side won.

    Args:
        chances: the model's probability of the side that won, one a comparison, at least one.
        bins: equally wide ones from .5 to 1.

    Returns:
        plain JSON: ``error`` = sum over bins of (share of comparisons) x |right - sure|; ``count``; ``bins``, those
        with comparisons: ``low`` and ``high`` bound, ``count``, mean probability ``sure`` and share ``right``.

    Source: Guo et al. 2017, equations 2 and 3, https://arxiv.org/abs/1706.04599
    """
    groups: dict[int, list[tuple[float, float]]] = {}
    for chance in chances:
        sure = max(chance, 1 - chance)
        number = min(int((sure - 0.5) * 2 * bins), bins - 1)
        groups.setdefault(number, []).append((sure, agreement(chance - 0.5)))
    found = [
        {
            "low": 0.5 + number / (2 * bins),
            "high": 0.5 + (number + 1) / (2 * bins),
            "count": len(items),
            "sure": sum(sure for sure, _ in items) / len(items),
            "right": sum(right for _, right in items) / len(items),
        }
        for number, items in sorted(groups.items())
    ]
    error = sum(one["count"] * abs(one["right"] - one["sure"]) for one in found) / len(chances)
    return {"error": error, "count": len(chances), "bins": found}


def batched(items: Sequence[Feedback], size: int) -> Iterator[Sequence[Feedback]]:
    """``items`` in parts of ``size``."""
    return (items[at : at + size] for at in range(0, len(items), size))
