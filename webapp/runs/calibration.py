"""Whether a reward model is as sure as it may be, as a picture: pure geometry, drawn by a template.

Upright stands how often raters agreed, along the bottom how sure the model was. A model that may be believed lies on
the diagonal; below it the model is too sure, above it too timid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.runs.figures import interval_of_share
from webapp.runs.models import Run

LEFT, TOP, WIDE, HIGH, BELOW, RIGHT = 54, 30, 300, 240, 44, 24  # pixels
LEAST = 0.5  # the likelier of two sides is at least so likely
ENOUGH = 50
"""Comparisons from which on something is concluded: ten in each of five bins, were they spread evenly.

Of ten of which a model is rightly 75 % sure, it decides 5 to 10 as raters did within two standard deviations, of .14
each: of fewer, a model whose word can be taken looks as far off as one whose word cannot.
"""


@dataclass(frozen=True)
class Bin:
    """Comparisons of which the model was about equally sure."""

    low: float
    high: float
    count: int
    sure: float
    right: float

    @property
    def ends(self) -> tuple[float, float]:
        """The 95 % interval of ``right``."""
        return interval_of_share(self.right, self.count) or (0.0, 1.0)

    @property
    def x(self) -> float:
        return across(self.sure)

    @property
    def y(self) -> float:
        return down(self.right)

    @property
    def top(self) -> float:
        return down(self.ends[1])

    @property
    def bottom(self) -> float:
        return down(self.ends[0])


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, in percent, and where it stands."""

    percent: int
    at: float


@dataclass(frozen=True)
class Calibration:
    """The picture: dots with their intervals, the diagonal, axes."""

    error: float
    count: int
    bins: tuple[Bin, ...]
    width = LEFT + WIDE + RIGHT
    height = TOP + HIGH + BELOW
    left, right, top, bottom = LEFT, LEFT + WIDE, TOP, TOP + HIGH
    ticks_left, ticks_below, title_above, title_below = LEFT - 8, TOP + HIGH + 18, TOP - 14, TOP + HIGH + 38

    @property
    def diagonal(self) -> tuple[float, float, float, float]:
        return across(LEAST), down(LEAST), across(1.0), down(1.0)

    @property
    def upright(self) -> list[Tick]:
        return [Tick(percent, down(percent / 100)) for percent in (0, 25, 50, 75, 100)]

    @property
    def along(self) -> list[Tick]:
        return [Tick(percent, across(percent / 100)) for percent in (50, 60, 70, 80, 90, 100)]

    @property
    def tells(self) -> bool:
        """Whether there is enough to conclude anything from, or to draw."""
        return self.count >= ENOUGH

    @property
    def least(self) -> int:
        return ENOUGH

    @property
    def leaning(self) -> str:
        """Whether it errs to one side, in a word; empty where no bin is off by more than chance."""
        off = [one for one in self.bins if not one.ends[0] <= one.sure <= one.ends[1]]
        if not off:
            return ""
        return "too sure" if sum(one.count * (one.sure - one.right) for one in off) > 0 else "too timid"


def across(sure: float) -> float:
    """Where a probability of ½ to 1 stands from the left, in pixels."""
    return round(LEFT + WIDE * (sure - LEAST) / (1 - LEAST), 1)


def down(share: float) -> float:
    """Where a share of 0 to 1 stands from the top, in pixels."""
    return round(TOP + HIGH * (1 - share), 1)


def calibration_of(run: Run) -> Calibration | None:
    """What a reward run found out about its own certainty; none before its end, or without held-out comparisons."""
    found: Mapping[str, Any] | None = (run.result.get("report") or {}).get("calibration")
    if not found:
        return None
    bins = tuple(Bin(one["low"], one["high"], one["count"], one["sure"], one["right"]) for one in found["bins"])
    return Calibration(found["error"], found["count"], bins)
