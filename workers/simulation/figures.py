"""What a round of the loop reached, in figures with their uncertainty; pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_core.evaluation import paired_difference
from webapp.runs.figures import interval_of_share


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to a held-out prompt: the reward model's score of it, and what the taste says."""

    reward: float
    taste: float


def accuracy(pairs: Iterable[tuple[Judged, Judged]]) -> dict[str, Any]:
    """How often the reward model orders two answers as the taste does; pairs that the taste holds equal are left out.

    Equal rewards count as half a hit. ``value``, ``low`` and ``high`` are None where no pair is left.
    """
    hits, count = 0.0, 0
    for first, second in pairs:
        if first.taste == second.taste:
            continue
        count += 1
        if first.reward == second.reward:
            hits += 0.5
        else:
            hits += (first.reward > second.reward) == (first.taste > second.taste)
    ends = interval_of_share(hits / count, count) if count else None
    if ends is None:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = ends
    return {"value": rounded(hits / count), "low": rounded(low), "high": rounded(high), "n": count}


def taste_change(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """The taste's mean of base and candidate, and their difference prompt by prompt with its 95 % interval.

    Raises:
        ValueError: the two differ in number, or are empty.
    """
    found = paired_difference(after, before)
    return {
        "before": rounded(sum(before) / len(before)),
        "after": rounded(sum(after) / len(after)),
        "difference": rounded(found.value),
        "low": rounded(found.low),
        "high": rounded(found.high),
        "n": found.count,
    }


def rounded(value: float | None) -> float | None:
    """Four significant digits and a few more: enough for any comparison, short enough to read."""
    return None if value is None else float(f"{value:.6g}")
