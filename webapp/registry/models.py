"""Trained models: checkpoints, sampling settings, and which policy serves."""

from django.conf import settings
from django.db import models
from django.utils.translation import gettext as _

from webapp.ids import uuid7
from webapp.projects.models import Project


class Checkpoint(models.Model):
    """Append-only: a saved policy or reward model; ``sha256`` names its folder in the checkpoint store."""

    class Kind(models.TextChoices):
        POLICY = "policy"
        REWARD_MODEL = "reward_model", "reward model"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="checkpoints")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    version = models.PositiveIntegerField(help_text="1, 2, 3 ... within project and kind")
    sha256 = models.CharField(max_length=64)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="children")
    source = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="copies",
        help_text="the same policy in the project that it was taken over from",
    )
    metrics = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "kind", "version"], name="one_checkpoint_a_version"),
            models.UniqueConstraint(fields=["project", "sha256"], name="one_checkpoint_a_content"),
        ]
        ordering = ["-version"]

    def __str__(self) -> str:
        return (
            f"v{self.version}"
            if self.kind == self.Kind.POLICY
            else _("reward model %(version)s") % {"version": self.version}
        )


class SamplingSettings(models.Model):
    """Append-only: how samples are drawn (rlhf_core.config.SamplingConfig); equal settings are one row."""

    values = models.JSONField()
    sha256 = models.CharField(max_length=64, unique=True)

    def __str__(self) -> str:
        return self.sha256[:8]


class ServingPointer(models.Model):
    """Which policy of a project serves, changed by compare-and-set on ``epoch``."""

    project = models.OneToOneField(Project, primary_key=True, on_delete=models.PROTECT, related_name="serving")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="+")
    sampling = models.ForeignKey(SamplingSettings, on_delete=models.PROTECT, related_name="+")
    epoch = models.PositiveIntegerField(default=1)
    changed_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.project} serves {self.checkpoint}"


class Promotion(models.Model):
    """Append-only: the pointer moved, who moved it, and why. A rollback is a promotion of an earlier checkpoint."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="promotions")
    from_checkpoint = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")
    to_checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="+")
    epoch = models.PositiveIntegerField()
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=300, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "epoch"], name="one_promotion_an_epoch")]
        ordering = ["-epoch"]

    def __str__(self) -> str:
        return f"{self.project}: {self.to_checkpoint}"
