"""One answer by itself: 1 to 5."""

from rlhf_core.records import Feedback, ScoredResponse
from webapp.feedback.models import Comparison, Presentation, Rating
from webapp.feedback.modes.base import Extras, Judgement, Mode, Step
from webapp.feedback.verdicts import verdict_of


class SingleMode(Mode):
    """One key: the score."""

    kind = Comparison.Kind.SINGLE
    steps = (
        Step("1", "bad", "1 of 5: bad"),
        Step("2", "weak", "2 of 5: weak"),
        Step("3", "fair", "3 of 5: fair"),
        Step("4", "good", "4 of 5: good"),
        Step("5", "excellent", "5 of 5: excellent"),
    )

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        return Judgement(*verdict_of(choice=choice, kind=self.kind, first_is_left=True))

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        return str(judgement.verdict)

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        return f"{judgement.verdict} of 5"

    def told(self, choice: str) -> str:
        return next(step.name for step in self.steps if step.key == choice)

    def records(self, rating: Rating, weight: float) -> list[Feedback]:
        """One scored response."""
        sample = rating.comparison.first
        return [
            ScoredResponse(
                prompt_id=str(rating.comparison.prompt_id),
                prompt_tokens=tuple(sample.prompt_tokens),
                response_tokens=tuple(sample.tokens),
                score=rating.verdict,
                weight=weight,
                rating_id=str(rating.pk),
            )
        ]
