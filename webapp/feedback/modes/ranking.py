"""Two to six answers in order of preference, ties permitted.

A choice names the place of each answer in the order shown: ``2,1,3`` puts the second answer first. Answers may share
a place; gaps are closed (``1,3,3`` means ``1,2,2``). ``0`` says that all of them are bad, stored as a tie of all.
"""

from collections.abc import Mapping
from itertools import combinations, groupby
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from rlhf_core.records import Comparison as ComparisonRecord
from rlhf_core.records import Feedback
from webapp.errors import ChoiceInvalid
from webapp.feedback.models import Comparison, Presentation, Rating
from webapp.feedback.modes.base import Extras, Judgement, Mode
from webapp.feedback.shown import ShownItem
from webapp.projects.models import Project

ALL_BAD = "0"
RANKED = "ranked"  # what the page's button sends; the places stand in fields of their own
ORDINALS = (
    gettext_lazy("first"),
    gettext_lazy("second"),
    gettext_lazy("third"),
    gettext_lazy("fourth"),
    gettext_lazy("fifth"),
    gettext_lazy("sixth"),
)
STRENGTH = 2  # a ranking does not say how much better: "clearly", the middle of a pair's strengths


class RankingMode(Mode):
    """A place for each answer; the number of places below the best is kept as the verdict."""

    kind = Comparison.Kind.RANKING
    texts = "feedback/modes/_ranking_texts.html"
    bar = "feedback/modes/_ranking_bar.html"

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        samples = presentation.samples
        is_bad = choice == ALL_BAD
        places = [1] * len(samples) if is_bad else places_of(choice, len(samples))
        found = {str(sample.pk): place for sample, place in zip(samples, places, strict=True)}
        return Judgement(max(places) - 1, is_bad, {"places": found})

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        if judgement.both_bad:
            return ALL_BAD
        places = judgement.details["places"]
        return ",".join(str(places[str(sample.pk)]) for sample in presentation.samples)

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        if judgement.both_bad:
            return _("all bad")
        if judgement.verdict == 0:
            return _("all equal")
        places = judgement.details["places"]
        return order_of([places[str(sample.pk)] for sample in comparison.samples], [str(name) for name in ORDINALS])

    def told(self, choice: str, extras: Extras) -> str:
        if choice == ALL_BAD:
            return _("all are bad")
        places = [int(place) for place in choice.split(",")]
        return _("all are equal") if max(places) == 1 else order_of(places, [str(n) for n in range(1, 7)])

    def page(self, project: Project, item: ShownItem, choice: str | None, extras: Extras) -> Mapping[str, Any]:
        count = len(item.answers)
        given = (choice or "").split(",") + [""] * count  # where a page is shown again, some may be missing or no place
        permitted = [str(number) for number in range(1, count + 1)]
        return {
            "places": [
                (number, int(place) if place in permitted else None)
                for number, place in zip(range(1, count + 1), given, strict=False)
            ],
            "enter": RANKED,
        }

    def records(self, rating: Rating, weight: float) -> list[Feedback]:
        """Each two answers as a comparison of weight 1 / (K - 1); a shared place is a tie.

        Every answer stands in K - 1 of the K (K - 1) / 2 pairs, so it has the same weight in the loss as an answer of a
        pair, and a ranking of K counts as K / 2 comparisons.
        """
        samples = rating.comparison.samples
        places = rating.details["places"]
        records: list[Feedback] = []
        for one, other in combinations(samples, 2):
            difference = places[str(other.pk)] - places[str(one.pk)]
            chosen, rejected = (one, other) if difference >= 0 else (other, one)
            records.append(
                ComparisonRecord(
                    prompt_id=str(rating.comparison.prompt_id),
                    prompt_tokens=tuple(one.prompt_tokens),
                    chosen_tokens=tuple(chosen.tokens),
                    rejected_tokens=tuple(rejected.tokens),
                    strength=STRENGTH if difference else 0,
                    weight=weight / (len(samples) - 1),
                    rating_id=str(rating.pk),
                )
            )
        return records


def places_of(choice: str, count: int) -> list[int]:
    """The place of each answer shown, from 1 and without gaps.

    Raises:
        ChoiceInvalid: an answer has no place, or a place is none of 1 to ``count``.
    """
    permitted = _(
        "a place, 1 to %(count)s, for each of the %(count)s answers (the same place twice is a tie), or 0: all bad"
    ) % {"count": count}
    places = choice.split(",")
    if len(places) != count or any(len(place) != 1 or place not in "123456"[:count] for place in places):
        raise ChoiceInvalid(choice, permitted)
    order = sorted(set(places))
    return [order.index(place) + 1 for place in places]


def order_of(places: list[int], names: list[str] | tuple[str, ...]) -> str:
    """Best first, such as "second > first = third"."""
    ranked = sorted(zip(places, range(len(places)), strict=True))
    groups = [[names[index] for _, index in group] for _, group in groupby(ranked, key=lambda pair: pair[0])]
    return " > ".join(" = ".join(group) for group in groups)
