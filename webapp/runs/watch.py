"""The over-optimisation watch of a policy run: what it pleases, and what an independent judge thinks of that, by KL.

A reward model is only a guess at what raters want, and a policy that is pushed far towards it comes to live on the
guess's mistakes: the reward goes on rising, what raters would say falls (Gao, Schulman and Hilton 2022, arXiv
2210.10760). A judge that learned from other ratings does not share those mistakes, so its mean score turns down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import NormalDist, fmean
from typing import Literal

from webapp.runs.law import Law, fit_law

Curves = Mapping[str, Sequence[Sequence[float]]]
METRICS = ("kl", "score", "judge_score", "judge_score_error")
LEAST_WINDOW, WINDOWS_A_RUN = 3, 10
LEAST_FITTED = 5  # windows that a law of two numbers is fitted to
FALSE_ALARMS = 0.05  # of runs in which the judge's true score does not fall
Finding = Literal["early", "confirmed", "unconfirmed", "turned"]


@dataclass(frozen=True, slots=True)
class Window:
    """Some consecutive updates.

    Attributes:
        first, last: the updates, counted from 1.
        kl: mean drift from the parent, nats a response.
        score, judge_score: means of the two models' scores, in standard deviations of the parent's responses.
        error: standard error of ``judge_score``, from the spread of the responses within each update.
    """

    first: int
    last: int
    kl: float
    score: float
    judge_score: float
    error: float


@dataclass(frozen=True, slots=True)
class Watch:
    """What the two say of a run so far.

    Attributes:
        windows: overlapping ones, a step of one update apart.
        finding: "early" before there are two windows that do not overlap; "turned" where the judge has fallen from its
            best by more than its noise while the score rose; "confirmed" where the judge has risen from the beginning
            by more than its noise; else "unconfirmed".
        best: the window in which the judge liked the policy best.
    """

    windows: tuple[Window, ...]
    finding: Finding
    best: Window | None = None

    @property
    def last(self) -> Window | None:
        return self.windows[-1] if self.windows else None

    @property
    def first(self) -> Window | None:
        return self.windows[0] if self.windows else None

    @property
    def fall(self) -> float:
        """From the judge's best to its last score."""
        return self.best.judge_score - self.windows[-1].judge_score if self.best else 0.0

    @property
    def fall_error(self) -> float:
        return error_between(self.best, self.windows[-1]) if self.best else 0.0

    @property
    def law(self) -> Law | None:
        """Gao's law of the judge's score by KL; None before there are five windows that have drifted.

        The score is the gain that the law is about, since a model's scores have mean 0 at the parent.
        """
        drifted = [window for window in self.windows if window.kl > 0]
        if len(drifted) < LEAST_FITTED:
            return None
        return fit_law([window.kl for window in drifted], [window.judge_score for window in drifted])

    @property
    def peak_kl(self) -> float | None:
        """Where the law turns down, in nats; None without one, or where that lies beyond what the run has seen."""
        peak = self.law.peak_kl if self.law else None
        return peak if peak is not None and peak <= max(window.kl for window in self.windows) else None

    @property
    def curves(self) -> dict[str, list[list[float]]]:
        """The windows as curves, by their last update, and the law of them where there is one."""
        law = self.law
        fitted = [[window.last, law.at(window.kl)] for window in self.windows if window.kl > 0] if law else []
        return {
            "watched_law": fitted,
            "watched_kl": [[window.last, window.kl] for window in self.windows],
            "watched_score": [[window.last, window.score] for window in self.windows],
            "watched_judge_score": [[window.last, window.judge_score] for window in self.windows],
        }


def watch(curves: Curves) -> Watch | None:
    """What a run's curves tell; None where no judge scored its responses.

    A fall is believed where it is larger than chance makes the largest of so many comparisons in FALSE_ALARMS of all
    runs: with m windows before the last, z is the normal quantile of 1 - FALSE_ALARMS / m (Bonferroni), and the
    fall's standard error is that of the two windows together.
    """
    windows = windows_of(curves)
    if windows is None:
        return None
    size = windows[0].last - windows[0].first + 1 if windows else 0
    before = windows[: len(windows) - size]  # those that share no update with the last
    if not before:
        return Watch(tuple(windows), "early")
    first, last = windows[0], windows[-1]
    best = max(before, key=lambda window: window.judge_score)
    z = NormalDist().inv_cdf(1 - FALSE_ALARMS / len(before))
    if best.judge_score - last.judge_score > z * error_between(best, last) and last.score > best.score:
        return Watch(tuple(windows), "turned", best)
    has_risen = max(best, last, key=lambda window: window.judge_score).judge_score - first.judge_score
    return Watch(tuple(windows), "confirmed" if has_risen > z * error_between(first, last) else "unconfirmed", best)


def windows_of(curves: Curves) -> list[Window] | None:
    """Means over consecutive updates, a tenth of those there are, three at least; None without a judge."""
    by_update: dict[float, dict[str, float]] = {}
    for name in METRICS:
        for update, value in curves.get(name, ()):
            by_update.setdefault(update, {})[name] = value
    rows = [(int(update), found) for update, found in sorted(by_update.items()) if len(found) == len(METRICS)]
    if not rows:
        return None
    size = max(LEAST_WINDOW, len(rows) // WINDOWS_A_RUN)
    found = []
    for at in range(len(rows) - size + 1):
        part = rows[at : at + size]
        kl, score, judge_score = (fmean(row[name] for _, row in part) for name in METRICS[:3])
        error = sqrt(fsum(row["judge_score_error"] ** 2 for _, row in part)) / size
        found.append(Window(part[0][0], part[-1][0], kl, score, judge_score, error))
    return found


def error_between(one: Window, other: Window) -> float:
    """Standard error of the difference of two windows that share no update."""
    return sqrt(one.error**2 + other.error**2)
