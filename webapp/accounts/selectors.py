"""What can be read about people."""

from django.db.models import QuerySet
from django.db.models.functions import Now

from webapp.accounts.models import Audit, LoginLink
from webapp.accounts.tokens import hash_token


def login_link_is_open(token: str) -> bool:
    """Whether a log-in link would still let its user in (looking does not use it up)."""
    return LoginLink.objects.filter(
        token_sha256=hash_token(token), used_at=None, expires_at__gt=Now(), user__is_active=True
    ).exists()


def audit_trail() -> QuerySet[Audit]:
    """All acts, newest first, with their actors."""
    return Audit.objects.select_related("actor").order_by("-at", "-id")
