"""What changes the registry: new checkpoints, and which policy serves with which sampling settings."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Max
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from rlhf_core.config import SamplingConfig, settings_hash, settings_to_dict
from webapp import queue
from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.errors import NoPolicy, PromotionConflict, WrongCheckpoint
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint, Promotion, SamplingSettings, ServingPointer
from webapp.registry.selectors import serving
from webapp.registry.signals import promoted


def record_checkpoint(
    *,
    project: Project,
    kind: str,
    sha256: str,
    parent: Checkpoint | None = None,
    source: Checkpoint | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """The row of a checkpoint in the store, with the next version of its kind; the row there is, if it is known.

    What has no ``parent`` was brought in: from ``source``, else from the project that had this content first, if any.

    Raises:
        WrongCheckpoint: the checkpoint is known in this project as of another kind.
    """
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # two at once: one version after the other
        known = Checkpoint.objects.filter(project=project, sha256=sha256).first()
        if known:
            if known.kind != kind:
                raise WrongCheckpoint(
                    _("Checkpoint %(sha256)s is %(known)s, not a %(kind)s.")
                    % {"sha256": sha256[:12], "known": known, "kind": kind}
                )
            return known
        if kind == Checkpoint.Kind.POLICY and parent is None and source is None:
            source = Checkpoint.objects.filter(sha256=sha256, kind=kind).order_by("created_at").first()
        of_kind = Checkpoint.objects.filter(project=project, kind=kind)
        return Checkpoint.objects.create(
            project=project,
            kind=kind,
            version=(of_kind.aggregate(last=Max("version"))["last"] or 0) + 1,
            sha256=sha256,
            parent=parent,
            source=source,
            metrics=dict(metrics or {}),
        )


def sampling_settings(config: SamplingConfig) -> SamplingSettings:
    """The row of these sampling settings; equal settings are one row."""
    row, _ = SamplingSettings.objects.get_or_create(
        sha256=settings_hash(config), defaults={"values": settings_to_dict(config)}
    )
    return row


def promote(
    *,
    project: Project,
    checkpoint: Checkpoint,
    actor: User | None,
    expected_epoch: int,
    reason: str = "",
    sampling: SamplingSettings | None = None,
) -> Promotion:
    """Let ``checkpoint`` serve. An earlier one is a rollback; nothing else tells the two apart.

    Compare-and-set: ``expected_epoch`` is the pointer's epoch that the decision was made on, 0 where nothing serves.
    ``sampling`` stays as it is unless given; the first promotion takes the defaults. In the same transaction, slots of
    the retired policy that nobody holds are closed; after it, the sampler is asked for new samples.

    Raises:
        WrongCheckpoint: of another project, or no policy.
        PromotionConflict: the pointer stands at another epoch; of two at once, one wins.
    """
    if checkpoint.project_id != project.pk or checkpoint.kind != Checkpoint.Kind.POLICY:
        raise WrongCheckpoint(
            _("%(checkpoint)s cannot serve in %(project)s: it is not one of the project's policies.")
            % {"checkpoint": checkpoint, "project": project}
        )
    return move_pointer(
        project=project,
        checkpoint=checkpoint,
        sampling=sampling,
        actor=actor,
        expected_epoch=expected_epoch,
        reason=reason,
        action="policy.promote",
    )


def adopt_policy(*, project: Project, source: ServingPointer, actor: User | None) -> Promotion:
    """Let the policy that serves in another project serve here too, with its sampling settings, as the first policy.

    Raises:
        PromotionConflict: a policy serves here already.
    """
    with transaction.atomic():
        return promote(
            project=project,
            checkpoint=record_checkpoint(
                project=project,
                kind=Checkpoint.Kind.POLICY,
                sha256=source.checkpoint.sha256,
                source=source.checkpoint,
            ),
            sampling=source.sampling,
            actor=actor,
            expected_epoch=0,
            reason="taken over from another project",
        )


def change_sampling(
    *, project: Project, config: SamplingConfig, actor: User | None, expected_epoch: int, reason: str = ""
) -> Promotion:
    """Let the serving policy draw its samples by other settings from now on.

    Raises:
        NoPolicy: nothing serves yet.
        PromotionConflict: the pointer stands at another epoch.
    """
    pointer = serving(project)
    if pointer is None:
        raise NoPolicy
    return move_pointer(
        project=project,
        checkpoint=pointer.checkpoint,
        sampling=sampling_settings(config),
        actor=actor,
        expected_epoch=expected_epoch,
        reason=reason or "other sampling settings",
        action="sampling.change",
    )


def move_pointer(
    *,
    project: Project,
    checkpoint: Checkpoint,
    sampling: SamplingSettings | None,
    actor: User | None,
    expected_epoch: int,
    reason: str,
    action: str,
) -> Promotion:
    """The compare-and-set of ``promote`` and ``change_sampling``, with its event, audit and follow-ups."""
    with transaction.atomic():
        before = serving(project)
        stands_at = before.epoch if before else 0
        if stands_at != expected_epoch or not set_pointer(project, checkpoint, sampling, expected_epoch):
            now = serving(project)
            raise PromotionConflict(
                expected_epoch=expected_epoch,
                epoch=now.epoch if now else 0,
                serving=str(now.checkpoint) if now else _("no policy"),
            )
        promotion = Promotion.objects.create(
            project=project,
            from_checkpoint=before.checkpoint if before else None,
            to_checkpoint=checkpoint,
            epoch=expected_epoch + 1,
            actor=actor,
            reason=reason[:300],
        )
        record_audit(actor=actor, action=action, target=project.slug, to=str(checkpoint), epoch=promotion.epoch)
        promoted.send(sender=Promotion, project=project, promotion=promotion)
        transaction.on_commit(partial(queue.refill, project.pk), robust=True)  # a hint: the beat refills anyway
    return promotion


def set_pointer(
    project: Project, checkpoint: Checkpoint, sampling: SamplingSettings | None, expected_epoch: int
) -> bool:
    """Move the pointer from ``expected_epoch`` to the next; False where it stands elsewhere, with nothing changed."""
    if expected_epoch:
        values: dict[str, Any] = {"checkpoint": checkpoint, "epoch": F("epoch") + 1, "changed_at": Now()}
        if sampling:
            values["sampling"] = sampling
        return ServingPointer.objects.filter(project=project, epoch=expected_epoch).update(**values) == 1
    try:
        with transaction.atomic():
            ServingPointer.objects.create(
                project=project, checkpoint=checkpoint, sampling=sampling or sampling_settings(SamplingConfig())
            )
    except IntegrityError:  # somebody else was first
        return False
    return True
