"""The rating modes: what a rater may say of an item, in which words, and what a model learns from it.

One file a mode, one object each behind the interface of ``base.Mode``; everything else asks ``mode_of``.
"""

from collections.abc import Sequence

from webapp.feedback.models import Comparison, Rating
from webapp.feedback.modes.base import Extras, Judgement, Mode
from webapp.feedback.modes.pair import PairMode
from webapp.feedback.modes.ranking import RankingMode
from webapp.feedback.modes.rewrite import RewriteMode
from webapp.feedback.modes.rule import RuleMode
from webapp.feedback.modes.single import SingleMode
from webapp.feedback.modes.turns import TurnsMode

MODES: dict[str, Mode] = {
    mode.kind: mode for mode in (PairMode(), SingleMode(), RankingMode(), RuleMode(), RewriteMode(), TurnsMode())
}

LEARNED_FROM = (Comparison.Kind.PAIR, Comparison.Kind.SINGLE, Comparison.Kind.RANKING, Comparison.Kind.TURNS)
"""The modes whose ratings a reward model learns from."""

__all__ = ["LEARNED_FROM", "MODES", "Extras", "Judgement", "Mode", "choice_as_pressed", "mode_of", "verdict_in_words"]


def mode_of(kind: str) -> Mode:
    """The mode of an item's kind."""
    return MODES[kind]


def choice_as_pressed(rating: Rating) -> str:
    """What was pressed for a rating, in the order shown; its presentation, slot and comparison were loaded."""
    return mode_of(rating.presentation.slot.comparison.kind).pressed(Judgement.of(rating), rating.presentation)


def verdict_in_words(rating: Rating, axes: Sequence[str] = ()) -> str:
    """What a rating says of its samples, for lists of admins, scores in the order of the project's ``axes``.

    The comparison must be loaded.
    """
    return mode_of(rating.comparison.kind).in_words(Judgement.of(rating, axes), rating.comparison)
