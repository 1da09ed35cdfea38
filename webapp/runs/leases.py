"""Who holds a run: claiming it, keeping it, giving it back, and what becomes of one whose holder is gone.

The run row is the truth. A supervisor holds it by a lease, which the database's clock ends, and a fence, a number that
grows with every claim. Everything that a supervisor writes names its fence and is refused (FenceLost) once another has
claimed the run, the reaper has given it up or it has ended. So however often a message comes, and however late a
stopped process wakes up, one at most can write.

  queued -> starting -> running -> succeeded | failed        a lapsed lease: back to queued, or failed after
  queued -> cancelled   starting, running -> cancelling -> cancelled        RUN_MAX_ATTEMPTS claims without progress
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Coalesce, Now

from webapp import queue
from webapp.errors import FenceLost
from webapp.runs.models import Run
from webapp.runs.notes import clean, note

State = Run.State
HELD = (State.STARTING, State.RUNNING, State.CANCELLING)
"""The states in which a supervisor holds a run."""


@dataclass(frozen=True)
class Claim:
    """A supervisor's hold on a run; ``run`` is as it was when claimed."""

    run: Run
    fence: int
    owner: str

    def held(self) -> QuerySet[Run]:
        """The run, as a query that is empty once this claim holds no longer."""
        return Run.objects.filter(pk=self.run.pk, fence=self.fence, state__in=HELD)


@dataclass(frozen=True, slots=True)
class RenewResult:
    """Whether a claim still holds, and whether somebody asked to cancel the run."""

    alive: bool
    cancel_requested: bool


def claim(run_id: UUID | str, owner: str) -> Claim | None:
    """Take a run that waits, or whose holder is gone; None where there is nothing to take (finished, held, cancelled).

    One UPDATE, so of any number of supervisors that ask at once one gets it.
    """
    lease = timedelta(seconds=settings.RUN_LEASE_SECONDS)
    may_be_taken = Q(state=State.QUEUED) | (Q(state__in=[State.STARTING, State.RUNNING]) & is_expired(Now()))
    free = Run.objects.filter(may_be_taken, pk=run_id, cancel_requested_at=None, attempt__lt=settings.RUN_MAX_ATTEMPTS)
    with transaction.atomic():
        taken = free.update(
            state=State.STARTING,
            lease_owner=owner[:120],
            lease_until=Now() + lease,
            fence=F("fence") + 1,
            attempt=F("attempt") + 1,
            started_at=Coalesce("started_at", Now()),
        )
        if not taken:
            return None
        related = ("project", "dataset", "policy", "reward_model", "judge", "serving")
        run = Run.objects.select_related(*related).get(pk=run_id)
        note(run, "claimed", f"by {owner}, attempt {run.attempt}")
    return Claim(run=run, fence=run.fence, owner=owner)


def is_expired(now: Any) -> Q:
    """A lease that is over; one without an end (which no code of ours writes) is over too, not held for ever."""
    return Q(lease_until__lt=now) | Q(lease_until=None)


def renew(claim: Claim) -> RenewResult:
    """Lengthen the lease; call it every RUN_RENEW_SECONDS. ``alive`` False: stop at once, write nothing more."""
    with transaction.atomic():
        lease = timedelta(seconds=settings.RUN_LEASE_SECONDS)
        if not claim.held().update(lease_until=Now() + lease):
            return RenewResult(alive=False, cancel_requested=False)
        asked = Run.objects.values_list("cancel_requested_at", flat=True).get(pk=claim.run.pk)
    return RenewResult(alive=True, cancel_requested=asked is not None)


def requeue(claim: Claim, *, spend_attempt: bool, reason: str = "") -> Run:
    """Give a run back, to go on from its last saved state.

    ``spend_attempt``: True after a crash, which counts (the run fails where no attempt is left); False where the
    worker itself is asked to stop, which does not.
    """
    with transaction.atomic():
        run = lock_held(claim)
        if run.cancel_requested_at:
            return end(claim, run, State.CANCELLED, reason)
        if spend_attempt and run.attempt >= settings.RUN_MAX_ATTEMPTS:
            return end(claim, run, State.FAILED, given_up(run, reason))
        run.state, run.lease_owner, run.lease_until = State.QUEUED, "", None
        run.attempt = run.attempt if spend_attempt else max(run.attempt - 1, 0)
        run.save(update_fields=["state", "lease_owner", "lease_until", "attempt"])
        note(run, "requeued", reason)
        transaction.on_commit(partial(queue.ring, run.pk), robust=True)
    return run


def reap(now: datetime | None = None) -> list[UUID]:
    """Give up the leases of holders that are gone, and say which runs wait for a worker, longest first.

    A run whose attempts are spent fails, also one that waits while the limit is lowered, since nobody could claim it;
    one that was being cancelled is cancelled, also where its holder lives and has not stopped for RUN_CANCEL_SECONDS;
    the others wait again. ``now`` is the database's clock unless a test gives another. Where the database itself has
    only just started, holders had no chance to renew: then no lease is given up until one lease time after its start.
    """
    if now is not None or not database_is_fresh():
        moment: Any = Now() if now is None else now
        limit = timedelta(seconds=settings.RUN_CANCEL_SECONDS)
        does_not_stop = Q(state=State.CANCELLING, cancel_requested_at__lt=moment - limit)
        lapsed = Run.objects.filter(is_expired(moment) | does_not_stop, state__in=HELD)
        for run_id in lapsed.order_by("created_at").values_list("pk", flat=True):
            with transaction.atomic():
                run = lapsed.select_for_update(no_key=True, skip_locked=True).filter(pk=run_id).first()
                if run:
                    give_up_lease(run)
    spent = Run.objects.filter(state=State.QUEUED, attempt__gte=settings.RUN_MAX_ATTEMPTS)
    for run_id in spent.values_list("pk", flat=True):
        with transaction.atomic():
            run = spent.select_for_update(no_key=True, skip_locked=True).filter(pk=run_id).first()
            if run:
                end(None, run, State.FAILED, given_up(run, f"at most {settings.RUN_MAX_ATTEMPTS} are permitted now"))
    return list(Run.objects.filter(state=State.QUEUED).order_by("created_at").values_list("pk", flat=True))


def give_up_lease(run: Run) -> None:
    """Let a run whose holder is gone wait again, or end it; within the caller's transaction, which holds the row."""
    message = f"{run.lease_owner or 'its holder'} is gone"
    if run.cancel_requested_at or run.state == State.CANCELLING:
        end(None, run, State.CANCELLED, f"{message} or does not stop")
    elif run.attempt >= settings.RUN_MAX_ATTEMPTS:
        end(None, run, State.FAILED, given_up(run, message))
    else:
        run.state, run.lease_owner, run.lease_until = State.QUEUED, "", None
        run.save(update_fields=["state", "lease_owner", "lease_until"])
        note(run, "lost", message)


def lock_held(claim: Claim) -> Run:
    """The run as it is now, kept from others until the transaction ends.

    Raises:
        FenceLost: the claim holds no longer.
    """
    related = ("project", "policy", "reward_model", "serving")
    run = claim.held().select_for_update(no_key=True, of=("self",)).select_related(*related).first()
    if run is None:
        raise FenceLost(run=claim.run, fence=claim.fence)
    return run


def update_held(claim: Claim, **values: Any) -> None:
    """Change the run under its fence, in one statement.

    Raises:
        FenceLost: the claim holds no longer.
    """
    if not claim.held().update(**values):
        raise FenceLost(run=claim.run, fence=claim.fence)


def end(claim: Claim | None, run: Run, state: Run.State, message: str) -> Run:
    """Bring a locked run into a final state."""
    run.state, run.lease_owner, run.lease_until, run.finished_at = state, "", None, database_now()
    run.error = clean(message) if state != State.SUCCEEDED else ""
    run.save(update_fields=["state", "lease_owner", "lease_until", "finished_at", "error"])
    note(run, str(state), message)
    return run


def given_up(run: Run, reason: str) -> str:
    """Why a run fails that was tried too often."""
    tries = f"given up after {run.attempt} attempts without saved progress between them"
    return f"{tries}; the last: {reason}" if reason else tries


def database_now() -> datetime:
    """The database's clock, the only one that decides."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        return cursor.fetchone()[0]


def database_is_fresh() -> bool:
    """Whether the database server started less than one lease ago."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now() - pg_postmaster_start_time()")
        return cursor.fetchone()[0] < timedelta(seconds=settings.RUN_LEASE_SECONDS)
