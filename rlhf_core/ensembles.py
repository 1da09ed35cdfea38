"""How the scores of several judges come to one scale and become one, and how far they disagree."""

from typing import get_args

import torch
from torch import Tensor

from rlhf_core.config import EnsembleScoring
from rlhf_core.errors import ConfigError, TrainingDiverged

LEAST_DEVIATION = 1e-6  # of the reference responses' scores; below it a model tells nothing apart


def check_scoring(scoring: str, penalty: float) -> None:
    """Raise ConfigError for a scoring that there is none of, or a penalty that would reward disagreement."""
    if scoring not in get_args(EnsembleScoring):
        raise ConfigError("ensemble_scoring", scoring, "one of " + ", ".join(get_args(EnsembleScoring)))
    if not penalty >= 0:
        raise ConfigError("ensemble_penalty", penalty, "at least 0")


def combine_scores(
    scores: Tensor,
    scoring: EnsembleScoring,
    penalty: float,
    variances: Tensor | None = None,
    usual: Tensor | float = 0.0,
) -> Tensor:
    """One score from those of several members, all in the same unit.

    Args:
        scores: (members, n).
        scoring: "mean"; "worst", the lowest member's, which no policy raises by fooling a single one; or
            "mean-variance", the mean less ``penalty`` times the variance (see ``variance_of``) beyond ``usual``.
        penalty: in 1 over the unit of a score.
        variances: (members, n) how unsure each member is by itself; None: not at all.
        usual: variance that costs nothing.

    Returns:
        (n,).

    Source: Coste et al. 2024, equations 3 to 5, https://arxiv.org/abs/2310.02743; there members have no
    variance of their own, and all of it costs.
    """
    if scoring == "worst":
        return scores.amin(dim=0)
    mean = scores.mean(dim=0)
    if scoring == "mean":
        return mean
    return mean - penalty * (variance_of(scores, variances) - usual).clamp(min=0)


def variance_of(scores: Tensor, variances: Tensor | None = None) -> Tensor:
    """(members, n) scores -> (n,) variance of the score: that between members (biased), and the mean of their own.

    Members are equally likely, so this is the law of total variance.
    """
    between = scores.var(dim=0, correction=0)
    return between if variances is None else between + variances.mean(dim=0)


def disagreement(scores: Tensor, variances: Tensor | None = None) -> Tensor:
    """(members, n) scores -> (n,) its root: without variances of their own, 0 for one member alone."""
    return variance_of(scores, variances).sqrt()


def mean_and_deviation(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, n) -> (rows,) means and (biased) standard deviations.

    Raises:
        TrainingDiverged: a score is not finite, or all of a row are the same.
    """
    deviations = scores.std(dim=1, correction=0)
    if not bool(torch.isfinite(deviations).all()):
        raise TrainingDiverged(f"the scores of the reference responses are not finite: {scores.tolist()}")
    if bool((deviations < LEAST_DEVIATION).any()):
        raise TrainingDiverged(
            f"the reward model gives all {scores.shape[1]} reference responses the same score, "
            f"{float(scores[deviations.argmin()].mean()):g}: it tells nothing apart. Train it longer, at another "
            "learning rate, or on feedback that tells better from worse"
        )
    return scores.mean(dim=1), deviations
