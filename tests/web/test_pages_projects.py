"""Pages of projects: home, create, settings, import, raters, guideline."""

import re
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from tests.studio import Studio, open_studio, queries_of
from webapp.accounts.models import Audit
from webapp.errors import InvitationInvalid
from webapp.feedback import services as feedback
from webapp.feedback.models import Slot
from webapp.projects import services
from webapp.projects.models import Guideline, Membership, Project, Prompt
from webapp.registry import services as registry

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio() -> Studio:
    return open_studio()


NEW = {
    "name": "Short poems",
    "slug": "",
    "question": "Which poem is better?",
    "single_question": "How good is this poem?",
    "prompt_label": "About",
    "pair_percent": "70",
    "overlap": "2",
    "guideline_body": "Prefer the one that you would read twice.",
}


def test_an_admin_sees_each_project_with_its_state_in_constant_queries(studio, admin):
    counts = []
    for wave in range(2):
        for n in range(1 + 8 * wave):
            made = open_studio(f"more-{wave}-{n}", f"More {wave} {n}")
            made.project.is_paused = True
            made.project.save()
        counts.append(queries_of(admin, "/"))
    assert 0 < counts[0] == counts[1] <= 6
    html = admin.get("/").content.decode()
    assert "Film reviews" in html
    assert "v1 is serving" in html
    assert html.count('class="tag warn">paused') == 1 + 9
    assert "New project" in html


def test_no_page_of_a_rater_tells_which_policy_serves(studio):
    poems = open_studio("poems", "Short poems")
    studio.add_items(pairs=2)
    for each in (studio, poems):
        each.checkpoint = registry.record_checkpoint(project=each.project, kind="policy", sha256="7" * 64)
        registry.promote(project=each.project, checkpoint=each.checkpoint, actor=each.admin, expected_epoch=1)
        each.add_items(pairs=2)
    client = Client()
    rater = studio.add_rater("ada")
    Membership.objects.create(project=poems.project, user=rater)
    client.force_login(rater)
    presentation = feedback.claim(rater=rater, project=studio.project)
    feedback.submit(rater=rater, project=studio.project, token=presentation.token, submission_id=uuid4(), choice="2")
    for address in ("/", "/p/film-reviews/rate/", "/p/film-reviews/history/", "/p/film-reviews/guideline/"):
        answer = client.get(address)
        assert answer.status_code == 200, address
        words = re.sub(r"<[^>]+>", " ", answer.content.decode())
        assert not re.search(r"\bv\d|serving", words), address


def test_the_first_home_page_teaches_what_a_project_is(db):
    from webapp.accounts.services import ensure_admin

    client = Client()
    client.force_login(ensure_admin())
    html = client.get("/").content.decode()
    assert "No project yet" in html
    assert "New project" in html


def test_a_project_admin_who_is_not_of_the_studio_manages_the_own_project_only(studio):
    client = Client()
    client.force_login(studio.add_rater("boss", role=Membership.Role.ADMIN))
    open_studio("poems", "Short poems")
    assert "Film reviews" in client.get("/").content.decode(), "home, and not straight to rating"
    assert client.get("/p/film-reviews/settings/").status_code == 200
    assert client.get("/p/poems/settings/").status_code == 404
    assert client.get("/new/").status_code == 404


def test_a_new_project_gets_its_address_from_its_name_and_leads_to_its_prompts(admin):
    answer = admin.post("/new/", NEW)
    project = Project.objects.get(slug="short-poems")
    assert answer.url == "/p/short-poems/import/"
    assert (project.overlap, project.pair_percent) == (2, 70)
    assert project.guidelines.get().body == "Prefer the one that you would read twice."


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"slug": "film-reviews"}, "Another project has the address"),
        ({"name": "", "slug": ""}, "This field is required"),
        ({"name": "诗", "slug": ""}, "no letters or digits"),
        ({"pair_percent": "101"}, "less than or equal to 100"),
        ({"overlap": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_project_that_can_not_be_is_refused_and_what_was_typed_is_kept(admin, wrong, told):
    answer = admin.post("/new/", {**NEW, **wrong})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert told in html
    assert "Prefer the one that you would read twice." in html
    assert 'aria-invalid="true"' in html
    assert Project.objects.count() == 1


def test_another_overlap_holds_for_items_made_from_now_on_and_the_page_says_so(studio, admin):
    studio.add_items(pairs=1)
    form = admin.get("/p/film-reviews/settings/").context["form"]
    values = {name: form[name].value() for name in form.fields if form[name].value() not in (False, None)}
    html = admin.post("/p/film-reviews/settings/", values, follow=True).content.decode()
    assert "from now on gets" not in html, "nothing was changed"
    html = admin.post("/p/film-reviews/settings/", {**values, "overlap": "3"}, follow=True).content.decode()
    assert "Each item made from now on gets ratings by 3; what was made before keeps 1." in html
    assert Slot.objects.count() == 1
    studio.project.refresh_from_db()
    studio.add_item("Another opening", "one text", "another text")
    assert Slot.objects.count() == 1 + 3
    admin.post("/p/film-reviews/settings/", {**values, "overlap": "2"})
    assert Slot.objects.count() == 4, "and fewer take nothing away"


def test_settings_are_changed_and_a_pause_is_seen_by_raters(studio, admin):
    values = {
        "name": "Film reviews",
        "question": "Which is better?",
        "single_question": "How good?",
        "prompt_label": "Begins",
        "pair_percent": "50",
        "overlap": "3",
        "buffer_target": "60",
        "lease_minutes": "10",
        "is_paused": "on",
    }
    assert admin.post("/p/film-reviews/settings/", {**values, "overlap": "99"}).status_code == 422
    assert not Project.objects.get().is_paused, "nothing half written"
    answer = admin.post("/p/film-reviews/settings/", values, follow=True)
    assert "The settings are saved" in answer.content.decode()
    project = Project.objects.get()
    assert (project.is_paused, project.overlap, project.use_simulated_ratings) == (True, 3, False)
    rater = Client()
    rater.force_login(studio.add_rater("ada"))
    assert "Rating is paused" in rater.get("/p/film-reviews/rate/").content.decode()


@pytest.mark.parametrize(
    ("name", "most"), [("buffer_target", 5000), ("lease_minutes", 1440), ("overlap", 20), ("pair_percent", 100)]
)
def test_a_setting_without_measure_is_refused_with_its_bound(studio, admin, name, most):
    values = {**NEW, "buffer_target": "40", "lease_minutes": "15"}
    refused = admin.post("/p/film-reviews/settings/", {**values, name: str(most + 1)})
    assert refused.status_code == 422
    assert f"less than or equal to {most}" in refused.content.decode()
    assert admin.post("/p/film-reviews/settings/", {**values, name: str(most)}).status_code == 302
    assert getattr(Project.objects.get(), name) == most


def send(admin: Client, **values) -> str:
    answer = admin.post("/p/film-reviews/import/", {"held_out_percent": "20", **values}, follow=True)
    return answer.content.decode()


def test_prompts_are_pasted_and_counted(admin):
    html = send(admin, text="first opening\nsecond opening\n\nfirst opening\n", source="by hand")
    assert "2 new prompts. 1 was there already." in html
    assert Prompt.objects.filter(source="by hand").count() == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"one opening\ntwo openings\n"),
        ("a.jsonl", b'{"prompt": "one opening"}\n{"prompt": "two openings"}\n'),
        ("a.csv", b"prompt\none opening\ntwo openings\n"),
    ],
)
def test_the_format_of_a_file_is_known_by_its_name(admin, name, content):
    send(admin, file=SimpleUploadedFile(name, content))
    assert sorted(Prompt.objects.values_list("text", flat=True)) == ["one opening", "two openings"]


def test_a_file_with_wrong_lines_is_refused_whole_by_number_and_kept_to_be_mended(admin):
    content = b'{"prompt": "fine"}\n{"promt": "misspelt"}\nno json\n{"prompt": "fine too"}\n'
    html = send(admin, file=SimpleUploadedFile("a.jsonl", content))
    assert "Nothing was imported" in html
    assert '<td class="number">2</td>' in html
    assert '<td class="number">3</td>' in html
    assert '<td class="number">1</td>' not in html
    assert "&quot;promt&quot;: &quot;misspelt&quot;" in html, "in the box, to be mended"
    assert '<option value="jsonl" selected>' in html
    assert not Prompt.objects.exists()


@pytest.mark.parametrize("edited", [False, True])
def test_a_mended_file_replaces_the_refused_one_that_the_page_put_into_the_box(admin, edited):
    refused = '{"prompt": "fine"}\n{"promt": "misspelt"}\n'
    html = send(admin, file=SimpleUploadedFile("a.jsonl", refused.encode()))
    put_there = re.search(r'name="put_there" value="(\w{64})"', html)
    assert put_there is not None
    box = refused.replace("\n", "\r\n") + ('{"prompt": "by hand"}' if edited else "")  # as browsers send it
    mended = SimpleUploadedFile("a.jsonl", b'{"prompt": "fine"}\n{"prompt": "mended"}\n')
    html = send(admin, file=mended, text=box, put_there=put_there[1], format="jsonl")
    assert ("There is a file and a pasted text" in html) is edited, "what somebody wrote is never thrown away"
    assert sorted(Prompt.objects.values_list("text", flat=True)) == ([] if edited else ["fine", "mended"])


def test_a_file_that_is_no_utf_8_is_not_offered_with_its_letters_lost(admin):
    html = send(admin, file=SimpleUploadedFile("a.txt", "un café\nun thé\n".encode("latin-1")))
    assert "Nothing was imported" in html
    assert "is not UTF-8; save the file as UTF-8" in html
    assert "\ufffd" not in html
    assert re.search(r'<textarea name="text"[^>]*>\s*</textarea>', html)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "Nothing to import"),
        ({"text": "a", "file": SimpleUploadedFile("a.txt", b"b")}, "take one of them away"),
        ({"file": SimpleUploadedFile("a.txt", b"a\0b\n")}, "NUL"),
        ({"file": SimpleUploadedFile("a.txt", b"\xff\xfe\n")}, "UTF-8"),
        ({"text": "a", "held_out_percent": "91"}, "less than or equal to 90"),
    ],
)
def test_an_import_that_can_not_be_says_why(admin, values, told):
    assert told in send(admin, **values)
    assert not Prompt.objects.exists()


def test_a_file_that_is_too_large_is_refused_before_it_is_read(admin, monkeypatch):
    monkeypatch.setattr("webapp.projects.forms.MAX_FILE_BYTES", 10)
    assert "larger than 10 MB" in send(admin, file=SimpleUploadedFile("a.txt", b"a" * 11))


def test_more_text_than_can_be_pasted_is_told_with_the_cure(admin):
    answer = admin.post("/p/film-reviews/import/", {"held_out_percent": "20", "text": "a line\n" * 200_000})
    assert answer.status_code == 413
    assert "Put it into a file" in answer.content.decode()


def test_an_invitation_link_is_shown_once_and_works(studio, admin):
    html = admin.post(
        "/p/film-reviews/raters/", {"role": "rater", "days": "7", "uses": "2"}, follow=True
    ).content.decode()
    link = html.split('id="link" value="')[1].split('"')[0]
    assert "shown this once" in html
    assert link not in admin.get("/p/film-reviews/raters/").content.decode()
    assert Client().get(link).status_code == 200
    wrong = admin.post("/p/film-reviews/raters/", {"role": "king", "days": "7", "uses": "2"})
    assert wrong.status_code == 422


def test_an_invitation_that_is_withdrawn_lets_nobody_in_and_who_has_joined_stays(studio, admin):
    joined = services.create_invitation(actor=studio.admin, project=studio.project, uses=2)
    other = services.create_invitation(actor=studio.admin, project=studio.project, role="admin")
    ada = services.accept_invitation(token=joined, username="ada", password="a fine long one")
    html = admin.get("/p/film-reviews/raters/").content.decode()
    first, second = re.findall(r'name="invitation" value="(\d+)"', html)[::-1]
    address = "/p/film-reviews/raters/withdraw/"
    html = admin.post(address, {"invitation": first}, follow=True).content.decode()
    assert "lets nobody in any more" in html
    assert re.findall(r'name="invitation" value="(\d+)"', html) == [second]
    assert Client().get(f"/join/{joined}/").status_code == 410
    with pytest.raises(InvitationInvalid):
        services.accept_invitation(token=joined, username="bea", password="a fine long one")
    assert Client().get(f"/join/{other}/").status_code == 200
    assert Membership.objects.filter(user=ada, project=studio.project).exists()
    audit = Audit.objects.get(action="invitation.withdraw")
    assert (audit.actor, audit.target) == (studio.admin, "film-reviews")
    assert audit.detail == {"invitation": int(first), "role": "rater", "uses_left": 1}
    for wrong in (first, "0", "x", str(2**70), ""):
        assert "was over before" in admin.post(address, {"invitation": wrong}, follow=True).content.decode()
    poems = open_studio("poems", "Short poems")
    services.withdraw_invitation(actor=poems.admin, project=poems.project, invitation=int(second))
    assert Client().get(f"/join/{other}/").status_code == 200, "not by another project"
    rater = Client()
    rater.force_login(ada)
    assert rater.post(address, {"invitation": second}).status_code == 404
    assert Audit.objects.filter(action="invitation.withdraw").count() == 1


def test_a_new_link_is_not_shown_on_the_page_of_another_project(studio, admin):
    open_studio("poems", "Short poems")
    admin.post("/p/film-reviews/raters/", {"role": "rater", "days": "7", "uses": "1"})
    assert 'id="link"' not in admin.get("/p/poems/raters/").content.decode()


def test_a_changed_guideline_is_a_new_version_and_raters_only_read_it(studio, admin):
    rater = Client()
    rater.force_login(studio.add_rater("ada"))
    admin.post("/p/film-reviews/guideline/", {"body": "# Now\n\nPrefer the **short** one."})
    assert Guideline.objects.filter(project=studio.project).count() == 2
    html = rater.get("/p/film-reviews/guideline/").content.decode()
    assert "Version 2" in html
    assert "<strong>short</strong>" in html
    assert "<textarea" not in html
    rater.post("/p/film-reviews/guideline/", {"body": "mine"})
    assert Guideline.objects.filter(project=studio.project).count() == 2
    assert admin.post("/p/film-reviews/guideline/", {"body": " "}).status_code == 422


def test_a_guideline_can_not_carry_script_or_pictures_to_raters(studio, admin):
    body = "<script>x</script>\n\n[a](javascript:x) ![p](https://e.example/p.png) <img src=x onerror=y> [b](https://e.example)"
    admin.post("/p/film-reviews/guideline/", {"body": body})
    html = admin.get("/p/film-reviews/guideline/").content.decode()
    prose = html.split('<div class="prose" dir="auto">')[1].split("</section>")[0]
    assert "<script" not in prose
    assert "<img" not in prose
    assert 'href="javascript' not in prose
    assert 'rel="noopener noreferrer nofollow"' in prose
