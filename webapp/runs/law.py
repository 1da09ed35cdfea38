"""The law of over-optimisation: what a policy gains in truth by its distance from where it began, fitted to points.

A benchmark that knows the truth fits it to that; the watch of a run fits it to what an independent judge says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, log, sqrt
from statistics import fmean

LEAST_KL = 1e-6  # nats: below it d·ln d is 0 and a point says nothing


@dataclass(frozen=True, slots=True)
class Law:
    """R = d·(α - β·g(d)) with d = √KL: g is ln d for reinforcement learning, d itself for best-of-n.

    Attributes:
        alpha, beta: of the fit, in units of R.
        r2: the share of R's variance that it explains; 1 where all points lie on it.
        is_logarithmic: whether g(d) is ln d.

    Source: Gao, Schulman and Hilton 2022, equations of section 1, https://arxiv.org/abs/2210.10760
    """

    alpha: float
    beta: float
    r2: float
    is_logarithmic: bool = True

    def at(self, kl: float) -> float:
        """R at a KL in nats; 0 where there is none."""
        d = sqrt(max(kl, 0.0))
        if d == 0:
            return 0.0
        return d * (self.alpha - self.beta * (log(d) if self.is_logarithmic else d))

    @property
    def peak_kl(self) -> float | None:
        """Where R is largest, in nats: ln d = α/β - 1, or d = α/(2β); None for a law that never turns down."""
        if self.beta <= 0:
            return None
        if self.is_logarithmic:
            exponent = 2 * (self.alpha / self.beta - 1)
            return exp(exponent) if exponent < 700 else None  # else past the largest float
        return (max(self.alpha, 0.0) / (2 * self.beta)) ** 2


def fit_law(kls: Sequence[float], gains: Sequence[float], *, is_logarithmic: bool = True) -> Law | None:
    """Least squares of the gain R over the starting policy, all points alike.

    Args:
        kls: nats from the starting policy; points at 0 or below are left out: there the law says 0 whatever it is.
        gains: R at each, same number.

    Returns:
        None where fewer than two different KLs are left: one point leaves a line of laws.

    Raises:
        ValueError: the two differ in number.
    """
    points = [(sqrt(kl), gain) for kl, gain in zip(kls, gains, strict=True) if kl > LEAST_KL]
    if len({d for d, _ in points}) < 2:
        return None
    rows = [(d, -d * (log(d) if is_logarithmic else d), gain) for d, gain in points]
    aa, ab, bb = (fsum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ar, br = (fsum(row[i] * row[2] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    if determinant <= 1e-12 * aa * bb:
        return None  # KLs so alike that they tell no α from β
    alpha, beta = (ar * bb - br * ab) / determinant, (br * aa - ar * ab) / determinant
    middle = fmean(gain for _, gain in points)
    missed = fsum((gain - alpha * one - beta * other) ** 2 for one, other, gain in rows)
    spread = fsum((gain - middle) ** 2 for _, gain in points)
    return Law(alpha, beta, 1 - missed / spread if spread else float(missed == 0), is_logarithmic)
