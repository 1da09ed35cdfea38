"""Two answers side by side: seven steps from A to B, and both bad."""

from rlhf_core.records import Comparison as ComparisonRecord
from rlhf_core.records import Feedback
from webapp.feedback.models import Comparison, Presentation, Rating
from webapp.feedback.modes.base import Extras, Judgement, Mode, Step
from webapp.feedback.verdicts import choice_of, verdict_of

STRENGTHS = {1: "slightly better", 2: "clearly better", 3: "much better"}
BOTH_BAD = Step("0", "Both bad", "both are bad")


class PairMode(Mode):
    """One key: 1 A is much better, 4 equal, 7 B is much better, 0 both are bad."""

    kind = Comparison.Kind.PAIR
    steps = (
        Step("1", "much", "A is much better"),
        Step("2", "clearly", "A is clearly better"),
        Step("3", "slightly", "A is slightly better"),
        Step("4", "equal", "both are equal"),
        Step("5", "slightly", "B is slightly better"),
        Step("6", "clearly", "B is clearly better"),
        Step("7", "much", "B is much better"),
    )

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        return Judgement(*verdict_of(choice=choice, kind=self.kind, first_is_left=presentation.first_is_left))

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        return choice_of(
            verdict=judgement.verdict,
            both_bad=judgement.both_bad,
            kind=self.kind,
            first_is_left=presentation.first_is_left,
        )

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        if judgement.both_bad:
            return "both bad"
        if judgement.verdict == 0:
            return "equal"
        return f"{'first' if judgement.verdict > 0 else 'second'} {STRENGTHS[abs(judgement.verdict)]}"

    def told(self, choice: str, extras: Extras) -> str:
        return next(step.name for step in (*self.steps, BOTH_BAD) if step.key == choice)

    def records(self, rating: Rating, weight: float) -> list[Feedback]:
        """One comparison. Both bad counts as a tie: neither answer is better. The sign says which one was chosen."""
        first, second = rating.comparison.samples
        chosen, rejected = (first, second) if rating.verdict >= 0 else (second, first)
        return [
            ComparisonRecord(
                prompt_id=str(rating.comparison.prompt_id),
                prompt_tokens=tuple(first.prompt_tokens),
                chosen_tokens=tuple(chosen.tokens),
                rejected_tokens=tuple(rejected.tokens),
                strength=abs(rating.verdict),
                weight=weight,
                rating_id=str(rating.pk),
            )
        ]
