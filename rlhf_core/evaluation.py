"""Numbers that compare policies by their responses, each with its uncertainty; pure functions.

Responses are lists of token ids, the end token included. A mean comes with its standard error and an interval, since a
difference that is smaller than chance says nothing (docs/algorithms/evaluation.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import fsum, sqrt
from typing import Any

Tokens = Sequence[int]
Z_95 = 1.959964  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of independent values.

    Attributes:
        value: the mean.
        error: its standard error, in the same unit; None for a single value.
        count: values that it is the mean of.
    """

    value: float
    error: float | None
    count: int

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval; None without a standard error."""
        return None if self.error is None else self.value - t_95(self.count - 1) * self.error

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval; None without a standard error."""
        return None if self.error is None else self.value + t_95(self.count - 1) * self.error

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: value, error, low, high, count."""
        return {"value": self.value, "error": self.error, "low": self.low, "high": self.high, "count": self.count}


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values with its standard error s/√n (s² divided by n - 1).

    Raises:
        ValueError: there is no value.
    """
    count = len(values)
    if not count:
        raise ValueError("there is no value to take the mean of")
    mean = fsum(values) / count
    if count == 1:
        return Estimate(mean, None, 1)
    variance = fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, sqrt(variance / count), count)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """The mean of ours less theirs, pair by pair: what prompts have in common falls out.

    Raises:
        ValueError: the two differ in number, or are empty.
    """
    return estimate([a - b for a, b in zip(ours, theirs, strict=True)])


def sequence_kl_estimate(per_token: Sequence[Sequence[float]]) -> Estimate:
    """Per-token estimates (k1 or k3) of each response -> nats per response: the sum over tokens, the mean over rows.

    The standard error is over rows: the tokens of a response are not independent.

    Raises:
        ValueError: there is no response.
    """
    return estimate([fsum(row) for row in per_token])


def t_95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t for ``freedom`` degrees of freedom, at least 1.

    Exact for 1 and 2, within 0.2 % from 3 on, and far less soon after.

    Source: the expansion of Abramowitz and Stegun 1964, 26.7.5
    """
    if freedom <= 2:
        return (12.706205, 4.302653)[freedom - 1]
    z = Z_95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def runs_of_tokens(response: Tokens, n: int) -> list[tuple[int, ...]]:
    """The n-grams of one response, in order."""
    return list(zip(*(response[start:] for start in range(n)), strict=False))


def distinct_n(responses: Sequence[Tokens], n: int) -> float:
    """Different n-grams over all n-grams, within responses; 0 where there is none.

    It falls as responses grow alike, and as there are more of them: compare equal numbers of responses.

    Source: Li et al. 2016, https://arxiv.org/abs/1510.03055
    """
    found = list(chain.from_iterable(runs_of_tokens(response, n) for response in responses))
    return len(set(found)) / len(found) if found else 0.0


def repetition(response: Tokens, n: int = 4) -> float:
    """The share of a response's n-grams that stood in it before: 0 is none, near 1 a loop; 0 where it is shorter.

    Source: Welleck et al. 2019 (seq-rep-n), https://arxiv.org/abs/1908.04319
    """
    found = runs_of_tokens(response, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def describe_responses(responses: Sequence[Tokens], ended: Sequence[bool]) -> dict[str, float]:
    """Length, end rate, variety and repetition of a policy's responses, as METRICS["evaluate"] explains them.

    Raises:
        ValueError: there is no response, or the two differ in number.
    """
    if not responses or len(responses) != len(ended):
        raise ValueError(f"{len(responses)} responses and {len(ended)} ends: one each, and at least one")
    return {
        "response_length": fsum(map(len, responses)) / len(responses),
        "end_rate": sum(ended) / len(ended),
        "distinct_1": distinct_n(responses, 1),
        "distinct_2": distinct_n(responses, 2),
        "distinct_3": distinct_n(responses, 3),
        "repetition": fsum(map(repetition, responses)) / len(responses),
    }
