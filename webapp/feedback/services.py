"""What changes the queue: leases, ratings, skips. How samples and items come into it stands in ``filling``.

How a slot is handed out: K wanted ratings of an item are K rows, so no item can get more than K leases at once. A
claim is one short transaction that holds a lock of its rater, so that two tabs of one rater wait for each other, and
passes over rows that other raters are just taking (SKIP LOCKED). Whether a lease is over is decided by the clock of
the database, in the query that looks for the next slot: nothing has to sweep.

A rater holds two leases at most: of the item that is judged, and of the one that the page fetched ahead. They are
told apart by their age alone.
"""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from webapp.accounts.models import User
from webapp.errors import RemarkInvalid, RevisionClosed, StudioError, SubmissionConflict, TokenUnknown
from webapp.feedback.filling import NewSample, are_twins, make_items, record_samples
from webapp.feedback.locks import lock_queue, lock_rater
from webapp.feedback.models import (
    Comparison,
    FurtherSample,
    Presentation,
    Rating,
    Skip,
    Slot,
    TurnVerdict,
    load_rankings,
)
from webapp.feedback.modes import Extras, Judgement, choice_as_pressed, mode_of
from webapp.feedback.modes.base import NOTHING_MORE
from webapp.feedback.selectors import LAST_ACTS, REVISION_HOURS, may_revise
from webapp.projects.models import Project
from webapp.projects.selectors import current_guideline

__all__ = ["NewSample", "are_twins", "make_items", "record_samples"]  # passed on from ``filling``

SKIP_REASONS = {
    "unclear": "unclear",
    "expertise": "needs knowledge that I lack",
    "language": "not in my language",
    "disturbing": "disturbing",
    "broken": "shown wrongly",
}


# --- What is closed, what is missing ----------------------------------------------------------------------------------

IS_RETIRED = Exists(
    Comparison.objects.filter(
        ~Q(first__checkpoint=F("project__serving__checkpoint")),
        pk=OuterRef("comparison"),
        project__serving__isnull=False,
    )
)
"""Of a slot: another policy serves by now than the one whose samples it shows."""


def void_retired(*, project: Project) -> int:
    """Close the slots, held by nobody, whose samples are not of the serving policy; the number of them.

    So raters see a new policy as soon as it is promoted. Whoever is just judging an older sample keeps the slot.
    """
    is_free = Q(state=Slot.State.OPEN) | Q(state=Slot.State.LEASED, lease_until__lt=Now())
    with transaction.atomic():
        lock_queue(project)
        return Slot.objects.filter(is_free, IS_RETIRED, project=project).update(
            state=Slot.State.VOID, rater=None, lease_until=None
        )


def void_when_promoted(*, project: Project, **_: object) -> None:
    """Receiver of ``registry.signals.promoted``, within its transaction."""
    void_retired(project=project)


def slots_missing(*, project: Project) -> int:
    """How many open slots the sampler should add to reach the project's target; 0 where rating is paused.

    Only items that nobody has touched count as kept ready: a rater who has judged, skipped or holds an item cannot
    take another of its slots, and must not starve because others have not come for them.
    """
    if project.is_paused:
        return 0
    void_retired(project=project)
    touched = Slot.objects.filter(comparison=OuterRef("comparison"), state__in=[Slot.State.LEASED, Slot.State.DONE])
    skipped = Skip.objects.filter(comparison=OuterRef("comparison"))
    ready = Slot.objects.filter(~Exists(touched), ~Exists(skipped), project=project, state=Slot.State.OPEN).count()
    return max(0, project.buffer_target - ready)


# --- Leases ----------------------------------------------------------------------------------------------------------

MAX_LEASES = 2
HELD = (Slot.State.LEASED, Slot.State.VOID)
"""Of a slot with a rater: the rater may judge it. Void: the item was withdrawn meanwhile; handed back, it stays so."""

NEXT_SLOT = """
WITH next AS MATERIALIZED (
    SELECT slot.id
    FROM feedback_slot AS slot
    WHERE slot.project_id = %(project)s
      AND NOT (SELECT is_paused FROM projects_project WHERE id = %(project)s)
      AND slot.state IN ('open', 'leased')
      AND (slot.state = 'open' OR ((slot.lease_until IS NULL OR slot.lease_until < now()) AND NOT EXISTS (
               SELECT FROM registry_servingpointer AS pointer
               JOIN feedback_comparison AS lapsed ON lapsed.id = slot.comparison_id
               JOIN feedback_sample AS sample ON sample.id = lapsed.first_id
               WHERE pointer.project_id = slot.project_id AND pointer.checkpoint_id <> sample.checkpoint_id)))
      AND (NOT %(ahead)s OR (SELECT count(*) FROM (SELECT 1 FROM feedback_slot AS free
               WHERE free.project_id = %(project)s AND free.state = 'open'
               ORDER BY free.priority DESC, free.id LIMIT 2) AS two) = 2)
      AND NOT EXISTS (SELECT FROM feedback_slot AS other WHERE other.comparison_id = slot.comparison_id
                      AND other.rater_id = %(rater)s AND other.id <> slot.id)
      AND NOT EXISTS (SELECT FROM feedback_rating AS rating WHERE rating.comparison_id = slot.comparison_id
                      AND rating.rater_id = %(rater)s)
      AND NOT EXISTS (SELECT FROM feedback_skip AS skip WHERE skip.comparison_id = slot.comparison_id
                      AND skip.rater_id = %(rater)s)
    ORDER BY slot.priority DESC, slot.id
    LIMIT 1
    FOR UPDATE OF slot SKIP LOCKED
)
UPDATE feedback_slot AS slot
SET state = 'leased', rater_id = %(rater)s, token = %(token)s, lease_until = now() + make_interval(secs => %(seconds)s)
FROM next, feedback_comparison AS comparison
WHERE slot.id = next.id AND comparison.id = slot.comparison_id
RETURNING slot.id, comparison.kind, (SELECT guideline.id FROM projects_guideline AS guideline
    WHERE guideline.project_id = slot.project_id ORDER BY guideline.version DESC LIMIT 1), comparison.id
"""


# HELD_NOW and TAKE_SLOT are asked at every verdict. Written out, the first takes the web process .1 ms; put together by
# Django it took .7.
HELD_NOW = """
SELECT presentation.*
FROM feedback_slot AS slot
JOIN feedback_presentation AS presentation ON presentation.token = slot.token AND presentation.rater_id = slot.rater_id
WHERE slot.rater_id = %(rater)s
  AND slot.project_id = %(project)s
  AND slot.state = 'leased'
  AND slot.lease_until > now()
  AND NOT (SELECT is_paused FROM projects_project WHERE id = %(project)s)
ORDER BY presentation.id
"""


def claim(*, rater: User, project: Project, beside: Sequence[UUID] = ()) -> Presentation | None:
    """The item that ``rater`` shall judge next, leased for ``project.lease_minutes``; None where nothing waits.

    A rater who holds a live lease gets the same item in the same order again, with the lease renewed, so reloading or a
    second tab changes nothing, but for the token (see ``as_shown_now``). Never an item that the rater has judged,
    skipped or holds. Each lease draws a fresh token and which sample stands left.

    ``beside``: the tokens of items that the page has already; asked for another one, ahead of need. There is none when
    the rater holds two others, nor when it would be the last one open in the project: that one is for who needs it now.
    """
    for last_try in (False, True):
        try:
            with transaction.atomic():
                return claim_once(rater=rater, project=project, beside=beside)
        except IntegrityError:
            if last_try:  # the unique index (comparison, rater) is the second net; it has nothing to catch twice
                raise
    return None


def claim_once(*, rater: User, project: Project, beside: Sequence[UUID]) -> Presentation | None:
    """One try of ``claim``, within the caller's transaction."""
    lock_rater(rater)
    lease = timedelta(minutes=project.lease_minutes)
    held = list(Presentation.objects.raw(HELD_NOW, {"rater": rater.pk, "project": project.pk}))
    others = [one for one in held if one.token not in beside]
    # What another tab hands back at this moment may be somebody else's already.
    presentation = next((one for one in others if keep_on(one, lease)), None)
    if presentation:
        presentation = as_shown_now(presentation, project, is_ahead=bool(beside))
    elif len(held) - len(others) < MAX_LEASES:
        presentation = lease_next(rater=rater, project=project, lease=lease, is_ahead=bool(beside))
    if presentation and presentation.shown_at is None and not beside:
        mark_shown(rater=rater, token=presentation.token)
    return presentation


def keep_on(presentation: Presentation, lease: timedelta) -> bool:
    """Renew the lease under which something was handed out, within the caller's transaction; False: it is over."""
    slot = Slot.objects.filter(pk=presentation.slot_id, token=presentation.token, state=Slot.State.LEASED)
    return slot.update(lease_until=Now() + lease) == 1


def lease_next(*, rater: User, project: Project, lease: timedelta, is_ahead: bool) -> Presentation | None:
    """Lease the first slot that is free for ``rater``, within the caller's transaction."""
    token = uuid.uuid4()
    seconds = lease.total_seconds()
    with connection.cursor() as cursor:
        cursor.execute(
            NEXT_SLOT,
            {"project": project.pk, "rater": rater.pk, "token": token, "seconds": seconds, "ahead": is_ahead},
        )
        found = cursor.fetchone()
    if found is None:
        return None
    slot_id, kind, guideline_id, comparison_id = found
    order = draw_order(comparison_id) if kind == Comparison.Kind.RANKING else []
    return Presentation.objects.create(
        slot_id=slot_id,
        rater=rater,
        token=token,
        first_is_left=kind != Comparison.Kind.PAIR or draw_side(),
        order=order,
        guideline_id=guideline_id,
        shown_at=None if is_ahead else Now(),
    )


def mark_shown(*, rater: User, token: UUID) -> None:
    """Note that an item which was fetched ahead stands before its rater now; said again, it changes nothing."""
    Presentation.objects.filter(rater=rater, token=token, shown_at=None).update(shown_at=Now())


def as_shown_now(presentation: Presentation, project: Project, *, is_ahead: bool) -> Presentation:
    """``presentation``, or another of the same item in the same order; within the caller's transaction.

    Another where the guideline has changed since: the page that is about to show it shows the new one. A verdict from a
    page that shows the old one comes with the old token, and so is recorded under the old one. Another too where it was
    fetched ahead before and never shown, and is fetched ahead again: a page that was left may still be handing it back,
    by the token that it knows. Asked for at once it keeps its token, by which a page knows what it has judged offline.
    """
    current = current_guideline(project)
    is_current = current is None or current.pk == presentation.guideline_id
    if is_current and not (is_ahead and presentation.shown_at is None):
        return presentation
    token = uuid.uuid4()
    Slot.objects.filter(pk=presentation.slot_id).update(token=token)
    return Presentation.objects.create(
        slot_id=presentation.slot_id,
        rater_id=presentation.rater_id,
        token=token,
        first_is_left=presentation.first_is_left,
        order=presentation.order,
        guideline=current,
    )


def draw_side() -> bool:
    """Whether the first sample of a pair shall stand left: a fair coin that nobody can foresee."""
    return secrets.randbits(1) == 1


def draw_order(comparison_id: UUID) -> list[int]:
    """In which order the samples of a ranking shall stand: each order as likely as any other."""
    order = list(range(2 + FurtherSample.objects.filter(comparison=comparison_id).count()))
    secrets.SystemRandom().shuffle(order)
    return order


def renew(*, rater: User, project: Project, token: UUID) -> bool:
    """Keep a lease for another ``lease_minutes``; False where the item is no longer this rater's."""
    slot = Slot.objects.filter(rater=rater, project=project, token=token, state__in=HELD)
    return slot.update(lease_until=Now() + timedelta(minutes=project.lease_minutes)) == 1


def release(*, rater: User, token: UUID) -> bool:
    """Hand an item back unjudged; False where it was not held."""
    return free(Slot.objects.filter(rater=rater, token=token, state=Slot.State.LEASED)) == 1


def release_unseen(*, rater: User, project: Project, token: UUID) -> bool:
    """Hand an item back that was fetched ahead; False where it was not held or was shown, perhaps by another tab."""
    unseen = Presentation.objects.filter(rater=rater, token=token, shown_at=None)
    held = Slot.objects.filter(rater=rater, project=project, state=Slot.State.LEASED)
    return free(held.filter(token__in=unseen.values("token"))) == 1


def release_all(*, rater: User, project: Project) -> int:
    """Hand back whatever the rater holds in a project, for a pause; the number of items."""
    held = Slot.objects.filter(rater=rater, project=project, state=Slot.State.LEASED)
    return sum(release(rater=rater, token=token) for token in held.values_list("token", flat=True))


def skip(*, rater: User, project: Project, token: UUID, reason: str = "") -> None:
    """Pass an item by: this rater is never offered it again, others may be. ``reason``: one of SKIP_REASONS, or none.

    Raises:
        TokenUnknown: the item was never shown to this rater in this project.
        SubmissionConflict: the rater has judged it already.
    """
    if reason and reason not in SKIP_REASONS:
        raise StudioError(
            _("There is no reason %(reason)r to skip an item: %(reasons)s or none.")
            % {"reason": reason[:20], "reasons": ", ".join(SKIP_REASONS)}
        )
    presentation = find_presentation(rater=rater, project=project, token=token)
    comparison = presentation.slot.comparison
    with transaction.atomic():
        lock_rater(rater)
        stored = stored_rating(comparison=comparison, rater=rater)
        if stored:
            raise SubmissionConflict(choice_as_pressed(stored))
        Skip.objects.get_or_create(comparison=comparison, rater=rater, defaults={"reason": reason})
        free(Slot.objects.filter(comparison=comparison, rater=rater, state=Slot.State.LEASED))


def free(slots: QuerySet[Slot]) -> int:
    """Open a slot again, under a fresh token, or close it where its policy has retired; 0 where ``slots`` is empty."""
    state = Case(When(IS_RETIRED, then=Value(Slot.State.VOID)), default=Value(Slot.State.OPEN))
    return slots.update(state=state, rater=None, lease_until=None, token=uuid.uuid4())


# --- Verdicts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a verdict: ``rating`` is stored in every case.

    ``is_duplicate``: it was there before. ``is_late``: the lease was over and the slot gone, so that the rating is
    kept beyond the wanted overlap.
    """

    rating: Rating
    is_duplicate: bool
    is_late: bool


def submit(
    *,
    rater: User,
    project: Project,
    token: UUID,
    submission_id: UUID,
    choice: str,
    extras: Extras = NOTHING_MORE,
    active_ms: int | None = None,
    source: str = Rating.Source.HUMAN,
) -> Submission:
    """Store the verdict of ``rater`` on the item shown under ``token``.

    Args:
        submission_id: the page's idempotency key: sent twice, the answer is the same.
        choice: what was pressed, in the order shown (see ``modes``); it is turned into a verdict about samples here.
        extras: what the rater sent beside it: flags, a reason.
        active_ms: from first paint to verdict, as the page measured it; nonsense is left out.
        source: a simulated rater's ratings are stored as simulated, whatever is said here.

    Raises:
        TokenUnknown: the item was never shown to this rater in this project.
        ChoiceInvalid: this kind of item has no such choice.
        RemarkInvalid: what was sent beside it cannot be kept.
        SubmissionConflict: the rater has given another verdict on this item, or used this key for another.
    """
    presentation = find_presentation(rater=rater, project=project, token=token)
    comparison = presentation.slot.comparison
    try:
        judgement = judge(presentation, project, choice, extras)
    except RemarkInvalid:
        if known := sent_before(rater=rater, comparison=comparison, submission_id=submission_id):
            return known
        raise
    with transaction.atomic():
        lock_rater(rater)
        stored = stored_rating(comparison=comparison, rater=rater, submission_id=submission_id)
        if stored:
            if not says_the_same(stored, comparison, judgement):
                raise SubmissionConflict(choice_as_pressed(stored))
            return Submission(stored, is_duplicate=True, is_late=not stored.counts_toward_overlap)
        slot = take_slot(presentation)
        rating = Rating.objects.create(
            project=project,
            comparison=comparison,
            slot_id=presentation.slot_id if slot is None else slot,
            presentation=presentation,
            rater=rater,
            submission_id=submission_id,
            verdict=judgement.verdict,
            both_bad=judgement.both_bad,
            details=judgement.details,
            flags=judgement.flags,
            reason=judgement.reason,
            source=Rating.Source.SIMULATED if rater.is_simulated else source,
            counts_toward_overlap=slot is not None,
            active_ms=bounded(active_ms),
        )
        TurnVerdict.objects.bulk_create(mode_of(comparison.kind).parts(rating))
    return Submission(rating, is_duplicate=False, is_late=slot is None)


def judge(
    presentation: Presentation, project: Project, choice: str, extras: Extras, given: Sequence[str] = ()
) -> Judgement:
    """What was said, as a verdict about samples with its remarks. Raises ChoiceInvalid and RemarkInvalid.

    ``given``: flags that the verdict has had before; they may stay, be they the project's still or not.
    """
    judgement = mode_of(presentation.slot.comparison.kind).judge(choice, extras, presentation)
    permitted = [*project.flags, *(flag for flag in given if flag not in project.flags)]
    return replace(judgement, **extras.remarks(permitted))


def sent_before(*, rater: User, comparison: Comparison, submission_id: UUID) -> Submission | None:
    """What was stored of this item under this key, when its remarks were still permitted: a flag, since taken away."""
    stored = Rating.objects.filter(rater=rater, comparison=comparison, submission_id=submission_id).first()
    if stored is None:
        return None
    return Submission(stored, is_duplicate=True, is_late=not stored.counts_toward_overlap)


TAKE_SLOT = """
UPDATE feedback_slot
SET state = 'done', rater_id = %(rater)s, lease_until = NULL
WHERE id = (
    SELECT id
    FROM feedback_slot
    WHERE comparison_id = %(comparison)s
      AND (state = 'open' OR (rater_id = %(rater)s AND state IN ('leased', 'void')))
    ORDER BY state = 'open', id
    LIMIT 1
    FOR NO KEY UPDATE
)
RETURNING id
"""


def take_slot(presentation: Presentation) -> int | None:
    """Close the slot that this presentation's rating fills; None where it was given to somebody else meanwhile.

    That is the slot of this item which the rater holds, be the lease over or not; else one of its slots that stands
    open, for instance because it was handed back.
    """
    with connection.cursor() as cursor:
        cursor.execute(TAKE_SLOT, {"rater": presentation.rater_id, "comparison": presentation.slot.comparison_id})
        found = cursor.fetchone()
    return found[0] if found else None


def revise(
    *,
    rater: User,
    project: Project,
    token: UUID,
    submission_id: UUID,
    choice: str,
    extras: Extras = NOTHING_MORE,
    active_ms: int | None = None,
) -> Submission:
    """Change one's mind: the verdict becomes a new revision, the old one stays as it was, no longer current.

    Datasets that were frozen before keep the old revision. An item that was skipped gets its first verdict.

    Raises:
        TokenUnknown: the item was never shown to this rater in this project, or never judged nor skipped.
        ChoiceInvalid: this kind of item has no such choice.
        RemarkInvalid: what was sent beside it cannot be kept.
        SubmissionConflict: this key was used for another verdict.
        RevisionClosed: it is neither among the rater's last acts nor young enough.
    """
    presentation = find_presentation(rater=rater, project=project, token=token)
    comparison = presentation.slot.comparison
    before = Rating.objects.filter(comparison=comparison, rater=rater, is_current=True).first()
    try:
        judgement = judge(presentation, project, choice, extras, given=before.flags if before else ())
    except RemarkInvalid:
        if known := sent_before(rater=rater, comparison=comparison, submission_id=submission_id):
            return known
        raise
    with transaction.atomic():
        lock_rater(rater)
        stored = stored_rating(comparison=comparison, rater=rater, submission_id=submission_id)
        if stored is None and not Skip.objects.filter(comparison=comparison, rater=rater).exists():
            raise TokenUnknown
        is_same = stored is not None and says_the_same(stored, comparison, judgement)
        if stored and stored.submission_id == submission_id and not is_same:
            raise SubmissionConflict(choice_as_pressed(stored))
        if stored and is_same:
            return Submission(stored, is_duplicate=True, is_late=not stored.counts_toward_overlap)
        if not may_revise(rater, project, comparison.pk):
            raise RevisionClosed(acts=LAST_ACTS, hours=REVISION_HOURS)
        if stored is None:
            return submit(
                rater=rater,
                project=project,
                token=token,
                submission_id=submission_id,
                choice=choice,
                extras=extras,
                active_ms=active_ms,
            )
        Rating.objects.filter(pk=stored.pk).update(is_current=False)
        rating = Rating.objects.create(
            project_id=stored.project_id,
            comparison=comparison,
            slot_id=stored.slot_id,
            presentation=presentation,
            rater=rater,
            submission_id=submission_id,
            revision=stored.revision + 1,
            verdict=judgement.verdict,
            both_bad=judgement.both_bad,
            details=judgement.details,
            flags=judgement.flags,
            reason=judgement.reason,
            source=stored.source,
            counts_toward_overlap=stored.counts_toward_overlap,
            active_ms=bounded(active_ms),
        )
        TurnVerdict.objects.bulk_create(mode_of(comparison.kind).parts(rating))
    return Submission(rating, is_duplicate=False, is_late=not rating.counts_toward_overlap)


# --- Shared by the above ---------------------------------------------------------------------------------------------


def bounded(active_ms: int | None) -> int | None:
    """A time that a page measured, or None where it cannot be right."""
    return active_ms if active_ms is not None and 0 <= active_ms < 2**31 else None


def find_presentation(*, rater: User, project: Project, token: UUID) -> Presentation:
    """What was shown to ``rater`` under ``token`` in ``project``, however long ago.

    Raises:
        TokenUnknown: nothing was.
    """
    shown_then = Presentation.objects.select_related("slot__comparison")
    try:
        found = shown_then.get(rater=rater, slot__project=project, token=token)
    except Presentation.DoesNotExist:
        raise TokenUnknown from None
    load_rankings([found.slot.comparison])
    return found


def stored_rating(*, comparison: Comparison, rater: User, submission_id: UUID | None = None) -> Rating | None:
    """What was sent under this key before, whatever it was about; else the rater's current verdict on this item."""
    is_current = Q(comparison=comparison, is_current=True)
    asked = is_current if submission_id is None else is_current | Q(submission_id=submission_id)
    rows = list(Rating.objects.filter(asked, rater=rater))
    return next((row for row in rows if row.submission_id == submission_id), None) or next(iter(rows), None)


def says_the_same(stored: Rating, comparison: Comparison, judgement: Judgement) -> bool:
    """Whether a stored rating is this verdict on this item; the project's flags may stand in another order by now."""
    before = replace(Judgement.of(stored), flags=sorted(stored.flags))
    return stored.comparison_id == comparison.pk and before == replace(judgement, flags=sorted(judgement.flags))
