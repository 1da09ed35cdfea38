"""What models train on: frozen datasets of rating revisions."""

from django.conf import settings
from django.db import models

from webapp.feedback.models import Rating
from webapp.ids import uuid7
from webapp.projects.models import Project


class Dataset(models.Model):
    """Append-only: a frozen list of rating revisions; ``sha256`` is over the feedback lines that a run reads."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="datasets")
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
