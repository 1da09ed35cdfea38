"""Who may come in: people, invitations, one-time log-in links, and the record of what they did."""

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models

from webapp.ids import uuid7


class User(AbstractUser):
    """A person. ``is_staff`` marks a studio admin, who sees every project; a rater's projects come from memberships."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    is_simulated = models.BooleanField(default=False, help_text="a simulated rater, whose ratings are never human")
    language = models.CharField(
        max_length=8, blank=True, default="", help_text="of the pages; empty: as the browser asks"
    )
    page_settings = models.JSONField(default=dict, blank=True, help_text="how this person wants the rater page")

    class Meta(AbstractUser.Meta):
        pass


class LoginLink(models.Model):
    """A link that logs its user in once; only the SHA-256 of its token is kept."""

    token_sha256 = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="login_links")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"log-in link of {self.user}"


class Audit(models.Model):
    """Append-only: an act of a person that others may have to answer for."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    at = models.DateTimeField(auto_now_add=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")
    action = models.CharField(max_length=64)
    target = models.CharField(max_length=200)
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"
