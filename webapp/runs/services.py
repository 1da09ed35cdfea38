"""What people ask for: a run of each kind, its cancelling, ratings of simulated raters.

A run that was asked for waits in its row; who takes it, and what may be written on it then, is told in ``leases.py``.
"""

from dataclasses import replace
from functools import partial
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from rlhf_core.config import (
    EvaluateConfig,
    PolicyConfig,
    RewardConfig,
    Settings,
    SFTConfig,
    settings_hash,
    settings_to_dict,
)
from webapp import queue
from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.errors import (
    NoHeldOutPrompts,
    NoPolicy,
    NoPrompts,
    NotEnoughFeedback,
    OneSidedFeedback,
    RequestReused,
    WrongCheckpoint,
)
from webapp.projects.models import Project
from webapp.projects.selectors import prompts_to_train_on
from webapp.quality.demonstrations import DemonstrationRules
from webapp.quality.models import Dataset
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import freeze, freeze_demonstrations
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import held_out_prompts, serving
from webapp.runs.leases import database_now
from webapp.runs.models import Run
from webapp.runs.notes import note
from webapp.runs.selectors import JUDGES, judges_request, parts_of, simulated_ratings, simulating

State = Run.State


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
