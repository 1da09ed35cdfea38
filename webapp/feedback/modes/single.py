"""One answer by itself: 1 to 5, and where the project names axes, 1 to 5 of each after that."""

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from rlhf_core.records import Feedback, ScoredResponse
from webapp.errors import RemarkInvalid
from webapp.feedback.models import Comparison, Presentation, Rating
from webapp.feedback.modes.base import Extras, Judgement, Mode, Step
from webapp.feedback.shown import ShownItem
from webapp.feedback.verdicts import SINGLE_CHOICES, verdict_of
from webapp.projects.models import Project

SCORED = "scored"  # what the page's button sends where there are axes; the scores stand in fields of their own
AXIS = "axis:"  # begins the names of those fields


class SingleMode(Mode):
    """One key: the score. With axes one more for each of them; any of them may be left out."""

    kind = Comparison.Kind.SINGLE
    steps = (
        Step("1", gettext_lazy("bad"), gettext_lazy("1 of 5: bad")),
        Step("2", gettext_lazy("weak"), gettext_lazy("2 of 5: weak")),
        Step("3", gettext_lazy("fair"), gettext_lazy("3 of 5: fair")),
        Step("4", gettext_lazy("good"), gettext_lazy("4 of 5: good")),
        Step("5", gettext_lazy("excellent"), gettext_lazy("5 of 5: excellent")),
    )

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        verdict = verdict_of(choice=choice, kind=self.kind, first_is_left=True)[0]
        if not extras.scores:
            return Judgement(verdict)
        axes = presentation.slot.project.axes
        for name, score in extras.scores.items():
            if name not in axes:
                have = ", ".join(axes) or _("this project has none")
                raise RemarkInvalid(
                    _("There is no axis %(name)r here (%(have)s). Load the page again.")
                    % {"name": name[:30], "have": have}
                )
            if str(score) not in SINGLE_CHOICES:
                raise RemarkInvalid(
                    _("The score of %(name)r is %(score)r: it is one of 1 to 5.")
                    % {"name": name, "score": str(score)[:20]}
                )
        scores = {name: int(extras.scores[name]) for name in axes if name in extras.scores}
        return Judgement(verdict, details={"axes": scores})

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        return str(judgement.verdict)

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        return _("%(verdict)s of 5") % {"verdict": judgement.verdict} + said_of(judgement.details.get("axes", {}))

    def told(self, choice: str, extras: Extras) -> str:
        return str(next(step.name for step in self.steps if step.key == choice)) + said_of(extras.scores)

    def page(self, project: Project, item: ShownItem, choice: str | None, extras: Extras) -> Mapping[str, Any]:
        if not project.axes:
            return {}
        overall = (_("Overall"), "overall", choice or "")
        axes = [(name, AXIS + name, str(extras.scores.get(name, ""))) for name in project.axes]
        return {"bar": "feedback/modes/_axes_bar.html", "scales": [overall, *axes], "enter": SCORED}

    def records(self, rating: Rating, weight: float) -> list[Feedback]:
        """One scored response."""
        return [scored(rating, rating.verdict, weight)]


def scored(rating: Rating, score: int, weight: float) -> ScoredResponse:
    """The one answer of a rating whose samples were loaded, with a score of 1 to 5."""
    sample = rating.comparison.first
    return ScoredResponse(
        prompt_id=str(rating.comparison.prompt_id),
        prompt_tokens=tuple(sample.prompt_tokens),
        response_tokens=tuple(sample.tokens),
        score=score,
        weight=weight,
        rating_id=str(rating.pk),
    )


def said_of(scores: Mapping[str, str | int]) -> str:
    """The scores of the axes, to follow the overall one."""
    return "".join(f", {name} {score}" for name, score in scores.items())
