"""Stored verdicts in words, for lists."""

from webapp.feedback.models import Comparison, Rating

STRENGTHS = {1: "slightly better", 2: "clearly better", 3: "much better"}


def verdict_in_words(rating: Rating) -> str:
    """What a rating says of its samples; the comparison must be loaded."""
    if rating.comparison.kind == Comparison.Kind.SINGLE:
        return f"{rating.verdict} of 5"
    if rating.both_bad:
        return "both bad"
    if rating.verdict == 0:
        return "equal"
    return f"{'first' if rating.verdict > 0 else 'second'} {STRENGTHS[abs(rating.verdict)]}"
