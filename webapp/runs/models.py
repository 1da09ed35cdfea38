"""Training and evaluation: runs with lease and fence, what they reported, and what came out."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import MD5
from django.utils.translation import gettext_lazy

from webapp.feedback.models import Sample
from webapp.ids import uuid7
from webapp.projects.models import Project
from webapp.quality.models import Dataset
from webapp.registry.models import Checkpoint, SamplingSettings
from webapp.runs.steps import Steps


class Run(models.Model):
    """One training job. This row is the truth; a queue message is only a doorbell."""

    class Kind(models.TextChoices):
        SFT = "sft", "fine-tuning"
        REWARD = "reward", "reward model"
        POLICY = "policy", "policy"
        EVALUATE = "evaluate", "evaluation"

    class State(models.TextChoices):
        QUEUED = "queued", gettext_lazy("queued")
        STARTING = "starting", gettext_lazy("starting")
        RUNNING = "running", gettext_lazy("running")
        CANCELLING = "cancelling", gettext_lazy("cancelling")
        SUCCEEDED = "succeeded", gettext_lazy("succeeded")
        FAILED = "failed", gettext_lazy("failed")
        CANCELLED = "cancelled", gettext_lazy("cancelled")

    FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="runs")
    number = models.PositiveIntegerField(help_text="1, 2, 3 ... within the project")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    config = models.JSONField()
    config_sha256 = models.CharField(max_length=64)
    dataset = models.ForeignKey(Dataset, null=True, on_delete=models.PROTECT, related_name="runs")
    policy = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="runs_from_policy")
    reward_model = models.ForeignKey(
        Checkpoint, null=True, on_delete=models.PROTECT, related_name="runs_from_reward_model"
    )
    judge = models.ForeignKey(
        Checkpoint,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="of a policy run: the reward model that watches for over-optimisation",
    )
    serving = models.ForeignKey(
        Checkpoint,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="of an evaluation: the policy that served when it was asked for",
    )
    request_id = models.UUIDField(unique=True, help_text="the form's idempotency key: a double click is one run")
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    outputs = models.ManyToManyField(Checkpoint, through="RunOutput", related_name="made_by")

    lease_owner = models.CharField(max_length=120, blank=True)
    lease_until = models.DateTimeField(null=True)
    fence = models.PositiveIntegerField(default=0)
    attempt = models.PositiveSmallIntegerField(default=0, help_text="claims since the last saved progress")
    cancel_requested_at = models.DateTimeField(null=True)

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(null=True)
    phase = models.CharField(max_length=40, blank=True)
    saved_step = models.PositiveIntegerField(default=0)
    events_offset = models.PositiveBigIntegerField(
        default=0, help_text="bytes of the run directory's event file that are recorded here, each event once"
    )
    error = models.TextField(blank=True)
    result = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="one_run_a_number"),
            models.CheckConstraint(
                condition=Q(
                    state__in=["queued", "starting", "running", "cancelling", "succeeded", "failed", "cancelled"]
                ),
                name="run_state_is_known",
            ),
        ]
        indexes = [
            models.Index(
                fields=["state", "created_at"],
                name="run_unfinished",
                condition=Q(state__in=["queued", "starting", "running", "cancelling"]),
            )
        ]
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"run {self.number}"

    @property
    def steps(self) -> Steps:
        """How far it is, in words."""
        return Steps(self.kind, self.step, self.total_steps)

    @property
    def is_finished(self) -> bool:
        return self.state in self.FINISHED

    @property
    def algorithm(self) -> str:
        """Of a policy run, what it improves the policy by: ``PPO``, ``RLOO`` or ``GRPO``; of any other run, empty."""
        return str(self.config.get("algorithm", "ppo")).upper() if self.kind == self.Kind.POLICY else ""


class RunEvent(models.Model):
    """Append-only: something happened to a run (a change of state, a line of its log)."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="events")
    at = models.DateTimeField(auto_now_add=True)
    kind = models.CharField(max_length=20)
    message = models.TextField(blank=True)
    fence = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["run", "id"], name="event_of_run")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.message[:60]}"


class RunMetrics(models.Model):
    """The metrics of one step; a step that comes again after a resume replaces its row."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="one_metrics_row_a_step")]
        ordering = ["step"]

    def __str__(self) -> str:
        return f"step {self.step}"


class RunSample(models.Model):
    """What the policy in training answered after a step; what a resumed run draws once more is kept once."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="samples")
    step = models.PositiveIntegerField()
    prompt = models.TextField()
    response = models.TextField()

    class Meta:
        constraints = [
            models.UniqueConstraint("run", "step", MD5("prompt"), MD5("response"), name="one_text_a_step"),
        ]
        ordering = ["id"]

    def __str__(self) -> str:
        return f"step {self.step}: {self.response[:60]}"


class RunOutput(models.Model):
    """A checkpoint that a run made (so that a checkpoint itself names no run)."""

    run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="run_outputs")
    checkpoint = models.OneToOneField(Checkpoint, on_delete=models.PROTECT, related_name="origin")

    def __str__(self) -> str:
        return f"{self.checkpoint} of {self.run}"


class Evaluation(models.Model):
    """Append-only: what an evaluation found of a candidate beside the policies before it, on held-out prompts.

    ``metrics`` is the report of rlhf_core.training.evaluate: ``policies``, ``kl`` and ``reward_differences``, each by
    the part of a policy ("candidate", "parent", "base", "serving"). A base policy has neither parent nor base.
    """

    run = models.OneToOneField(Run, primary_key=True, on_delete=models.PROTECT, related_name="evaluation")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="evaluations")
    parent = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")
    base = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")
    serving = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")
    reward_model = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")
    sampling = models.ForeignKey(SamplingSettings, on_delete=models.PROTECT, related_name="+")
    prompts = models.PositiveIntegerField(help_text="held-out prompts that each policy answered once")
    metrics = models.JSONField()
    samples = models.ManyToManyField(Sample, through="EvaluationSample", related_name="evaluations")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"evaluation of {self.checkpoint}"


class EvaluationSample(models.Model):
    """Append-only: a response that an evaluation drew, with its score."""

    evaluation = models.ForeignKey(Evaluation, on_delete=models.PROTECT, related_name="items")
    sample = models.ForeignKey(Sample, on_delete=models.PROTECT, related_name="+")
    reward = models.FloatField(null=True, help_text="the reward model's; null where none was asked")
    uncertainty = models.FloatField(
        null=True,
        help_text="standard deviation of the score: how far the reward model's members differ, and what its feedback "
        "leaves open in each; null where it is no ensemble",
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["evaluation", "sample"], name="a_sample_once_an_evaluation")]

    def __str__(self) -> str:
        return f"sample {self.sample_id} of {self.evaluation_id}"
