"""What a rater did at one sitting, for the page that a pause shows."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.accounts.models import User
from webapp.feedback.models import Comparison, Rating, Report, Skip
from webapp.projects.models import Project

BREAK = timedelta(minutes=30)  # without a verdict: another sitting
MOST = 2000  # verdicts looked at


@dataclass(frozen=True, slots=True)
class Sitting:
    """Verdicts without a gap of BREAK between them, up to now."""

    count: int
    skipped: int
    active_seconds: float  # as the page measured it: the time in which items were open and in view
    verdicts: list[tuple[str, int]]  # in words, with how many; in the order of the keys
    reported: int = 0  # none of them counts as skipped

    @property
    def seconds_each(self) -> float:
        return self.active_seconds / self.count if self.count else 0.0

    @property
    def time(self) -> str:
        """``40 s``, ``12 min``, ``1 h 5 min``."""
        minutes = round(self.active_seconds / 60)
        if self.active_seconds < 60:
            return _("%(seconds)s s") % {"seconds": f"{self.active_seconds:.0f}"}
        if minutes < 60:
            return _("%(minutes)s min") % {"minutes": minutes}
        return _("%(hours)s h %(minutes)s min") % {"hours": minutes // 60, "minutes": minutes % 60}


SCORES = ("bad", "weak", "fair", "good", "excellent")
NAMES = {
    "A better": gettext_lazy("A better"),
    "equal": gettext_lazy("equal"),
    "B better": gettext_lazy("B better"),
    "both bad": gettext_lazy("both bad"),
    "bad": gettext_lazy("bad"),
    "weak": gettext_lazy("weak"),
    "fair": gettext_lazy("fair"),
    "good": gettext_lazy("good"),
    "excellent": gettext_lazy("excellent"),
    Comparison.Kind.RANKING.value: gettext_lazy("ranking"),
    Comparison.Kind.REWRITE.value: gettext_lazy("rewrite"),
    Comparison.Kind.RULE.value: gettext_lazy("rule"),
    Comparison.Kind.TURNS.value: gettext_lazy("turns"),
}
"""What ``words_for`` says, in the order of the keys, as the page says it."""


def words_for(*, kind: str, verdict: int, both_bad: bool, first_is_left: bool) -> str:
    """A stored verdict as its rater saw it, without its strength, in English; of other modes, the kind."""
    if kind == Comparison.Kind.SINGLE:
        return SCORES[verdict - 1]
    if kind != Comparison.Kind.PAIR:
        return kind
    if both_bad or verdict == 0:
        return "both bad" if both_bad else "equal"
    return "A better" if (verdict > 0) == first_is_left else "B better"


def last_sitting(rater: User, project: Project) -> Sitting:
    """The sitting that goes on, or the one that ended last within a day (two queries)."""
    ratings = Rating.objects.filter(
        rater=rater, project=project, is_current=True, created_at__gt=Now() - timedelta(days=1)
    ).order_by("-created_at", "-id")
    rows = ratings.values_list(
        "created_at", "active_ms", "verdict", "both_bad", "comparison__kind", "presentation__first_is_left"
    )[:MOST]
    counts: Counter[str] = Counter()
    count, active_ms, begin = 0, 0, None
    for at, milliseconds, verdict, both_bad, kind, first_is_left in rows:
        if begin is not None and begin - at > BREAK:
            break
        begin = at
        count += 1
        active_ms += milliseconds or 0
        counts[words_for(kind=kind, verdict=verdict, both_bad=both_bad, first_is_left=first_is_left)] += 1
    order = list(NAMES)
    return Sitting(
        count=count,
        **(passed_by_since(begin, rater, project) if begin else {"skipped": 0}),
        active_seconds=active_ms / 1000,
        verdicts=[(str(NAMES[words]), counts[words]) for words in sorted(counts, key=order.index)],
    )


def passed_by_since(begin: datetime, rater: User, project: Project) -> dict[str, int]:
    is_reported = Q(Exists(Report.objects.filter(comparison=OuterRef("comparison"), rater=rater)))
    skips = Skip.objects.filter(rater=rater, comparison__project=project, created_at__gte=begin)
    return skips.aggregate(skipped=Count("id", filter=~is_reported), reported=Count("id", filter=is_reported))
