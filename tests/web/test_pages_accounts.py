"""Coming in: log-in, one-time links, invitations, passwords, and the pages for what goes wrong."""

import re
import time
import uuid

import pytest
from django.core.cache import cache
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.urls import get_resolver

from tests.studio import PASSWORD, Studio, open_studio
from webapp.accounts import services
from webapp.accounts.models import LoginLink, User
from webapp.projects.models import Membership
from webapp.projects.services import create_invitation

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio() -> Studio:
    cache.clear()
    return open_studio()


def who(client: Client) -> str | None:
    key = client.session.get("_auth_user_id")
    return User.objects.get(pk=key).username if key else None


def test_a_rater_logs_in_and_stands_before_the_first_item(studio):
    studio.add_rater("ada")
    studio.add_items(pairs=1)
    client = Client()
    assert client.get("/", follow=True).redirect_chain == [("/login/?next=/", 302)]
    answer = client.post("/login/?next=/", {"username": "ada", "password": PASSWORD, "next": "/"}, follow=True)
    assert [at for at, _ in answer.redirect_chain] == ["/", "/p/film-reviews/rate/"]
    assert 'id="verdict"' in answer.content.decode()


def test_a_wrong_password_is_told_and_too_many_shut_the_door_for_that_name_only(studio, settings):
    settings.AXES_FAILURE_LIMIT = 3
    studio.add_rater("ada")
    studio.add_rater("bea")
    client = Client()
    first = client.post("/login/", {"username": "ada", "password": "wrong"})
    assert "correct username and password" in first.content.decode()
    for _ in range(3):
        last = client.post("/login/", {"username": "ada", "password": "wrong"})
    assert last.status_code == 429
    assert "Too many wrong passwords" in last.content.decode()
    assert client.post("/login/", {"username": "ada", "password": PASSWORD}).status_code == 429
    assert client.post("/login/", {"username": "bea", "password": PASSWORD}).status_code == 302


def test_the_log_in_never_leads_to_another_site(studio):
    studio.add_rater("ada")
    answer = Client().post("/login/", {"username": "ada", "password": PASSWORD, "next": "https://evil.example/"})
    assert answer.url == "/"


def test_log_out_takes_a_button_and_ends_the_session(studio):
    client = Client()
    client.force_login(studio.add_rater("ada"))
    assert client.get("/logout/").status_code == 405
    client.post("/logout/")
    assert who(client) is None


def test_looking_at_a_log_in_link_does_not_use_it_up(studio):
    token = services.create_login_link(user=studio.admin)
    preview, person = Client(), Client()
    for _ in range(3):
        page = preview.get(f"/link/{token}/")
        assert page.status_code == 200
        assert "no-store" in page["Cache-Control"]
    assert LoginLink.objects.get().used_at is None
    assert person.post(f"/link/{token}/").status_code == 302
    assert who(person) == "admin"
    again = preview.post(f"/link/{token}/")
    assert again.status_code == 410
    assert "each works once" in again.content.decode()
    assert who(preview) is None


def test_who_came_by_link_without_a_password_is_led_to_set_one(studio):
    boss = services.ensure_admin(username="boss")
    client = Client()
    answer = client.post(f"/link/{services.create_login_link(user=boss)}/", follow=True)
    assert answer.redirect_chain == [("/account/password/", 302)]
    assert "Set a password" in answer.content.decode()
    weak = client.post("/account/password/", {"new_password1": "short", "new_password2": "short"})
    assert weak.status_code == 422
    assert "too short" in weak.content.decode()
    client.post("/account/password/", {"new_password1": "a fine long one", "new_password2": "a fine long one"})
    boss.refresh_from_db()
    assert boss.check_password("a fine long one")
    assert who(client) == "boss", "this log-in stays"


def test_changing_a_password_takes_the_old_one_and_ends_the_other_log_ins(studio):
    studio.add_rater("ada")
    here, there = Client(), Client()
    for client in (here, there):
        client.post("/login/", {"username": "ada", "password": PASSWORD})
    new = {"new_password1": "another long one", "new_password2": "another long one"}
    assert here.post("/account/password/", {"old_password": "wrong", **new}).status_code == 422
    assert here.post("/account/password/", {"old_password": PASSWORD, **new}).status_code == 302
    assert here.get("/p/film-reviews/rate/").status_code == 200
    assert there.get("/p/film-reviews/rate/").status_code == 302


def test_an_invitation_makes_a_rater_with_a_name_and_a_password_of_their_own(studio):
    token = create_invitation(actor=studio.admin, project=studio.project)
    client = Client()
    assert "Film reviews" in client.get(f"/join/{token}/").content.decode()
    weak = client.post(f"/join/{token}/", {"username": "cy", "password": "1234"})
    assert weak.status_code == 422
    assert "too short" in weak.content.decode()
    assert 'value="cy"' in weak.content.decode(), "what was typed is kept"
    answer = client.post(f"/join/{token}/", {"username": "cy", "password": "a fine long one"}, follow=True)
    assert [at for at, _ in answer.redirect_chain] == ["/", "/p/film-reviews/rate/"]
    assert Membership.objects.get(user__username="cy").role == "rater"
    second = Client().get(f"/join/{token}/")
    assert second.status_code == 410
    assert "not valid any more" in second.content.decode()


def test_a_name_that_is_taken_is_told_and_spends_no_use(studio):
    studio.add_rater("ada")
    token = create_invitation(actor=studio.admin, project=studio.project)
    answer = Client().post(f"/join/{token}/", {"username": "Ada", "password": "a fine long one"})
    assert answer.status_code == 422
    assert "is taken" in answer.content.decode()
    assert Client().get(f"/join/{token}/").status_code == 200


def test_who_is_logged_in_joins_a_second_project_by_one_press(studio):
    ada = studio.add_rater("ada")
    poems = open_studio("poems", "Short poems")
    token = create_invitation(actor=poems.admin, project=poems.project)
    client = Client()
    client.force_login(ada)
    assert "Join as ada" in client.get(f"/join/{token}/").content.decode()
    home = client.post(f"/join/{token}/", follow=True).content.decode()
    assert "Film reviews" in home
    assert "Short poems" in home


def test_a_form_without_its_key_is_refused_with_a_cure(studio):
    client = Client(enforce_csrf_checks=True)
    client.force_login(studio.add_rater("ada"))
    answer = client.post("/p/film-reviews/rate/", {"choice": "1"})
    assert answer.status_code == 403
    assert "reload that page" in answer.content.decode()


def test_a_page_that_is_not_there_and_an_error_look_like_the_rest(studio, monkeypatch):
    client = Client(raise_request_exception=False)
    client.force_login(studio.admin)
    missing = client.get("/no/such/page/")
    assert missing.status_code == 404
    assert "This page does not exist" in missing.content.decode()

    def fail(error):
        def projects(*args, **kwargs):
            raise error

        monkeypatch.setattr("webapp.projects.selectors.overview_for", projects)
        return client.get("/")

    broken = fail(RuntimeError("a secret detail"))
    assert broken.status_code == 500
    assert "Something broke" in broken.content.decode()
    assert "secret" not in broken.content.decode()
    away = fail(OperationalError("the connection is gone"))
    assert (away.status_code, away["Retry-After"]) == (503, "5")
    assert "database does not answer" in away.content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_the_database_ended_is_told_like_one_that_is_away(studio, monkeypatch):
    def wait(*args, **kwargs):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
            time.sleep(0.5)
            cursor.execute("SELECT 1")

    monkeypatch.setattr("webapp.projects.selectors.overview_for", wait)
    client = Client(raise_request_exception=False)
    client.force_login(studio.admin)
    assert client.get("/").status_code == 503


def test_the_health_page_answers_without_a_log_in():
    assert Client().get("/healthz").content == b"ok\n"


def test_every_page_sends_the_strict_policy_and_has_nothing_inline(studio):
    client = Client()
    client.force_login(studio.admin)
    studio.add_items(pairs=1)
    ends = ("rate", "ratings", "import", "raters", "guideline", "settings", "history")
    for address in ("/", "/new/", "/account/password/", *(f"/p/film-reviews/{end}/" for end in ends)):
        answer = client.get(address)
        html = answer.content.decode()
        assert answer.status_code == 200, address
        assert "default-src 'none'" in answer["Content-Security-Policy"]
        assert "unsafe" not in answer["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:", html), address
        assert not re.search(r'(?:src|href)="(?:https?:)?//', html), f"{address} loads from another host"
        shown = re.sub(r"<template.*?</template>", "", html, flags=re.DOTALL)  # what a template holds stands on no page
        assert shown.count("<h1") == 1, address


def addresses() -> list[tuple[str, str]]:
    """Every named address of the site, with the arguments of a project that exists."""
    found = []
    known = {"slug": "film-reviews", "token": "x" * 20, "number": "1", "version": "1", "pk": str(uuid.uuid4())}

    def walk(patterns, prefix):
        for pattern in patterns:
            part = prefix + str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                walk(pattern.url_patterns, part)
            else:
                part = re.sub(r"<uuid:\w+>", str(uuid.uuid4()), part)
                filled = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: known.get(match[1], "1"), part)
                found.append((str(pattern.lookup_str), "/" + filled))

    walk(get_resolver().url_patterns, "")
    return found


OPEN_TO_ALL = {"/healthz", "/login/", "/logout/", "/language/", f"/link/{'x' * 20}/", f"/join/{'x' * 20}/"}
RATING = ("skip", "heartbeat", "release", "pause", "undo", "report", "welcome", "practice", "keys", "toggle")
OPEN_TO_RATERS = {
    "/",
    "/account/password/",
    *(
        f"/p/film-reviews/{end}/"
        for end in ("rate", *(f"rate/{act}" for act in RATING), "history", "guideline", "guideline/read")
    ),
}


@pytest.mark.parametrize("method", ["get", "post"])
def test_each_address_is_shut_to_who_has_no_right_to_it(studio, method):
    """Walks the urlconf: a new page is shut to raters and strangers until it is named above."""
    stranger, rater, nobody = Client(), Client(), Client()
    stranger.force_login(open_studio("poems", "Short poems").add_rater("zoe"))
    rater.force_login(studio.add_rater("ada"))
    assert len(addresses()) > 15
    for view, address in addresses():
        if address in OPEN_TO_ALL:
            continue
        answer = getattr(nobody, method)(address)
        assert answer.status_code in (302, 401, 405), f"{view} {address} lets nobody in"
        if answer.status_code == 302:
            assert answer.url.startswith("/login/"), address
        if address in {"/", "/account/password/"}:
            continue
        assert getattr(stranger, method)(address).status_code in (403, 404, 405), f"{view} {address} to a stranger"
        if address not in OPEN_TO_RATERS:
            assert getattr(rater, method)(address).status_code in (403, 404, 405), f"{view} {address} to a rater"
