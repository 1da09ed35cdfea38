"""A NUL wherever a request can hold one: refused in words, or taken as text; never an error of the server."""

import re
from collections import Counter
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import get_resolver, reverse

from tests.studio import Studio, enter, open_studio
from tests.web.rater_pages import look
from webapp.accounts.models import Audit
from webapp.feedback.models import Rating, Report
from webapp.projects import forms as projects
from webapp.runs import forms as runs

pytestmark = pytest.mark.django_db
NUL = "\0"
REFUSED = {302, 400, 403, 404, 405, 409, 410, 422}
FIELDS = """
    username password old_password new_password1 new_password2 token submission_id choice place overall
    axis:helpful flags reason text evidence quote active_ms words report withdraw showing ahead before after name
    is_on rest_minutes 1 reset role uses days body version go_on prompt left right best explanation remove consent
    rules count count_of preset request_id reward_model judge with_judge note confirm pair epoch path source
"""


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.project.flags = ["spam"]
    studio.project.save()
    studio.add_items(pairs=2, singles=2)
    studio.add_rater("ada")
    return studio


def addresses(studio: Studio) -> list[str]:
    """Every address of the site, with values that lead somewhere as far as they can."""
    values = {"slug": studio.project.slug, "token": uuid4(), "pk": uuid4(), "number": 1, "version": 1}
    found = []
    for outer in get_resolver().url_patterns:
        app = getattr(outer, "app_name", None)
        for pattern in getattr(outer, "url_patterns", [outer]):
            names = re.findall(r"<(?:\w+:)?(\w+)>", str(pattern.pattern))
            name = f"{app}:{pattern.name}" if app else pattern.name
            found.append(reverse(name, kwargs={name: values[name] for name in names}))
    return found


def clients(studio: Studio) -> list[Client]:
    return [Client(), enter(studio.raters["ada"]), enter(studio.admin)]


def test_no_field_of_any_form_makes_an_error(studio):
    names = {*FIELDS.split(), *projects.SettingsForm.base_fields, *projects.ModesForm.base_fields}
    names |= {*projects.CreateForm.base_fields, *runs.PolicyRunForm.base_fields, *runs.SFTRunForm.base_fields}
    sent = {name: f"a{NUL}b" for name in names}
    found = Counter()
    for client in clients(studio):
        for address in addresses(studio):
            if address == reverse("accounts:logout"):
                continue
            for values in (sent, {f"x{NUL}y": "z"}):
                status = client.post(address, values).status_code
                assert status in REFUSED | {200, 204}, f"{address}: {status}"
                found[status] += 1
    assert found.total() > 200
    assert found[422] > 20, "they were read"
    assert not Rating.objects.exists()


def test_what_is_right_but_for_a_nul_in_one_field_is_refused_or_kept_as_text(studio):
    rater = enter(studio.raters["ada"])
    _, fields = look(rater, studio)
    address = reverse("feedback:rate", args=[studio.project.slug])
    for spoilt in ("token", "submission_id", "choice", "flags", "reason", "text", "evidence", "quote", "active_ms"):
        values = {**fields, "choice": "2", "flags": "spam"}
        values[spoilt] = values.get(spoilt, "") + NUL
        assert rater.post(address, values).status_code in (302, 422), spoilt
    assert not Rating.objects.exists()
    report = reverse("feedback:report", args=[studio.project.slug])
    assert rater.post(report, {"token": fields["token"], "words": f"a{NUL}b"}).status_code == 422
    assert not Report.objects.exists()
    admin = enter(studio.admin)
    file = SimpleUploadedFile(f"a{NUL}b.txt", b"one\0\ntwo\n")
    answer = admin.post(
        reverse("projects:import", args=[studio.project.slug]),
        {"format": "text", "held_out_percent": 20, "source": "", "file": file},
    )
    assert answer.status_code == 422
    assert not Audit.objects.filter(action="prompts.import").exists()


def test_an_address_or_a_header_with_a_nul_is_refused(studio):
    for client in clients(studio):
        for address in addresses(studio):
            for end in ("?page=%00", "?source=a%00b", "?%00=1", "%00"):
                assert client.get(address + end).status_code == 400, address + end
        for name in ("User-Agent", "Referer", "Accept-Language", "X-Requested-With", "HX-Current-URL", "X-CSRFToken"):
            assert client.get("/", headers={name: f"a{NUL}b"}).status_code == 400, name
    html = Client().get("/?x=%00").content.decode()
    assert "The server could not read that request" in html


@pytest.mark.parametrize(
    "name", [settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME, "messages", "django_language"]
)
def test_a_cookie_with_a_nul_is_as_one_that_is_unknown(studio, name):
    quoted = f'{name}="abcdefgh\\000ijklmnopqrstuvwxyz"'
    client = Client()
    rate = reverse("feedback:rate", args=[studio.project.slug])
    for address in ("/login/", rate, "/"):
        known = client.get(address, headers={"Cookie": f"{name}=abcdefghijklmnopqrstuvwxyz"})
        answer = client.get(address, headers={"Cookie": quoted})
        assert (answer.status_code, answer.headers.get("Location")) == (
            known.status_code,
            known.headers.get("Location"),
        )
    with_session = enter(studio.raters["ada"])
    session = with_session.cookies[settings.SESSION_COOKIE_NAME].value
    if name != settings.SESSION_COOKIE_NAME:
        both = f"{settings.SESSION_COOKIE_NAME}={session}; {quoted}"
        assert Client().get(rate, headers={"Cookie": both}).status_code == 200
