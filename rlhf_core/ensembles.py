"""How the scores of several judges become one, and how far they disagree."""

from typing import get_args

from torch import Tensor

from rlhf_core.config import EnsembleScoring
from rlhf_core.errors import ConfigError


def check_scoring(scoring: str, penalty: float) -> None:
    """Raise ConfigError for a scoring that there is none of, or a penalty that would reward disagreement."""
    if scoring not in get_args(EnsembleScoring):
        raise ConfigError("ensemble_scoring", scoring, "one of " + ", ".join(get_args(EnsembleScoring)))
    if not penalty >= 0:
        raise ConfigError("ensemble_penalty", penalty, "at least 0")


def combine_scores(scores: Tensor, scoring: EnsembleScoring, penalty: float) -> Tensor:
    """One score from those of several members, all in the same unit.

    Args:
        scores: (members, n).
        scoring: "mean"; "worst", the lowest member's, which no policy raises by fooling a single one; or
            "mean-variance", the mean less ``penalty`` times the (biased) variance between members.
        penalty: in 1 over the unit of a score.

    Returns:
        (n,).

    Source: Coste et al. 2024, equations 3 to 5, https://arxiv.org/abs/2310.02743
    """
    if scoring == "worst":
        return scores.amin(dim=0)
    mean = scores.mean(dim=0)
    return mean - penalty * scores.var(dim=0, correction=0) if scoring == "mean-variance" else mean


def disagreement(scores: Tensor) -> Tensor:
    """(members, n) scores -> (n,) standard deviation between members (biased), 0 for one alone."""
    return scores.std(dim=0, correction=0)
