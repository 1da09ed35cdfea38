"""What can be read about the ratings that models may learn from."""

from dataclasses import dataclass

from django.db.models import Case, Count, F, Q, QuerySet, SmallIntegerField, Value, When

from webapp.feedback.models import Comparison, Rating
from webapp.feedback.modes import LEARNED_FROM
from webapp.feedback.modes.turns import SCORES
from webapp.projects.models import Project

UNSURE = Q(comparison__kind=Comparison.Kind.TURNS, verdict=0)
"""Of ratings: the verdict on a conversation's last turn says nothing of it."""
OF_USE = Q(comparison__kind__in=LEARNED_FROM) & ~UNSURE


def sources_used(project: Project) -> list[str]:
    """Which sources a dataset takes unless told otherwise; the project's switch decides about simulated ratings."""
    sources = [Rating.Source.DEMO, Rating.Source.HUMAN]
    if project.use_simulated_ratings:
        sources.append(Rating.Source.SIMULATED)
    return [str(source) for source in sources]


def usable(project: Project, sources: list[str] | None = None) -> QuerySet[Rating]:
    """The current ratings of a project that a dataset would take, late ones included."""
    taken = sources_used(project) if sources is None else sources
    return Rating.objects.filter(OF_USE, project=project, is_current=True, source__in=taken)


@dataclass(frozen=True, slots=True)
class RatingCounts:
    """What a dataset frozen now would hold."""

    total: int
    pairs: int
    rankings: int
    ties: int  # of the pairs and rankings: all are equal, "both bad" included
    both_bad: int
    singles: int  # the last turns of conversations too: they are scored alone
    scores: int  # different scores among the single ratings
    raters: int
    people: int  # of the raters
    simulated_raters: int
    prompts: int
    human: int
    demo: int
    simulated: int
    left_out: int  # current ratings of sources that are not taken

    @property
    def is_one_sided(self) -> bool:
        """Whether the ratings all say the same, so that nothing can be learned from them."""
        return self.total > 0 and self.pairs + self.rankings == self.ties and self.scores < 2


def usable_ratings(project: Project, sources: list[str] | None = None) -> RatingCounts:
    """Counts of the ratings that a dataset would take (one query)."""
    taken = Q(source__in=sources_used(project) if sources is None else sources)
    is_pair = taken & Q(comparison__kind=Comparison.Kind.PAIR)
    is_ranking = taken & Q(comparison__kind=Comparison.Kind.RANKING)
    is_single = taken & Q(comparison__kind__in=[Comparison.Kind.SINGLE, Comparison.Kind.TURNS])
    of_turns = [When(comparison__kind=Comparison.Kind.TURNS, verdict=said, then=Value(SCORES[said])) for said in SCORES]
    found = Rating.objects.filter(OF_USE, project=project, is_current=True).aggregate(
        total=Count("id", filter=taken),
        pairs=Count("id", filter=is_pair),
        rankings=Count("id", filter=is_ranking),
        ties=Count("id", filter=(is_pair | is_ranking) & Q(verdict=0)),
        both_bad=Count("id", filter=taken & Q(both_bad=True)),
        singles=Count("id", filter=is_single),
        scores=Count(
            Case(*of_turns, default=F("verdict"), output_field=SmallIntegerField()), filter=is_single, distinct=True
        ),
        raters=Count("rater", filter=taken, distinct=True),
        people=Count("rater", filter=taken & ~Q(source=Rating.Source.SIMULATED), distinct=True),
        simulated_raters=Count("rater", filter=taken & Q(source=Rating.Source.SIMULATED), distinct=True),
        prompts=Count("comparison__prompt", filter=taken, distinct=True),
        human=Count("id", filter=taken & Q(source=Rating.Source.HUMAN)),
        demo=Count("id", filter=taken & Q(source=Rating.Source.DEMO)),
        simulated=Count("id", filter=taken & Q(source=Rating.Source.SIMULATED)),
        left_out=Count("id", filter=~taken),
    )
    return RatingCounts(**found)
