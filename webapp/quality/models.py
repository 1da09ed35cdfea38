"""What models train on: frozen datasets of rating revisions, and of the demonstrations that ratings chose."""

from django.conf import settings
from django.db import models

from webapp.feedback.models import Rating, Sample
from webapp.ids import uuid7
from webapp.projects.models import Project, Prompt


class Dataset(models.Model):
    """Append-only: a frozen list of rating revisions; ``sha256`` is over the lines that a run reads.

    Of ratings, each of them is such a line. Of demonstrations, the lines are those of ``demonstrations``, and the
    ratings are those by which they were chosen.
    """

    class Kind(models.TextChoices):
        RATINGS = "ratings"
        DEMONSTRATIONS = "demonstrations"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="datasets")
    kind = models.CharField(max_length=14, choices=Kind.choices, default=Kind.RATINGS)
    sha256 = models.CharField(max_length=64)
    rules = models.JSONField(default=dict, help_text="which ratings were taken: sources and so on")
    counts = models.JSONField(default=dict, help_text="pairs, ties, singles, raters, by source")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    ratings = models.ManyToManyField(Rating, through="DatasetItem", related_name="datasets")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "sha256"], name="one_dataset_a_content")]
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"dataset {self.sha256[:8]}"


class DatasetItem(models.Model):
    """One rating revision of a dataset, with its weight in the loss."""

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="items")
    rating = models.ForeignKey(Rating, on_delete=models.PROTECT, related_name="items")
    weight = models.FloatField(default=1.0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["dataset", "rating"], name="a_rating_once_a_dataset")]

    def __str__(self) -> str:
        return f"rating {self.rating_id} in {self.dataset_id}"


class DatasetDemonstration(models.Model):
    """Append-only: one demonstration of a dataset, its text as a run reads it.

    It is the answer ``sample``, or what a rater wrote in its place, in the rating ``rewrite``.
    """

    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="demonstrations")
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="+")
    sample = models.ForeignKey(Sample, on_delete=models.PROTECT, related_name="demonstrations")
    rewrite = models.ForeignKey(Rating, null=True, on_delete=models.PROTECT, related_name="+")
    response = models.TextField()
    is_cut = models.BooleanField(help_text="cut at the longest length: it teaches no end")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["dataset", "sample", "rewrite"], name="a_demonstration_once_a_dataset", nulls_distinct=False
            )
        ]
        ordering = ["id"]

    def __str__(self) -> str:
        return f"demonstration {self.pk} of {self.dataset_id}"
