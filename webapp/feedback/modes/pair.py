"""Two answers side by side: seven steps from A to B, and both bad."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from rlhf_core.records import Comparison as ComparisonRecord
from rlhf_core.records import Feedback
from webapp.feedback.models import Comparison, Presentation, Rating
from webapp.feedback.modes.base import Extras, Judgement, Mode, Step
from webapp.feedback.verdicts import choice_of, verdict_of

STRENGTHS = {
    1: gettext_lazy("slightly better"),
    2: gettext_lazy("clearly better"),
    3: gettext_lazy("much better"),
}
WORDS = {
    3: gettext_lazy("first much better"),
    2: gettext_lazy("first clearly better"),
    1: gettext_lazy("first slightly better"),
    0: gettext_lazy("equal"),
    -1: gettext_lazy("second slightly better"),
    -2: gettext_lazy("second clearly better"),
    -3: gettext_lazy("second much better"),
}
BOTH_BAD = Step("0", gettext_lazy("Both bad"), gettext_lazy("both are bad"))


class PairMode(Mode):
    """One key: 1 A is much better, 4 equal, 7 B is much better, 0 both are bad."""

    kind = Comparison.Kind.PAIR
    steps = (
        Step("1", gettext_lazy("much"), gettext_lazy("A is much better")),
        Step("2", gettext_lazy("clearly"), gettext_lazy("A is clearly better")),
        Step("3", gettext_lazy("slightly"), gettext_lazy("A is slightly better")),
        Step("4", gettext_lazy("equal"), gettext_lazy("both are equal")),
        Step("5", gettext_lazy("slightly"), gettext_lazy("B is slightly better")),
        Step("6", gettext_lazy("clearly"), gettext_lazy("B is clearly better")),
        Step("7", gettext_lazy("much"), gettext_lazy("B is much better")),
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
            return _("both bad")
        return str(WORDS[judgement.verdict])

    def told(self, choice: str, extras: Extras) -> str:
        return str(next(step.name for step in (*self.steps, BOTH_BAD) if step.key == choice))

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
