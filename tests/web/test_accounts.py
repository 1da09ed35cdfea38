"""Who may come in, and by which link."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from webapp.accounts.models import Audit, LoginLink, User
from webapp.accounts.selectors import audit_trail, login_link_is_open
from webapp.accounts.services import (
    create_login_link,
    create_user,
    ensure_admin,
    ensure_simulated_rater,
    hash_password,
    record_audit,
    use_login_link,
)
from webapp.errors import LinkInvalid, NameRefused, NameTaken, PasswordRefused


@pytest.mark.django_db
def test_the_first_admin_is_made_once_and_has_no_password():
    admin = ensure_admin()
    assert ensure_admin() == admin
    assert (admin.is_staff, admin.is_superuser, admin.has_usable_password()) == (True, True, False)
    assert not admin.check_password("")
    assert User.objects.count() == 1


@pytest.mark.django_db
def test_a_log_in_link_works_once_and_only_its_hash_is_kept():
    admin = ensure_admin()
    token = create_login_link(user=admin)
    assert not LoginLink.objects.filter(token_sha256=token).exists()
    assert login_link_is_open(token)
    assert use_login_link(token=token) == admin
    assert not login_link_is_open(token)
    with pytest.raises(LinkInvalid):
        use_login_link(token=token)


@pytest.mark.django_db
@pytest.mark.parametrize("token", ["", "guessed", "\0", "\ud800", "x" * 100_000])
def test_a_guessed_link_is_refused(token):
    with pytest.raises(LinkInvalid):
        use_login_link(token=token)


@pytest.mark.django_db
def test_a_link_that_is_out_of_date_or_of_a_closed_account_is_refused():
    admin = ensure_admin()
    with pytest.raises(LinkInvalid):
        use_login_link(token=create_login_link(user=admin, valid_for=timedelta(seconds=-1)))
    token = create_login_link(user=admin)
    admin.is_active = False
    admin.save()
    assert not login_link_is_open(token)
    with pytest.raises(LinkInvalid):
        use_login_link(token=token)
    assert LoginLink.objects.filter(used_at=None).count() == 2  # a refusal uses nothing up


def test_of_two_who_follow_one_link_at_once_one_gets_in(live_studio, at_once):
    token = create_login_link(user=live_studio.admin)
    answers = at_once(*[lambda: use_login_link(token=token)] * 4)
    assert sum(isinstance(answer, User) for answer in answers) == 1
    assert sum(isinstance(answer, LinkInvalid) for answer in answers) == 3


@pytest.mark.django_db
@pytest.mark.parametrize("username", ["", "a b", "x" * 151, "<script>", "a\0b"])
def test_a_name_that_is_not_permitted_is_refused(username):
    with pytest.raises(NameRefused):
        hash_password(username=username, password="a long and winding one")


@pytest.mark.django_db
@pytest.mark.parametrize("password", ["", "short", "1234567890123", "password1234", "mathilda-b"])
def test_a_weak_password_is_refused(password):
    with pytest.raises(PasswordRefused):
        hash_password(username="mathilda-b", password=password)


@pytest.mark.django_db
def test_a_name_is_taken_in_any_spelling():
    password_hash = hash_password(username="ada", password="a long and winding one")
    ada = create_user(username="ada", password_hash=password_hash)
    assert ada.check_password("a long and winding one")
    with pytest.raises(NameTaken, match="'ADA'"):
        create_user(username="ADA", password_hash=password_hash)


@pytest.mark.django_db
def test_a_simulated_rater_cannot_log_in():
    rater = ensure_simulated_rater(username="simulated-1")
    assert ensure_simulated_rater(username="simulated-1") == rater
    assert (rater.is_simulated, rater.is_staff, rater.has_usable_password()) == (True, False, False)


@pytest.mark.django_db
def test_the_audit_can_be_added_to_and_not_changed():
    admin = ensure_admin()
    record_audit(actor=admin, action="test", target="x" * 500, amount=3)
    newest = audit_trail()[0]
    assert (newest.action, len(newest.target), newest.detail) == ("test", 200, {"amount": 3})
    for change in (lambda: Audit.objects.update(action="other"), lambda: Audit.objects.all().delete()):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()
