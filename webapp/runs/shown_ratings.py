"""The ratings and demonstrations behind a model, as an admin reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.utils.translation import gettext as _

from webapp.feedback.models import Comparison, Rating, Sample, load_rankings
from webapp.feedback.modes import verdict_in_words
from webapp.feedback.modes.pair import STRENGTHS
from webapp.feedback.scores import load_scores_of
from webapp.feedback.selectors import with_samples
from webapp.projects.models import Project
from webapp.quality.demonstrations import DemonstrationRules
from webapp.quality.models import Dataset, DatasetDemonstration

RATINGS_A_PAGE = 20


@dataclass(frozen=True)
class ShownRating:
    """A rating as an admin reads it: what was better, in words."""

    rating: Rating
    better: Sample
    worse: Sample | None
    axes: Sequence[str]  # of the project
    ranked: Sequence[tuple[int, Sample]] = ()  # a ranking's samples, each with its place, best first

    @property
    def is_tie(self) -> bool:
        return self.worse is not None and self.rating.verdict == 0

    @property
    def words(self) -> str:
        if self.rating.comparison.kind == Comparison.Kind.PAIR and not self.rating.both_bad:
            return str(STRENGTHS.get(abs(self.rating.verdict), _("a tie")))
        return verdict_in_words(self.rating, self.axes)


def ratings_in(dataset: Dataset, *, source: str, page: str | None) -> tuple[Page[Rating], list[ShownRating]]:
    """The ratings of a dataset, newest first; constant in queries."""
    ratings = with_samples(Rating.objects.filter(items__dataset=dataset)).order_by("-created_at", "-id")
    if source in Rating.Source.values:
        ratings = ratings.filter(source=source)
    found = Paginator(ratings, RATINGS_A_PAGE).get_page(page)
    load_rankings(rating.comparison for rating in found)
    load_scores_of(rating.comparison for rating in found)
    return found, [show_rating(rating, dataset.project.axes) for rating in found]


def find_rating(project: Project, pk: Any) -> Rating:
    """A rating of this project with its samples and their scores. Raises Rating.DoesNotExist."""
    found = with_samples(Rating.objects.filter(project=project)).select_related("project").get(pk=pk)
    load_rankings([found.comparison])
    load_scores_of([found.comparison])
    return found


def show_rating(rating: Rating, axes: Sequence[str]) -> ShownRating:
    """``axes``: those of the project, in whose order scores are said."""
    first, second = rating.comparison.first, rating.comparison.second
    if rating.comparison.kind == Comparison.Kind.RANKING:
        places = rating.details["places"]
        ranked = sorted(((places[str(one.pk)], one) for one in rating.comparison.samples), key=lambda pair: pair[0])
        return ShownRating(rating, ranked[0][1], ranked[-1][1], axes, tuple(ranked))
    if second is not None and prefers_second(rating):
        return ShownRating(rating, second, first, axes)
    return ShownRating(rating, first, second, axes)


def prefers_second(rating: Rating) -> bool:
    """A pair's verdict runs from -3 to +3 along the canonical order of its samples."""
    return rating.verdict < 0


def demonstrations_in(dataset: Dataset, page: str | None) -> tuple[Page[Any], Sequence[DatasetDemonstration]]:
    """The demonstrations of a dataset, in their order, with prompts and who wrote them (two queries)."""
    rows = DatasetDemonstration.objects.filter(dataset=dataset).select_related("prompt", "sample__checkpoint")
    found = Paginator(rows.order_by("id"), RATINGS_A_PAGE).get_page(page)
    return found, list(found.object_list)


def rules_of(dataset: Dataset | None) -> DemonstrationRules | None:
    """By which rules the demonstrations of a dataset were chosen; None for other datasets."""
    if dataset is None or dataset.kind != Dataset.Kind.DEMONSTRATIONS:
        return None
    return DemonstrationRules(**{name: value for name, value in dataset.rules.items() if name != "sources"})
