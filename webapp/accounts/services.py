"""What changes people: the first admin, log-in links, new accounts, and the record of acts."""

from datetime import timedelta
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from webapp.accounts.models import Audit, LoginLink, User
from webapp.accounts.tokens import hash_token, new_token
from webapp.errors import LinkInvalid, NameRefused, NameTaken, PasswordRefused

SIMULATED = "simulated-"  # begins the names of raters that are no people


def record_audit(*, actor: User | None, action: str, target: object, **detail: Any) -> Audit:
    """Write down an act of a person (None: of the studio itself), for instance ``policy.promote``."""
    return Audit.objects.create(actor=actor, action=action, target=str(target)[:200], detail=detail)


def ensure_admin(*, username: str = "admin") -> User:
    """The studio admin of this name, made if missing; without a password, so that only a log-in link lets in."""
    user, made = User.objects.get_or_create(
        username=username, defaults={"is_staff": True, "is_superuser": True, "password": make_password(None)}
    )
    if made:
        record_audit(actor=None, action="admin.create", target=username)
    return user


def save_page_settings(*, user: User, **changes: Any) -> None:
    """Keep how ``user`` wants the rater page; what ``changes`` does not name stays as it is."""
    with transaction.atomic():
        stored = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        user.page_settings = {**stored.page_settings, **changes}
        user.save(update_fields=["page_settings"])


def create_login_link(*, user: User, valid_for: timedelta = timedelta(hours=24)) -> str:
    """A token that logs ``user`` in once, within ``valid_for``. It is told only here: its hash is kept."""
    token = new_token()
    with transaction.atomic():
        LoginLink.objects.create(token_sha256=hash_token(token), user=user, expires_at=Now() + valid_for)
        record_audit(actor=None, action="login_link.create", target=user.username)
    return token


def use_login_link(*, token: str) -> User:
    """The user whom a log-in link lets in; the link is used up by it.

    Raises:
        LinkInvalid: unknown, used (of two at once, one gets in), out of date, or its user may not log in.
    """
    link = LoginLink.objects.filter(token_sha256=hash_token(token), used_at=None, expires_at__gt=Now())
    with transaction.atomic():
        if not link.update(used_at=Now()):  # one statement on one table: of two at once the second sees it used
            raise LinkInvalid
        user = User.objects.get(login_links__token_sha256=hash_token(token))
        if not user.is_active:
            raise LinkInvalid
        record_audit(actor=user, action="login_link.use", target=user.username)
    return user


def hash_password(*, username: str, password: str) -> str:
    """Check a name and a password, and hash the password (slow on purpose: call it outside a transaction).

    Raises:
        NameRefused: the name is not permitted.
        PasswordRefused: the password is too weak.
    """
    if username.lower().startswith(SIMULATED):
        raise NameRefused(
            _("Names that begin with %(simulated)s are kept for simulated raters: choose another.")
            % {"simulated": SIMULATED}
        )
    candidate = User(username=username)
    try:
        candidate.clean_fields(exclude=["password"])
    except ValidationError as error:
        raise NameRefused(" ".join(error.messages)) from error
    try:
        validate_password(password, user=candidate)
    except ValidationError as error:
        raise PasswordRefused(" ".join(error.messages)) from error
    return make_password(password)


def create_user(*, username: str, password_hash: str) -> User:
    """A new person without any rights; ``password_hash`` is of ``hash_password``.

    Raises:
        NameTaken: somebody has the name, be it in another case.
    """
    name = User.normalize_username(username)
    if User.objects.filter(username__iexact=name).exists():
        raise NameTaken(name)
    try:
        with transaction.atomic():
            return User.objects.create(username=name, password=password_hash)
    except IntegrityError as error:  # between the look and the insert
        raise NameTaken(name) from error


def ensure_simulated_rater(*, username: str) -> User:
    """The simulated rater of this name, made if missing; nobody can log in as it."""
    user, _ = User.objects.get_or_create(
        username=username, defaults={"is_simulated": True, "password": make_password(None)}
    )
    return user
