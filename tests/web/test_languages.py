"""In which language the pages are: who decides, what it touches, and what it must not."""

import json
import re
from dataclasses import fields
from datetime import timedelta
from html.parser import HTMLParser
from uuid import uuid4

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from rlhf_core.config import PolicyConfig, RewardConfig
from tests.catalogs import read_po
from tests.studio import open_studio
from tests.turns import ask_for_reward_run, begin, rate
from webapp.accounts.languages import choose_language
from webapp.errors import RemarkInvalid
from webapp.feedback.models import Sample
from webapp.feedback.modes import Extras
from webapp.projects.forms import LinesField
from webapp.projects.models import PracticePair, Prompt
from webapp.runs.calibration import Bin, Calibration
from webapp.runs.figures import in_figures, say_difference, say_duration, say_value
from webapp.runs.forms import field_for
from webapp.runs.live import read_last_values
from webapp.runs.templatetags.humanise import ago

GERMAN = {"Accept-Language": "de-AT,de;q=0.9,en;q=0.5"}


@pytest.fixture
def studio(db):
    yield open_studio()
    translation.activate("en")  # the last request's language stays in the thread


def head_of(answer) -> tuple[str, str]:
    """Language and direction that a page says it has."""
    found = re.search(r'<html lang="([^"]+)" dir="([^"]+)">', answer.content.decode())
    return found[1], found[2]


def test_a_guest_reads_what_the_browser_asks_for_and_caches_are_told_so(studio):
    answer = Client(headers=GERMAN).get("/login/")
    assert head_of(answer) == ("de", "ltr")
    assert answer["Content-Language"] == "de"
    assert {"Accept-Language", "Cookie"} <= set(answer["Vary"].split(", "))
    assert head_of(Client(headers={"Accept-Language": "ar"}).get("/login/")) == ("ar", "rtl")
    assert head_of(Client(headers={"Accept-Language": "xx"}).get("/login/")) == ("en", "ltr")
    assert head_of(Client().get("/login/")) == ("en", "ltr")


def test_a_guest_s_choice_is_kept_in_the_browser_and_leads_back(studio):
    client = Client(headers=GERMAN)
    page = client.get("/login/?next=/new/").content.decode()
    assert '<input type="hidden" name="next" value="/login/?next=/new/">' in page
    for code, name in settings.LANGUAGES:  # each by its own name, also where the page is German
        assert re.search(rf'<button name="language" value="{code}" lang="{code}"[^>]*>{name}</button>', page)
    answer = client.post("/language/", {"language": "ar", "next": "/login/?next=/new/"})
    assert (answer.status_code, answer.url) == (302, "/login/?next=/new/")
    cookie = answer.cookies["language"]
    assert (cookie.value, cookie["samesite"], cookie["httponly"]) == ("ar", "Lax", True)
    assert head_of(client.get("/login/")) == ("ar", "rtl")


def test_the_account_s_choice_goes_before_the_browser_s_and_follows_to_another_one(studio):
    ada = studio.add_rater("ada")
    client = Client()
    client.force_login(ada)
    client.post("/language/", {"language": "de", "next": "/"})
    ada.refresh_from_db()
    assert ada.language == "de"
    elsewhere = Client(headers={"Accept-Language": "ar"})
    elsewhere.force_login(ada)
    assert head_of(elsewhere.get("/account/password/")) == ("de", "ltr")
    assert 'aria-pressed="true">Deutsch' in elsewhere.get("/account/password/").content.decode()


def test_an_account_without_a_choice_reads_as_the_browser_asks(studio):
    client = Client(headers=GERMAN)
    client.force_login(studio.add_rater("ada"))
    assert head_of(client.get("/account/password/")) == ("de", "ltr")


@pytest.mark.parametrize("language", ["", "xx", "EN", "de-AT", "../de"])
def test_a_language_without_pages_is_refused_and_changes_nothing(studio, language):
    ada = studio.add_rater("ada")
    client = Client()
    client.force_login(ada)
    answer = client.post("/language/", {"language": language})
    assert answer.status_code == 422
    assert answer.content == b"language: one of en, de, ar\n"
    assert "language" not in answer.cookies
    with pytest.raises(ValueError, match="choose one of en, de, ar"):
        choose_language(user=ada, language=language)
    ada.refresh_from_db()
    assert ada.language == ""


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "", "foo", "?a=1", "/" + "x" * 2000],
)
def test_a_choice_leads_to_no_other_site(studio, target):
    assert Client().post("/language/", {"language": "de", "next": target}).url == "/"


def test_a_form_without_its_key_leads_to_no_address_that_only_takes_forms(studio):
    client = Client(enforce_csrf_checks=True)
    client.force_login(studio.add_rater("ada"))
    answer = client.post(reverse("feedback:report", args=[studio.project.slug]))
    assert answer.status_code == 403
    html = answer.content.decode()
    assert 'name="next" value="/"' in html
    assert "/rate/report/" not in html


def test_what_is_not_there_leads_back_to_where_it_was_asked_for_and_never_to_where_a_form_was_sent(studio):
    client = Client()
    client.force_login(studio.add_rater("ada"))
    skip = reverse("feedback:skip", args=[studio.project.slug])
    sent = client.post(skip, {"token": uuid4(), "because": ""})
    asked = client.get("/p/no-such-project/")
    for answer, back in ((sent, "/"), (asked, "/p/no-such-project/")):
        html = answer.content.decode()
        assert (answer.status_code, 'id="not-found"' in html) == (404, True)
        assert re.findall('name="next" value="([^"]*)"', html) == [back]


def test_an_address_that_does_not_exist_says_so_in_the_reader_s_language(studio):
    assert head_of(Client(headers=GERMAN).get("/nowhere/")) == ("de", "ltr")


def test_a_page_without_a_session_asks_the_database_nothing_for_its_language(studio, django_assert_num_queries):
    client = Client(headers=GERMAN)
    with django_assert_num_queries(0):
        client.get("/login/")


def test_an_export_reads_the_same_whatever_its_reader_s_language(studio):
    studio.add_items(pairs=1)
    project = studio.project
    ada = studio.add_rater("ada")
    rater, admin = Client(), Client()
    rater.force_login(ada)
    page = rater.get(reverse("feedback:rate", args=[project.slug])).content.decode()
    values = {name: re.search(rf'name="{name}" value="([^"]+)"', page)[1] for name in ("token", "submission_id")}
    rater.post(reverse("feedback:rate", args=[project.slug]), {**values, "choice": "0", "active_ms": "1500"})
    admin.force_login(studio.admin)
    lines = {}
    for language in ("en", "de", "ar"):
        choose_language(user=studio.admin, language=language)
        lines[language] = admin.get(reverse("feedback:export", args=[project.slug])).getvalue()
    assert lines["en"] == lines["de"] == lines["ar"]
    assert json.loads(lines["ar"])["words"] == "both bad"


class Words(HTMLParser):
    """What a page says: its texts, and the attributes that are read out or shown."""

    SAID = ("aria-label", "title", "placeholder", "alt", "data-confirm")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside.append(tag)
        self.found |= {value for name, value in attrs if name in self.SAID and value}

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "template", "code", "kbd", "option"} & set(self.inside):
            self.found.add(" ".join(data.split()))


def test_no_page_says_in_arabic_what_it_says_in_english(studio):
    """Whatever a page says alike in both is of the project, or a sign that the catalog keeps."""
    studio.add_items(pairs=1, singles=1)
    project, client = studio.project, Client()
    PracticePair.objects.create(pk=1, project=project, prompt="A film", left="Good.", right="Bad.", best="a")
    client.force_login(studio.admin)
    ends = ["", "runs/", "lineage/", "policies/1/", "runs/reward/", "runs/sft/", "ratings/", "import/", "raters/"]
    ends += [
        "guideline/",
        "settings/",
        "settings/modes/",
        "settings/first-visit/",
        "settings/first-visit/1/",
        "history/",
    ]
    ends += ["rate/", "rate/keys/", "rate/welcome/"]
    addresses = ["/", "/new/", "/account/password/", "/nowhere/", *(f"/p/{project.slug}/{end}" for end in ends)]
    said: dict[str, dict[str, set[str]]] = {}
    for language in ("en", "ar"):
        choose_language(user=studio.admin, language=language)
        said[language] = {address: Words(client.get(address).content.decode()).found for address in addresses}
    texts = [*Sample.objects.values_list("text", flat=True), *Prompt.objects.values_list("text", flat=True)]
    texts += [project.name, project.question, project.single_question, project.prompt_label, studio.guideline.body]
    texts += [studio.admin.username, "A film Good. Bad.", "Steersman English Deutsch CPU GPU v1 · Film reviews"]
    texts += [entry.id for entry in read_po("ar") if entry.texts == [entry.id]]
    of_the_project = " ".join(" ".join(texts).split())
    left = {
        f"{address}: {one}"
        for address in addresses
        for one in said["en"][address] & said["ar"][address]
        if re.search(r"[a-z]{3}", one) and one not in of_the_project
    }
    assert left == set()


def test_numbers_for_machines_are_not_localised_and_those_for_people_are():
    bins = (Bin(0.5, 0.6, 400, 0.55, 0.9), Bin(0.9, 1.0, 20, 0.95, 0.9))
    with translation.override("de"):
        html = render_to_string("runs/_calibration.html", {"calibration": Calibration(0.3, 420, bins)})
        assert re.search(r'cx="\d+\.\d"', html)
        assert not re.search(r'\s[a-z]+[12]?="-?\d+,\d', html)
        assert "30,0\xa0%" in html
        assert (say_value(12.25), say_value(1234), say_duration(2.5)) == ("12,2", "1.234", "2,5 s")
    with translation.override("ar"):
        assert (say_value(12.25), say_value(1234), say_duration(2.5)) == ("12.2", "1,234", "2.5 ث")


@pytest.mark.parametrize(("language", "shown", "word"), [("de", "3,1\xa0%", "Anteil"), ("ar", "3.1\xa0%", "0.031")])
def test_a_metrics_share_is_said_in_percent_in_every_language(language, shown, word):
    with translation.override(language):
        (last,) = read_last_values("policy", [{"clip_fraction": 0.031}])
        html = render_to_string("runs/_last_values.html", {"last_values": [last]})
    assert shown in html
    assert f">{word}<" not in html


def test_the_sign_of_a_number_stays_before_it_between_right_to_left_words():
    with translation.override("ar"):
        assert say_value(-0.5) == "\N{LEFT-TO-RIGHT ISOLATE}−0.500\N{POP DIRECTIONAL ISOLATE}"
        assert say_value(-0.031, "share") == "\N{LEFT-TO-RIGHT ISOLATE}−3.1\xa0%\N{POP DIRECTIONAL ISOLATE}"
        assert say_value(2e-5) == "\N{LEFT-TO-RIGHT ISOLATE}2.0e−5\N{POP DIRECTIONAL ISOLATE}"
        assert say_difference(0.5) == "\N{LEFT-TO-RIGHT ISOLATE}+0.500\N{POP DIRECTIONAL ISOLATE}"
    assert (say_value(-0.5), say_difference(0.5)) == ("−0.500", "+0.500")


def test_a_typed_number_is_read_as_its_language_writes_it_and_with_a_point():
    item = next(item for item in fields(PolicyConfig) if item.name == "temperature")
    with translation.override("de"):
        field = field_for(item.name, float, item.metadata, 1.0)
        assert (field.clean("0,5"), field.clean("0.5"), field.prepare_value(0.5)) == (0.5, 0.5, "0.5")
    with translation.override("en"), pytest.raises(ValidationError):
        field_for(item.name, float, item.metadata, 1.0).clean("0,5")


@pytest.mark.parametrize(
    ("language", "typed", "other"), [("de", "10.000", "10,000"), ("en", "10,000", "10.000"), ("ar", "10,000", "10.000")]
)
def test_a_whole_number_is_read_in_the_groups_that_the_pages_write(language, typed, other):
    item = next(item for item in fields(RewardConfig) if item.name == "epochs")
    field = field_for("count", int, {**item.metadata, "maximum": 1_000_000}, 1)
    with translation.override(language):
        assert in_figures(f"{10_000:,}") == typed
        assert (field.clean(typed), field.clean("10000")) == (10_000, 10_000)
        for wrong in (other, f"{typed}0", f"0{typed}"):
            with pytest.raises(ValidationError, match="10"):
                field.clean(wrong)


def test_a_fraction_that_could_be_a_thousand_is_refused_with_both_readings():
    item = next(item for item in fields(PolicyConfig) if item.name == "temperature")
    field = field_for(item.name, float, {**item.metadata, "maximum": 10_000}, 1.0)
    with translation.override("de"):
        with pytest.raises(ValidationError, match=r"1\.500 .*1500 .*1\.5000"):
            field.clean("1.500")
        assert [field.clean(text) for text in ("1500", "1.5000", "1,500", "0.125")] == [1500, 1.5, 1.5, 0.125]
        for value in (1.125, 0.125, 12.0, 1.5):
            assert field.clean(field.prepare_value(value)) == value, "what stands in a form may be sent as it is"


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_comma_that_begins_no_fraction_in_a_language_is_read_as_thousands(language):
    item = next(item for item in fields(PolicyConfig) if item.name == "temperature")
    field = field_for(item.name, float, {**item.metadata, "maximum": 10_000}, 1.0)
    with translation.override(language):
        assert [field.clean(text) for text in ("1,500", "1.500", "9,999")] == [1500, 1.5, 9999]
        for value in (1.125, 1500.0, 0.125):
            assert field.clean(field.prepare_value(value)) == value
        with pytest.raises(ValidationError):
            field.clean("1,5")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "الآن"), (1, "قبل دقيقة"), (2, "قبل دقيقتين"), (5, "قبل 5 دقائق"), (40, "قبل 40 دقيقة")]
)
def test_arabic_counts_in_its_own_forms(count, said):
    with translation.override("ar"):
        assert ago(timezone.now() - timedelta(minutes=count, seconds=1)) == said


@pytest.mark.parametrize(
    ("language", "count", "said"),
    [
        ("ar", 2, "حرفان: الحد الأقصى 1 للسطر"),
        ("ar", 5, "5 أحرف:"),
        ("ar", 12, "12 حرفًا:"),
        ("ar", 101, "101 حرف:"),
        ("de", 2, "hat 2 Zeichen: höchstens 1 je Zeile"),
        ("en", 2, "has 2 characters: 1 at most a line"),
    ],
)
def test_too_long_a_line_is_refused_in_the_form_that_its_number_asks_for(language, count, said):
    with translation.override(language), pytest.raises(ValidationError, match=said):
        LinesField(most=9, length=1).clean("x" * count)


@pytest.mark.parametrize(
    ("language", "most", "said"),
    [("ar", 1, "سطران: الحد الأقصى 1"), ("ar", 10, "11 سطرًا:"), ("de", 0, "1 Zeile: "), ("en", 0, "1 line: 0 at most")],
)
def test_too_many_lines_are_refused_in_the_form_that_their_number_asks_for(language, most, said):
    with translation.override(language), pytest.raises(ValidationError, match=said):
        LinesField(most=most, length=9).clean("\n".join(map(str, range(most + 1))))


def test_a_reason_that_is_too_long_is_refused_in_the_form_that_its_number_asks_for():
    with translation.override("ar"):
        for count, said in ((2003, "2003 أحرف:"), (2011, "2011 حرفًا:"), (2101, "2101 حرف:")):
            with pytest.raises(RemarkInvalid, match=said):
                Extras(reason="x" * count).remarks([])


def test_a_page_that_the_browser_keeps_is_another_in_another_language(studio):
    client = Client()
    client.force_login(studio.admin)
    rate(studio, 16)
    begin(ask_for_reward_run(studio, minimum_ratings=2), step=1)
    address = f"/p/{studio.project.slug}/runs/1/live/"
    first = client.get(address)
    assert client.get(address, headers={"If-None-Match": first["ETag"]}).status_code == 304
    choose_language(user=studio.admin, language="de")
    assert client.get(address, headers={"If-None-Match": first["ETag"]}).status_code == 200
