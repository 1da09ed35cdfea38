"""What changes runs: asking for one, cancelling it, and all that its supervisor reports.

The run row is the truth. A supervisor holds it by a lease, which the database's clock ends, and a fence, a number that
grows with every claim. Everything that a supervisor writes names its fence and is refused (FenceLost) once another has
claimed the run, the reaper has given it up or it has ended. So however often a message comes, and however late a
stopped process wakes up, one at most can write.

  queued -> starting -> running -> succeeded | failed        a lapsed lease: back to queued, or failed after
  queued -> cancelled   starting, running -> cancelling -> cancelled        RUN_MAX_ATTEMPTS claims without progress
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Case, F, Max, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce, Now
from django.utils.translation import gettext as _

from rlhf_core.config import (
    EvaluateConfig,
    PolicyConfig,
    RewardConfig,
    Settings,
    SFTConfig,
    settings_from_dict,
    settings_hash,
    settings_to_dict,
)
from webapp import queue
from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.errors import (
    FenceLost,
    NoHeldOutPrompts,
    NoPolicy,
    NoPrompts,
    NotEnoughFeedback,
    OneSidedFeedback,
    RequestReused,
    WrongCheckpoint,
)
from webapp.feedback.services import NewSample, record_samples
from webapp.projects.models import Project
from webapp.projects.selectors import prompts_to_train_on
from webapp.quality.demonstrations import DemonstrationRules
from webapp.quality.models import Dataset
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import freeze, freeze_demonstrations
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import held_out_prompts, policies, serving
from webapp.registry.services import record_checkpoint, sampling_settings
from webapp.runs.models import Evaluation, EvaluationSample, Run, RunEvent, RunMetrics, RunOutput, RunSample
from webapp.runs.selectors import JUDGES, judges_request, parts_of, simulated_ratings, simulating, wants_scores

logger = logging.getLogger(__name__)

State = Run.State
HELD = (State.STARTING, State.RUNNING, State.CANCELLING)
"""The states in which a supervisor holds a run."""
MAX_MESSAGE_CHARACTERS = 10_000


# --- Asking for a run ------------------------------------------------------------------------------------------------


def start_reward_run(
    *, actor: User | None, project: Project, config: RewardConfig, request_id: UUID, with_judge: bool = False
) -> Run:
    """Freeze the ratings given so far and queue the training of a reward model on them.

    The same ``request_id`` again gives the run that there is: a double click is one run. ``with_judge``: the model
    learns from one half of the prompts alone, and a second run, queued behind it, makes its independent judge of the
    other half.

    Raises:
        NoPolicy: nothing serves, so there is nothing to start from.
        NotEnoughFeedback: fewer usable ratings than ``config.minimum_ratings``.
        OneSidedFeedback: the ratings all say the same.
        RequestReused: the key was used for another request.
    """
    with transaction.atomic():
        lock_project(project)
        known = find_request(project, Run.Kind.REWARD, request_id)
        if known:
            return known
        counts = usable_ratings(project)
        needed = config.minimum_ratings * (2 if with_judge else 1)
        if counts.total < needed:
            raise NotEnoughFeedback(found=counts.total, needed=needed)
        if counts.is_one_sided:
            raise OneSidedFeedback(ties=counts.ties, singles=counts.singles)
        dataset = freeze(actor=actor, project=project)
        asked = [(config, request_id)]
        if with_judge:
            asked = [
                (replace(config, part="first"), request_id),
                (replace(config, part=JUDGES), judges_request(request_id)),
            ]
        runs = [
            queue_run(
                actor=actor,
                project=project,
                kind=Run.Kind.REWARD,
                config=settings_of_run,
                request_id=key,
                dataset=dataset,
                reward_model=None,
            )
            for settings_of_run, key in asked
        ]
        return runs[0]


def start_sft_run(
    *, actor: User | None, project: Project, config: SFTConfig, rules: DemonstrationRules, request_id: UUID
) -> Run:
    """Freeze the best-rated answers and queue the fine-tuning of the serving policy on them; ``request_id`` as above.

    Raises:
        NoPolicy: nothing serves, so there is nothing to start from.
        NotEnoughDemonstrations: fewer good answers than ``rules`` ask for.
        RequestReused: the key was used for another request.
    """
    with transaction.atomic():
        lock_project(project)
        known = find_request(project, Run.Kind.SFT, request_id)
        if known:
            return known
        return queue_run(
            actor=actor,
            project=project,
            kind=Run.Kind.SFT,
            config=config,
            request_id=request_id,
            dataset=freeze_demonstrations(actor=actor, project=project, rules=rules),
            reward_model=None,
        )


def start_policy_run(
    *,
    actor: User | None,
    project: Project,
    config: PolicyConfig,
    reward_model: Checkpoint,
    request_id: UUID,
    judge: Checkpoint | None = None,
) -> Run:
    """Queue the improvement of the serving policy against ``reward_model``; ``request_id`` as for a reward run.

    ``judge``: scores the same responses, for the watch over over-optimisation.

    Raises:
        NoPolicy: nothing serves, so there is nothing to improve.
        NoPrompts: the project has no prompts to train on.
        WrongCheckpoint: ``reward_model`` is none of this project's reward models, or ``judge`` did not learn from the
            other half of the prompts.
        RequestReused: the key was used for another request.
    """
    check_reward_model(project, reward_model)
    if judge is not None:
        check_judge(project, reward_model, judge)
    with transaction.atomic():
        lock_project(project)
        known = find_request(project, Run.Kind.POLICY, request_id)
        if known:
            return known
        if not prompts_to_train_on(project).exists():
            raise NoPrompts
        return queue_run(
            actor=actor,
            project=project,
            kind=Run.Kind.POLICY,
            config=config,
            request_id=request_id,
            dataset=None,
            reward_model=reward_model,
            judge=judge,
        )


def start_evaluation(
    *,
    actor: User | None,
    project: Project,
    config: EvaluateConfig,
    policy: Checkpoint,
    reward_model: Checkpoint | None = None,
    request_id: UUID,
) -> Run:
    """Queue the comparison of ``policy`` with the policies before it; ``request_id`` as for a reward run.

    It is compared with the policy that it was improved from, the first of its lineage, and the one that serves now.
    Without a ``reward_model`` all but the reward is measured.

    Raises:
        NoHeldOutPrompts: every prompt of the project may have been trained on, or there is none.
        WrongCheckpoint: ``policy`` is none of this project's policies, or ``reward_model`` none of its reward models.
        RequestReused: the key was used for another request.
    """
    if policy.project_id != project.pk or policy.kind != Checkpoint.Kind.POLICY:
        raise WrongCheckpoint(
            _("%(policy)s cannot be evaluated in %(project)s: it is not one of the project's policies.")
            % {"policy": policy, "project": project}
        )
    if reward_model is not None:
        check_reward_model(project, reward_model)
    with transaction.atomic():
        lock_project(project)
        known = find_request(project, Run.Kind.EVALUATE, request_id)
        if known:
            return known
        if not held_out_prompts(project).exists():
            raise NoHeldOutPrompts
        pointer = serving(project)
        return queue_run(
            actor=actor,
            project=project,
            kind=Run.Kind.EVALUATE,
            config=config,
            request_id=request_id,
            dataset=None,
            reward_model=reward_model,
            policy=policy,
            serving_now=pointer.checkpoint if pointer else None,
        )


def check_reward_model(project: Project, reward_model: Checkpoint) -> None:
    """Raise WrongCheckpoint where ``reward_model`` is none of the project's reward models."""
    if reward_model.project_id != project.pk or reward_model.kind != Checkpoint.Kind.REWARD_MODEL:
        raise WrongCheckpoint(
            _("%(reward_model)s is not one of the project's reward models: train one, or take another.")
            % {"reward_model": reward_model}
        )


def check_judge(project: Project, reward_model: Checkpoint, judge: Checkpoint) -> None:
    """Raise WrongCheckpoint where ``judge`` shares ratings with ``reward_model``: it would share its mistakes too."""
    check_reward_model(project, judge)
    parts = parts_of(project)
    if {parts.get(reward_model.pk), parts.get(judge.pk)} != {"first", JUDGES}:
        raise WrongCheckpoint(
            _(
                "%(judge)s can not judge what %(reward_model)s rewards: only two reward models that "
                "learned from different halves of the prompts are independent. Train one together with its "
                "judge, or go without a judge."
            )
            % {"judge": judge, "reward_model": reward_model}
        )


def lock_project(project: Project) -> None:
    """Let other requests for runs of this project wait until the transaction ends."""
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)


def find_request(project: Project, kind: str, request_id: UUID) -> Run | None:
    """The run that was asked for under this key, if there is one."""
    known = Run.objects.filter(request_id=request_id).first()
    if known and (known.project_id, known.kind) != (project.pk, kind):
        raise RequestReused
    return known


def queue_run(
    *,
    actor: User | None,
    project: Project,
    kind: str,
    config: Settings,
    request_id: UUID,
    dataset: Dataset | None,
    reward_model: Checkpoint | None,
    policy: Checkpoint | None = None,
    judge: Checkpoint | None = None,
    serving_now: Checkpoint | None = None,
) -> Run:
    """Write the row of a new run and, once it is committed, ring for a worker.

    ``policy``: what it begins from; the serving one unless given. ``serving_now``: see ``Run.serving``.
    """
    if policy is None:
        pointer = serving(project)
        if pointer is None:
            raise NoPolicy
        policy = pointer.checkpoint
    last = Run.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0
    try:
        with transaction.atomic():
            run = Run.objects.create(
                project=project,
                number=last + 1,
                kind=kind,
                config=settings_to_dict(config),
                config_sha256=settings_hash(config),
                dataset=dataset,
                policy=policy,
                reward_model=reward_model,
                judge=judge,
                serving=serving_now,
                request_id=request_id,
                started_by=actor,
            )
    except IntegrityError as error:  # the lock is the project's: only another project can have taken the key meanwhile
        raise RequestReused from error
    what = f"{run.get_kind_display()} ({run.algorithm})" if run.algorithm else run.get_kind_display()
    note(run, "queued", f"{what} {'of' if kind == Run.Kind.EVALUATE else 'from'} {policy}")
    record_audit(actor=actor, action=f"run.{kind}", target=f"{project.slug} run {run.number}")
    transaction.on_commit(partial(queue.ring, run.pk), robust=True)  # a hint: the reaper rings anyway
    return run


def cancel(*, actor: User | None, run: Run) -> Run:
    """Stop a run: at once where nobody holds it, else as soon as its supervisor hears of it. A finished run stays."""
    with transaction.atomic():
        row = Run.objects.select_for_update(no_key=True).get(pk=run.pk)
        if row.is_finished or row.state == State.CANCELLING:
            return row
        row.cancel_requested_at = database_now()
        if row.state == State.QUEUED:
            row.state, row.finished_at = State.CANCELLED, row.cancel_requested_at
        else:
            row.state = State.CANCELLING
        row.save(update_fields=["state", "cancel_requested_at", "finished_at"])
        note(row, str(row.state), f"asked by {actor}" if actor else "")
        record_audit(actor=actor, action="run.cancel", target=f"{row.project.slug} run {row.number}")
    return row


def ask_for_simulated_ratings(*, actor: User | None, project: Project, count: int) -> bool:
    """Let simulated raters give ``count`` ratings more; False where they are still at what was asked before.

    What is kept is how many there shall be in all: said twice, or by messages that come twice, it is the same number.
    """
    with transaction.atomic():
        lock_project(project)
        if simulating(project, count):
            return False
        target = simulated_ratings(project) + count
        Project.objects.filter(pk=project.pk).update(simulated_target=target, simulated_asked_at=Now())
        record_audit(actor=actor, action="ratings.simulate", target=project.slug, count=count)
        transaction.on_commit(partial(queue.simulate, project.pk), robust=True)  # a hint: the beat looks too
    return True


# --- For the supervisor ----------------------------------------------------------------------------------------------


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


def record_progress(claim: Claim, *, step: int, total_steps: int | None = None, phase: str = "") -> None:
    """The training process has spoken: the run is running, and so far it has come."""
    is_starting = When(state=State.STARTING, then=Value(State.RUNNING))
    update_held(
        claim,
        state=Case(is_starting, default=F("state")),
        step=step,
        phase=phase[:40],
        **({} if total_steps is None else {"total_steps": total_steps}),
    )


def record_metrics(claim: Claim, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
    """Write metrics by step; a step that comes again replaces what it said before."""
    by_step = {step: finite(dict(values)) for step, values in rows}
    with transaction.atomic():
        lock_held(claim)
        RunMetrics.objects.bulk_create(
            [RunMetrics(run=claim.run, step=step, values=values) for step, values in by_step.items()],
            update_conflicts=True,
            unique_fields=["run", "step"],
            update_fields=["values"],
        )


def record_read(claim: Claim, offset: int) -> None:
    """So many bytes of the run's events are recorded; within the transaction that recorded them."""
    update_held(claim, events_offset=offset)


def record_log(claim: Claim, message: str) -> None:
    """A line of the run's log."""
    with transaction.atomic():
        lock_held(claim)
        note(claim.run, "log", message, fence=claim.fence)


def record_texts(claim: Claim, texts: Iterable[Mapping[str, Any]]) -> None:
    """What the policy in training wrote: ``step``, ``prompt``, ``response``. A text that comes twice is kept once."""
    rows = [
        RunSample(run=claim.run, step=text["step"], prompt=clean(text["prompt"]), response=clean(text["response"]))
        for text in texts
    ]
    with transaction.atomic():
        lock_held(claim)
        RunSample.objects.bulk_create(rows, ignore_conflicts=True)


def record_saved(claim: Claim, step: int, *, is_further: bool = False) -> None:
    """The training process has saved its state at ``step``; if that is further than before, attempts count anew.

    ``is_further``: it is, though ``step`` may be the same: a step may take many optimiser steps.
    """
    with transaction.atomic():
        run = lock_held(claim)
        if step > run.saved_step or is_further:
            run.saved_step, run.attempt = max(step, run.saved_step), 0
            run.save(update_fields=["saved_step", "attempt"])


@dataclass(frozen=True, slots=True)
class DrawnAnswer:
    """A response that an evaluation drew: of which checkpoint (its SHA-256), its score, and how sure that is."""

    checkpoint: str
    sample: NewSample
    reward: float | None
    uncertainty: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluation run found: the report of result.json, and every response it drew."""

    report: Mapping[str, Any]
    answers: Sequence[DrawnAnswer]


def succeed(
    claim: Claim,
    *,
    outputs: Iterable[Mapping[str, Any]],
    result: Mapping[str, Any],
    evaluation: EvaluationResult | None = None,
    report: Mapping[str, Any] | None = None,
) -> Run:
    """Finish a run with what it made: checkpoint rows, their origin and the new state, all or nothing.

    ``outputs`` are those of result.json (``kind`` and ``id``, the checkpoint's SHA-256), ``result`` its metrics; an
    evaluation's samples and findings are written in the same transaction, so that none comes twice; another run's
    ``report`` is kept with its numbers.
    Where a cancel was asked for before the result came, the run ends as cancelled, with no outputs.
    """
    with transaction.atomic():
        run = lock_held(claim)
        if run.cancel_requested_at:
            return end(claim, run, State.CANCELLED, "finished after it was cancelled; the result was left out")
        numbers = finite(dict(result))
        for output in outputs:
            checkpoint = record_checkpoint(
                project=run.project,
                kind=output["kind"],
                sha256=output["id"],
                parent=run.policy if output["kind"] == Checkpoint.Kind.POLICY else None,
                metrics=numbers,
            )
            origin, _ = RunOutput.objects.get_or_create(checkpoint=checkpoint, defaults={"run": run})
            if origin.run_id != run.pk:
                note(run, "log", f"this is bit for bit {checkpoint}, which run {origin.run.number} made")
        if run.kind == Run.Kind.REWARD and wants_scores(run.project):
            transaction.on_commit(partial(queue.score, run.project_id), robust=True)  # a hint: the beat looks too
        if evaluation is not None:
            record_evaluation(run, evaluation)
        run.result = numbers if report is None else {**numbers, "report": finite(dict(report))}
        run.save(update_fields=["result"])
        return end(claim, run, State.SUCCEEDED, "")


def record_evaluation(run: Run, found: EvaluationResult) -> Evaluation:
    """Write down what an evaluation found and drew; within the caller's transaction, which holds the run.

    Raises:
        WrongCheckpoint: it has answers of a policy that was not asked.
    """
    config = settings_from_dict(EvaluateConfig, run.config)
    sampling = sampling_settings(config.sampling)
    references = references_of(run)
    evaluation = Evaluation.objects.create(
        run=run,
        checkpoint=run.policy,
        parent=references.get("parent"),
        base=references.get("base"),
        serving=references.get("serving"),
        reward_model=run.reward_model,
        sampling=sampling,
        prompts=found.report["prompts"],
        metrics=finite(dict(found.report)),
    )
    asked = {policy.sha256: policy for policy in (run.policy, *references.values())}
    by_policy: dict[str, list[DrawnAnswer]] = {}
    for answer in found.answers:
        by_policy.setdefault(answer.checkpoint, []).append(answer)
    for sha256, answers in by_policy.items():
        if sha256 not in asked:
            raise WrongCheckpoint(
                _("The evaluation has answers of checkpoint %(sha256)s, which was not asked.") % {"sha256": sha256[:12]}
            )
        samples = record_samples(
            checkpoint=asked[sha256], sampling=sampling, samples=[answer.sample for answer in answers]
        )
        EvaluationSample.objects.bulk_create(
            [
                EvaluationSample(
                    evaluation=evaluation, sample=sample, reward=answer.reward, uncertainty=answer.uncertainty
                )
                for sample, answer in zip(samples, answers, strict=True)
            ],
            batch_size=500,
        )
    return evaluation


def references_of(run: Run) -> dict[str, Checkpoint]:
    """The policies that an evaluation compares its candidate with, by their part (one query, however long the lineage).

    Parent and base follow from the candidate's lineage, which never changes; a base policy has neither.
    """
    known = {policy.pk: policy for policy in policies(run.project)}
    base = parent = known.get(run.policy.parent_id) if run.policy.parent_id else None
    while base is not None and base.parent_id is not None:
        base = known[base.parent_id]
    found = {"parent": parent, "base": base, "serving": run.serving}
    return {part: policy for part, policy in found.items() if policy is not None and policy != run.policy}


def fail(claim: Claim, error: str) -> Run:
    """Finish a run that cannot go on, with the reason for people; cancelled where a cancel was asked for before."""
    with transaction.atomic():
        run = lock_held(claim)
        state = State.CANCELLED if run.cancel_requested_at else State.FAILED
        return end(claim, run, state, error)


def finish_cancelled(claim: Claim) -> Run:
    """Finish a run whose training process was stopped because a cancel was asked for."""
    with transaction.atomic():
        return end(claim, lock_held(claim), State.CANCELLED, "")


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


# --- Shared by the above ---------------------------------------------------------------------------------------------


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


def note(run: Run, kind: str, message: str, fence: int | None = None) -> None:
    """Append to the run's events."""
    RunEvent.objects.create(run=run, kind=kind, message=clean(message), fence=run.fence if fence is None else fence)


def clean(message: str) -> str:
    """Text that the database can hold, of bounded length; of a longer one, the end tells more than the beginning."""
    text = message.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else "... " + text[-MAX_MESSAGE_CHARACTERS:]


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values for a JSON column, which has no NaN and no infinity: they become null."""
    return {name: finite_value(value) for name, value in values.items()}


def finite_value(value: Any) -> Any:
    """One value of ``finite``, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return finite(value)
    if isinstance(value, list | tuple):
        return [finite_value(item) for item in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


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
