"""How often a reward model agrees with raters on comparisons held out from its training, and how much that tells."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webapp.registry.models import Checkpoint
from webapp.runs.figures import interval_of_share, say_interval, say_value

LEAST = 20
"""Comparisons below which a share tells nothing, whatever it is.

Of 20, a share of 75 % has a 95 % interval of 53 to 89 %, one of 70 % reaches down to 48. Fewer are verdicts on a
handful of prompts and of a rater or two, so they are less independent than the interval takes them to be. From 20 on
it decides.
"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of ``count`` held-out verdicts that a reward model gives as raters did."""

    share: float
    count: int

    @property
    def tells(self) -> bool:
        """Whether the model does better than a coin, as far as these verdicts can tell."""
        return self.count >= LEAST and self.ends[0] > 0.5

    @property
    def contradicts(self) -> bool:
        """Whether it does worse than a coin, as far as these verdicts can tell."""
        return self.count >= LEAST and self.ends[1] < 0.5

    @property
    def ends(self) -> tuple[float, float]:
        """Of the 95 % interval; without a verdict the share may be anything."""
        return interval_of_share(self.share, self.count) or (0.0, 1.0)

    @property
    def doubt(self) -> str:
        """Why nobody should rely on it yet, in a sentence; empty where there is no reason."""
        if self.tells:
            return ""
        if self.contradicts:
            return _(
                "That is worse than chance: it may have learned from too few ratings, or from ones that contradict "
                "each other. Read some of them, and rate on."
            )
        if self.count >= LEAST:
            return _("That may be chance, so nothing tells yet whether it has learned what raters like: rate on.")
        return ngettext(
            "%(count)s held-out comparison is too few to tell whether it has learned what raters like: rate on.",
            "%(count)s held-out comparisons are too few to tell whether it has learned what raters like: rate on.",
            self.count,
        ) % {"count": self.count}

    @property
    def sentence(self) -> str:
        return ngettext(
            "It agrees with raters on %(share)s of %(count)s held-out comparison (95 %% interval %(interval)s).",
            "It agrees with raters on %(share)s of %(count)s held-out comparisons (95 %% interval %(interval)s).",
            self.count,
        ) % {"share": say_value(self.share, "share"), "count": self.count, "interval": self.interval}

    @property
    def words(self) -> str:
        """The same after the model's name."""
        return ngettext(
            "agrees on %(share)s of %(count)s held-out comparison (95 %% interval %(interval)s)",
            "agrees on %(share)s of %(count)s held-out comparisons (95 %% interval %(interval)s)",
            self.count,
        ) % {"share": say_value(self.share, "share"), "count": self.count, "interval": self.interval}

    @property
    def interval(self) -> str:
        return say_interval(self.share, self.count)


def agreement_of(reward_model: Checkpoint | None) -> Agreement | None:
    """What a reward model's training measured; none where nothing was held out, or nobody knows how much."""
    metrics: dict[str, Any] = reward_model.metrics if reward_model else {}
    share = metrics.get("holdout_accuracy")
    count = int(metrics.get("holdout_count") or 0)
    return Agreement(share, count) if count > 0 and isinstance(share, int | float) else None


def doubt_about(reward_model: Checkpoint) -> str:
    """Why nobody should rely on a reward model yet, in a sentence; empty where there is no reason."""
    agreement = agreement_of(reward_model)
    return (
        agreement.doubt
        if agreement
        else _("No comparison was held out, so nothing tells yet whether it has learned what raters like: rate on.")
    )
