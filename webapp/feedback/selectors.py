"""What can be read about samples, the queue and ratings."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Max, Min, Q, QuerySet
from django.db.models.functions import Now, TruncDay

from webapp.accounts.models import User
from webapp.feedback.models import Comparison, Presentation, Rating, Skip, Slot
from webapp.feedback.verdicts import choice_of
from webapp.projects.models import Membership, Project


@dataclass(frozen=True, slots=True)
class ShownItem:
    """All of an item that a rater may see: nothing here tells which policy wrote what, or when."""

    kind: str  # "pair" or "single"
    question: str
    prompt_label: str
    prompt_text: str
    left_text: str
    right_text: str | None  # None: a single answer
    token: UUID
    guideline_version: int | None


def shown(presentation: Presentation) -> ShownItem:
    """What stood, or is to stand, on the rater's page (one query)."""
    found = Presentation.objects.select_related(
        "guideline", "slot__project", "slot__comparison__prompt", "slot__comparison__first", "slot__comparison__second"
    ).get(pk=presentation.pk)
    return item_of(found)


def item_of(presentation: Presentation) -> ShownItem:
    """``shown`` for a presentation whose relations were loaded."""
    comparison, project = presentation.slot.comparison, presentation.slot.project
    left, right = comparison.first.text, comparison.second.text if comparison.second else None
    if right is not None and not presentation.first_is_left:
        left, right = right, left
    return ShownItem(
        kind=comparison.kind,
        question=project.question if comparison.kind == Comparison.Kind.PAIR else project.single_question,
        prompt_label=project.prompt_label,
        prompt_text=comparison.prompt.text,
        left_text=left,
        right_text=right,
        token=presentation.token,
        guideline_version=presentation.guideline.version if presentation.guideline else None,
    )


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """An item as it was shown to a rater, with the key that was pressed."""

    item: ShownItem
    choice: str
    rated_at: datetime
    is_late: bool


def history(rater: User, project: Project, limit: int = 10) -> list[JudgedItem]:
    """The rater's last verdicts in a project, newest first (one query)."""
    ratings = Rating.objects.filter(rater=rater, project=project, is_current=True).select_related(
        "presentation__guideline",
        "presentation__slot__project",
        "presentation__slot__comparison__prompt",
        "presentation__slot__comparison__first",
        "presentation__slot__comparison__second",
    )
    return [
        JudgedItem(
            item=item_of(rating.presentation),
            choice=choice_as_pressed(rating),
            rated_at=rating.created_at,
            is_late=not rating.counts_toward_overlap,
        )
        for rating in ratings.order_by("-created_at", "-id")[:limit]
    ]


def choice_as_pressed(rating: Rating) -> str:
    """The key that was pressed for a rating whose presentation, slot and comparison were loaded."""
    return choice_of(
        verdict=rating.verdict,
        both_bad=rating.both_bad,
        kind=rating.presentation.slot.comparison.kind,
        first_is_left=rating.presentation.first_is_left,
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rater has come in a project."""

    rated: int
    rated_today: int  # since midnight in the studio's time zone
    skipped: int


def progress(rater: User, project: Project) -> Progress:
    """Counts of one rater's work (two queries)."""
    rated = Rating.objects.filter(rater=rater, project=project, is_current=True).aggregate(
        all=Count("id"), today=Count("id", filter=Q(created_at__gte=TruncDay(Now())))
    )
    skipped = Skip.objects.filter(rater=rater, comparison__project=project).count()
    return Progress(rated=rated["all"], rated_today=rated["today"], skipped=skipped)


def rated_today(rater: User, project: Project) -> int:
    """What ``progress`` says of today, alone: it stands on every page of a rater (one query, by index)."""
    of_today = Rating.objects.filter(rater=rater, created_at__gte=TruncDay(Now()))
    return of_today.filter(project=project, is_current=True).count()


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Slots of a project by state; ``expired`` ones are leased to somebody who has gone, and free for others."""

    open: int
    leased: int
    expired: int
    done: int
    void: int
    oldest_lease_until: datetime | None

    @property
    def waiting(self) -> int:
        """Ratings that somebody could give now."""
        return self.open + self.expired


def queue_counts(project: Project) -> QueueCounts:
    """The state of the queue (one query)."""
    is_leased = Q(state=Slot.State.LEASED)
    is_over = Q(lease_until__lt=Now()) | Q(lease_until=None)
    found = Slot.objects.filter(project=project).aggregate(
        open=Count("id", filter=Q(state=Slot.State.OPEN)),
        leased=Count("id", filter=is_leased & ~is_over),
        expired=Count("id", filter=is_leased & is_over),
        done=Count("id", filter=Q(state=Slot.State.DONE)),
        void=Count("id", filter=Q(state=Slot.State.VOID)),
        oldest_lease_until=Min("lease_until", filter=is_leased),
    )
    return QueueCounts(**found)


def ratings_of(
    project: Project, *, source: str | None = None, rater: User | None = None, is_current: bool | None = True
) -> QuerySet[Rating]:
    """A project's ratings, newest first, with all that a list shows (rater, prompt, both samples, their policies)."""
    ratings = Rating.objects.filter(project=project)
    if source is not None:
        ratings = ratings.filter(source=source)
    if rater is not None:
        ratings = ratings.filter(rater=rater)
    if is_current is not None:
        ratings = ratings.filter(is_current=is_current)
    return with_samples(ratings).order_by("-created_at", "-id")


def with_samples(ratings: QuerySet[Rating]) -> QuerySet[Rating]:
    """Load what a list of ratings shows in the same query."""
    return ratings.select_related(
        "rater",
        "comparison__prompt",
        "comparison__first__checkpoint",
        "comparison__second__checkpoint",
        "presentation",
    )


@dataclass(frozen=True, slots=True)
class RaterRow:
    """A member of a project and what came of the membership."""

    membership: Membership
    ratings: int
    skips: int
    last_rating_at: datetime | None


def raters_of(project: Project) -> list[RaterRow]:
    """The members of a project with their work, busiest first (three queries)."""
    rated: dict[UUID, tuple[int, datetime]] = {
        rater: (count, last)
        for rater, count, last in Rating.objects.filter(project=project, is_current=True)
        .order_by()
        .values_list("rater")
        .annotate(count=Count("id"), last=Max("created_at"))
    }
    skipped = dict(
        Skip.objects.filter(comparison__project=project).values_list("rater").annotate(count=Count("id")).order_by()
    )
    rows = []
    for member in Membership.objects.filter(project=project).select_related("user"):
        count, last = rated.get(member.user_id, (0, None))
        rows.append(RaterRow(member, ratings=count, skips=skipped.get(member.user_id, 0), last_rating_at=last))
    return sorted(rows, key=lambda row: (-row.ratings, row.membership.user.username))
