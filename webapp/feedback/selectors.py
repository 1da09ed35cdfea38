"""What can be read about samples, the queue and ratings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Case, Count, Exists, F, Max, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Now, TruncDay

from webapp.accounts.models import User
from webapp.feedback.models import (
    TOKENS,
    Comparison,
    FurtherSample,
    Presentation,
    Rating,
    Report,
    Skip,
    Slot,
    load_rankings,
)
from webapp.feedback.modes import Extras, choice_as_pressed, mode_of
from webapp.feedback.shown import ShownItem, ShownTurn
from webapp.projects.models import Membership, Project

READ = (
    *(f"slot__comparison__{name}" for name in ("kind", "prompt__text", "prompt__turns", "first__text", "second__text")),
    "slot__comparison__rule__text",
    "guideline__version",
)


def shown(presentation: Presentation, project: Project) -> ShownItem:
    """What stood, or is to stand, on the rater's page of the item's project (one query; of a ranking two).

    Only what is read is fetched: every verdict waits for this.
    """
    row = Presentation.objects.values_list(*READ).get(pk=presentation.pk)
    kind, prompt_text, turns, first, second, rule, guideline_version = row
    texts = [first] if second is None else [first, second]
    if kind == Comparison.Kind.RANKING:
        further = FurtherSample.objects.filter(comparison__slots=presentation.slot_id)
        texts += further.values_list("sample__text", flat=True)
    return made_item(
        project,
        kind=kind,
        prompt_text=prompt_text,
        answers=presentation.as_they_stood(texts),
        token=presentation.token,
        guideline_version=guideline_version,
        rule=rule or "",
        turns=turns,
    )


def item_of(presentation: Presentation) -> ShownItem:
    """``shown`` for a presentation whose relations were loaded (a ranking's samples too, else it takes a query)."""
    comparison = presentation.slot.comparison
    return made_item(
        presentation.slot.project,
        kind=comparison.kind,
        prompt_text=comparison.prompt.text,
        answers=[sample.text for sample in presentation.samples],
        token=presentation.token,
        guideline_version=presentation.guideline.version if presentation.guideline else None,
        rule=comparison.rule.text if comparison.rule else "",
        turns=comparison.prompt.turns,
    )


def made_item(
    project: Project, *, kind: str, answers: Sequence[str], turns: Sequence[dict[str, str]], **rest: Any
) -> ShownItem:
    """An item under its project's question."""
    questions: dict[str, str] = {
        Comparison.Kind.PAIR: project.question,
        Comparison.Kind.RANKING: project.ranking_question,
        Comparison.Kind.RULE: project.rule_question,
        Comparison.Kind.REWRITE: project.rewrite_question,
        Comparison.Kind.TURNS: project.turns_question,
    }
    return ShownItem(
        kind=kind,
        question=questions.get(kind, project.single_question),
        prompt_label=project.prompt_label,
        answers=tuple(answers),
        turns=tuple(ShownTurn(turn["role"], turn["text"]) for turn in turns),
        **rest,
    )


LAST_ACTS = 10  # how many verdicts and skips can be undone, however long ago they were given
REVISION_HOURS = 24  # and how long any verdict or skip can be changed


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """An item as it was shown to a rater, with the key that was pressed; ``choice`` is None where it was skipped."""

    item: ShownItem
    choice: str | None
    acted_at: datetime
    extras: Extras = Extras()
    is_late: bool = False
    is_changed: bool = False
    report: str | None = None  # beside being skipped: the words, perhaps none, with which it was reported
    trained: int | None = None  # the last run that learned from the verdict as it stands
    trained_before: int | None = None  # the last run that learned from one that was changed later
    may_revise: bool = False  # told by ``own_item`` alone

    @property
    def by_turn(self) -> list[tuple[str, str]]:
        """The verdict on each turn of the assistant in words, and its text; of other modes and skips none."""
        if self.item.kind != Comparison.Kind.TURNS or self.choice is None:
            return []
        words = {step.key: str(step.word) for step in mode_of(self.item.kind).steps}
        return [(words[key], text) for key, text in zip(self.choice.split(","), self.item.replies, strict=True)]

    @property
    def quotes(self) -> list[str]:
        """The passages that were marked as evidence."""
        places = (place.split("-") for place in self.extras.evidence)
        return [self.item.answers[0][int(start) : int(end)] for start, end in places]


SHOWN = (
    "presentation__guideline",
    "presentation__slot__project",
    "presentation__slot__comparison__prompt",
    "presentation__slot__comparison__first",
    "presentation__slot__comparison__second",
    "presentation__slot__comparison__rule",
)


def ratings_by(rater: User, project: Project) -> QuerySet[Rating]:
    """The rater's own current ratings in a project, newest first, with all that ``judged`` needs but the runs."""
    ratings = Rating.objects.filter(rater=rater, project=project, is_current=True)
    return ratings.select_related(*SHOWN).order_by("-created_at", "-id")


def judged(ratings: Sequence[Rating]) -> list[JudgedItem]:
    """Ratings of ``ratings_by`` as they were shown, with the runs that learned from them (one query)."""
    runs = last_runs(ratings)
    load_rankings(rating.presentation.slot.comparison for rating in ratings)
    return [
        JudgedItem(
            item=item_of(rating.presentation),
            choice=choice_as_pressed(rating),
            acted_at=rating.created_at,
            extras=Extras.of(rating, rating.presentation.slot.project.axes),
            is_late=not rating.counts_toward_overlap,
            is_changed=rating.revision > 1,
            trained=runs.get((rating.comparison_id, True)),
            trained_before=runs.get((rating.comparison_id, False)),
        )
        for rating in ratings
    ]


def last_runs(ratings: Sequence[Rating]) -> dict[tuple[UUID, bool], int]:
    """The number of the last run that made a model of a comparison's rating, by whether that revision is current.

    Runs are found by the names of the reverse relations; nothing of those apps is imported here.
    """
    of_raters = Rating.objects.filter(
        comparison__in={rating.comparison_id for rating in ratings}, rater__in={rating.rater_id for rating in ratings}
    )
    trained = of_raters.filter(datasets__runs__state="succeeded").order_by().values_list("comparison", "is_current")
    return {
        (comparison, is_current): number
        for comparison, is_current, number in trained.annotate(number=Max("datasets__runs__number"))
    }


def skipped_by(rater: User, project: Project, limit: int = LAST_ACTS) -> list[JudgedItem]:
    """The last items that a rater passed by and did not judge later, newest first (two queries)."""
    judged_later = Rating.objects.filter(comparison=OuterRef("comparison"), rater=rater)
    reports = Report.objects.filter(comparison=OuterRef("comparison"), rater=rater)
    skips = (
        Skip.objects.filter(~Exists(judged_later), rater=rater, comparison__project=project)
        .annotate(report=Subquery(reports.values("words")[:1]))
        .order_by("-created_at", "-id")
        .values_list("comparison", "created_at", "report")
    )
    newest = {comparison: (acted_at, report) for comparison, acted_at, report in skips[:limit]}
    shown_then = Presentation.objects.filter(rater=rater, slot__comparison__in=newest).select_related(
        *(name.removeprefix("presentation__") for name in SHOWN)
    )
    last_shown = {one.slot.comparison_id: one for one in shown_then.order_by("id")}
    load_rankings(one.slot.comparison for one in last_shown.values())
    return [
        JudgedItem(item_of(last_shown[key]), None, acted_at, report=report)
        for key, (acted_at, report) in newest.items()
    ]


def own_item(rater: User, project: Project, token: UUID) -> JudgedItem:
    """An item that the rater has judged or skipped, as it was shown then.

    Raises:
        Presentation.DoesNotExist: it was never shown to this rater in this project, or is still to be judged.
    """
    presentation = Presentation.objects.select_related("slot").get(rater=rater, slot__project=project, token=token)
    comparison = presentation.slot.comparison_id
    ratings = list(ratings_by(rater, project).filter(comparison=comparison))
    if ratings:
        found = judged(ratings)[0]
    elif skip := Skip.objects.filter(rater=rater, comparison=comparison).first():
        report = Report.objects.filter(rater=rater, comparison=comparison).values_list("words", flat=True).first()
        found = JudgedItem(shown(presentation, project), None, skip.created_at, report=report)
    else:
        raise Presentation.DoesNotExist
    return replace(found, may_revise=may_revise(rater, project, comparison))


@dataclass(frozen=True, slots=True)
class Act:
    """A verdict or a skip, as far as undoing it goes."""

    acted_at: datetime
    comparison_id: UUID
    token: UUID  # of the presentation that was judged


def last_acts(rater: User, project: Project) -> list[Act]:
    """The rater's last verdicts and skips in a project, newest first, LAST_ACTS at most (two queries)."""
    ratings = Rating.objects.filter(rater=rater, project=project, is_current=True).order_by("-created_at", "-id")
    acts = [Act(*row) for row in ratings.values_list("created_at", "comparison", "presentation__token")[:LAST_ACTS]]
    judged_later = Rating.objects.filter(comparison=OuterRef("comparison"), rater=rater)
    shown_last = Presentation.objects.filter(slot__comparison=OuterRef("comparison"), rater=rater).order_by("-id")
    skips = (
        Skip.objects.filter(~Exists(judged_later), rater=rater, comparison__project=project)
        .annotate(token=Subquery(shown_last.values("token")[:1]))
        .order_by("-created_at", "-id")
    )
    acts += [Act(*row) for row in skips.values_list("created_at", "comparison", "token")[:LAST_ACTS]]
    return sorted(acts, key=lambda act: act.acted_at, reverse=True)[:LAST_ACTS]


def act_before(rater: User, project: Project, token: UUID | None = None) -> Act | None:
    """What undoing leads to: the last act, or the one before that of ``token``; None where there is none."""
    acts = last_acts(rater, project)
    if token is None:
        return acts[0] if acts else None
    later = next((index for index, act in enumerate(acts) if act.token == token), len(acts))
    return acts[later + 1] if later + 1 < len(acts) else None


def act_after(rater: User, project: Project, token: UUID) -> Act | None:
    """What redoing leads to: the act after that of ``token``; None where that was the last one, or is too old."""
    acts = last_acts(rater, project)
    index = next((index for index, act in enumerate(acts) if act.token == token), 0)
    return acts[index - 1] if index else None


def may_revise(rater: User, project: Project, comparison_id: UUID) -> bool:
    """Whether a rater may still change what was said of an item: it is among the last acts, or young enough."""
    if any(act.comparison_id == comparison_id for act in last_acts(rater, project)):
        return True
    is_young = Q(rater=rater, comparison=comparison_id, created_at__gt=Now() - timedelta(hours=REVISION_HOURS))
    return Rating.objects.filter(is_young, is_current=True).exists() or Skip.objects.filter(is_young).exists()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rater has come in a project."""

    rated: int
    rated_today: int  # since midnight in the studio's time zone
    skipped: int
    reported: int  # none of them counts as skipped


def progress(rater: User, project: Project) -> Progress:
    """Counts of one rater's work (two queries)."""
    rated = Rating.objects.filter(rater=rater, project=project, is_current=True).aggregate(
        all=Count("id"), today=Count("id", filter=Q(created_at__gte=TruncDay(Now())))
    )
    judged_later = Rating.objects.filter(comparison=OuterRef("comparison"), rater=rater)
    reported = Exists(Report.objects.filter(comparison=OuterRef("comparison"), rater=rater))
    passed = Skip.objects.filter(~Exists(judged_later), rater=rater, comparison__project=project).aggregate(
        skipped=Count("id", filter=~Q(reported)), reported=Count("id", filter=Q(reported))
    )
    return Progress(rated=rated["all"], rated_today=rated["today"], **passed)


def rated_today(rater: User, project: Project) -> int:
    """What ``progress`` says of today, alone: it stands on every page of a rater (one query, by index)."""
    of_today = {"created_at__gte": TruncDay(Now()), "is_current": True}
    return Rating.objects.filter(rater=rater, project=project, **of_today).count()


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Slots of a project by state; ``expired`` ones are leased to somebody who has gone, and free for others."""

    open: int
    leased: int
    expired: int
    done: int
    void: int
    waiting_kinds: Mapping[str, int]  # of what waits, how much is of each rating mode

    @property
    def waiting(self) -> int:
        """Ratings that somebody could give now."""
        return self.open + self.expired


def queue_counts(project: Project) -> QueueCounts:
    """The state of the queue (one query: most slots are done, and only of those that wait the mode is looked up)."""
    slots = Slot.objects.filter(project=project)
    is_over = Q(state=Slot.State.LEASED) & (Q(lease_until__lt=Now()) | Q(lease_until=None))
    named = slots.annotate(named=Case(When(is_over, then=Value("expired")), default=F("state")))
    states = named.order_by().values_list(Value("state"), "named").annotate(count=Count("id"))
    waiting = slots.filter(is_over | Q(state=Slot.State.OPEN))
    kinds = waiting.order_by().values_list(Value("kind"), "comparison__kind").annotate(count=Count("id"))
    found: dict[str, dict[str, int]] = {"state": {}, "kind": {}}
    for what, name, count in states.union(kinds, all=True):
        found[what][name] = count
    counts = {name: found["state"].get(name, 0) for name in ("open", "leased", "expired", "done", "void")}
    return QueueCounts(**counts, waiting_kinds=dict(sorted(found["kind"].items())))


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
        "comparison__rule",
        "comparison__first__checkpoint",
        "comparison__second__checkpoint",
        "presentation",
    )


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """An answer that a rater wrote in place of a policy's: a demonstration."""

    rating: UUID
    prompt: UUID
    prompt_text: str
    text: str
    author: UUID
    source: str  # of the rating: human, simulated ...
    sample: UUID  # the answer that it replaces
    sample_text: str
    written_at: datetime


def demonstrations(project: Project, sources: Sequence[str] | None = None) -> list[WrittenAnswer]:
    """What raters wrote anew, as it stands now, oldest first (one query); of ``sources`` alone if they are given.

    Answers called good as they are are none. Prompts of both splits; ``Prompt.split`` tells which may be trained on.
    """
    return [written_answer(rating) for rating in rewrites_of(project, sources)]


def rewrites_of(project: Project, sources: Sequence[str] | None = None) -> QuerySet[Rating]:
    """The ratings by which raters wrote something anew, as it stands now, oldest first; see ``written_answer``."""
    rewrites = Rating.objects.filter(
        project=project, is_current=True, comparison__kind=Comparison.Kind.REWRITE, details__has_key="text"
    )
    if sources is not None:
        rewrites = rewrites.filter(source__in=sources)
    rewrites = rewrites.select_related("comparison__prompt", "comparison__first").order_by("id")
    return rewrites.defer(*(f"comparison__first__{column}" for column in TOKENS))


def written_answer(rating: Rating) -> WrittenAnswer:
    """What a rating of ``rewrites_of`` says."""
    return WrittenAnswer(
        rating=rating.pk,
        prompt=rating.comparison.prompt_id,
        prompt_text=rating.comparison.prompt.text,
        text=rating.details["text"],
        author=rating.rater_id,
        source=rating.source,
        sample=rating.comparison.first_id,
        sample_text=rating.comparison.first.text,
        written_at=rating.created_at,
    )


@dataclass(frozen=True, slots=True)
class RaterRow:
    """A member of a project and what came of the membership; what was reported, or judged after all, is no skip."""

    membership: Membership
    ratings: int
    skips: int
    reports: int
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
    same = {"comparison": OuterRef("comparison"), "rater": OuterRef("rater")}
    is_reported = Exists(Report.objects.filter(**same))
    is_judged = Exists(Rating.objects.filter(**same))  # after all
    passed_by = {
        rater: (skips, reports)
        for rater, skips, reports in Skip.objects.filter(~is_judged, comparison__project=project)
        .order_by()
        .values_list("rater")
        .annotate(skips=Count("id", filter=~Q(is_reported)), reports=Count("id", filter=Q(is_reported)))
    }
    rows = []
    for member in Membership.objects.filter(project=project).select_related("user"):
        count, last = rated.get(member.user_id, (0, None))
        skips, reports = passed_by.get(member.user_id, (0, 0))
        rows.append(RaterRow(member, ratings=count, skips=skips, reports=reports, last_rating_at=last))
    return sorted(rows, key=lambda row: (-row.ratings, row.membership.user.username))
