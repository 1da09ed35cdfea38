"""The policy page: samples, promotion and rollback, and the way back to the ratings."""

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.studio import Studio, open_studio
from tests.turns import rate, rate_by_machine, turn
from tests.web.admin_pages import words_of
from webapp.registry.models import Promotion, ServingPointer
from webapp.runs.models import Run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]


@pytest.fixture
def studio() -> Studio:
    return open_studio()


def page(client: Client, end: str) -> str:
    answer = client.get(f"/p/film-reviews/{end}")
    assert answer.status_code == 200
    return answer.content.decode()


def press_promote(client: Client, version: int, **values: object):
    epoch = re.search(r'name="expected_epoch" value="(\d+)"', page(client, f"policies/{version}/"))
    sent = {"expected_epoch": epoch[1] if epoch else 1, "reason": "", **values}
    return client.post(f"/p/film-reviews/policies/{version}/promote/", sent)


def test_a_candidate_is_promoted_with_a_reason_and_rolled_back(studio, admin):
    rate(studio, 20)
    turn(studio)
    assert "Promote v2" in page(admin, "policies/2/")
    assert press_promote(admin, 2, reason="ends its sentences").status_code == 302
    assert ServingPointer.objects.get().checkpoint.version == 2
    html = page(admin, "policies/2/")
    assert "Began to serve in place of v1" in words_of(html)
    assert "ends its sentences" in html
    assert 'id="promote"' not in html
    assert "Roll back to v1" in page(admin, "policies/1/")
    press_promote(admin, 1)
    pointer = ServingPointer.objects.get()
    assert (pointer.checkpoint.version, pointer.epoch) == (1, 3)
    assert "Gave way to v1" in words_of(page(admin, "policies/2/"))
    assert Promotion.objects.count() == 2


def test_of_two_admins_the_slower_is_shown_the_conflict_and_may_decide_anew(studio, admin):
    rate(studio, 20)
    turn(studio)
    press_promote(admin, 2)
    answer = press_promote(admin, 1, expected_epoch=1, reason="I saw it first")
    html = answer.content.decode()
    assert answer.status_code == 409
    assert "somebody else was faster" in html
    assert "v2 serves now" in html
    assert 'value="I saw it first"' in html
    assert 'name="expected_epoch" value="2"' in html
    assert 'name="next" value="/p/film-reviews/policies/1/"' in html, "where it was sent takes forms only"
    assert ServingPointer.objects.get().checkpoint.version == 2


def test_a_reason_that_is_too_long_is_refused(studio, admin):
    rate(studio, 20)
    turn(studio)
    assert press_promote(admin, 2, reason="x" * 301).status_code == 422
    assert ServingPointer.objects.get().checkpoint.version == 1


def test_the_way_from_a_policy_back_to_its_ratings_can_be_walked(studio, admin):
    rate(studio, 18)
    rate_by_machine(studio, 2)
    turn(studio)
    html = page(admin, "policies/2/")
    chain = words_of(html[html.index('<ol class="chain">') : html.index("</ol>")])
    order = ["Policy v2", "PPO · run 2", "Reward model 1", "Its training, run 1", "Dataset", "20 ratings"]
    assert [chain.index(part) for part in order] == sorted(chain.index(part) for part in order)
    assert "18 by people · 2 simulated" in chain
    assert 'href="/p/film-reviews/policies/2/ratings/"' in html
    listed = page(admin, "policies/2/ratings/")
    assert len(re.findall(r'<p class="meta">', listed)) == 20
    assert len(re.findall(r'<span class="tag simulated">simulated</span>', listed)) == 2
    assert len(re.findall(r'<p class="meta">', page(admin, "policies/2/ratings/?source=simulated"))) == 2


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_run_is_called_by_its_own_algorithm_everywhere(studio, admin, algorithm):
    rate(studio, 20)
    turn(studio)
    run = Run.objects.get(kind=Run.Kind.POLICY)
    assert run.algorithm == "PPO"
    assert run.events.get(kind="queued").message == "policy (PPO) from v1"
    run.config["algorithm"] = algorithm
    run.save()
    name = algorithm.upper()
    told = {
        f"runs/{run.number}/": f"Improve v1 ({name})",
        "runs/": f"{name} from v1 after reward model 1",
        "": f"{name} from v1",
        "lineage/": f"from v1 by {name}, run {run.number}",
        "policies/2/": f"{name} · run {run.number}",
    }
    for address, words in told.items():
        assert words in words_of(page(admin, address)), address


def test_people_and_simulated_raters_are_counted_apart_wherever_raters_are(studio, admin):
    rate(studio, 18)
    rate_by_machine(studio, 2)
    people = len(set(studio.project.ratings.filter(source="human").values_list("rater", flat=True)))
    told = f"{people} {'person' if people == 1 else 'people'} rated · 1 simulated rater"
    assert told in words_of(page(admin, ""))
    assert told in words_of(page(admin, "runs/reward/"))
    raters = words_of(page(admin, "raters/"))
    assert "1 simulated rater" in raters
    members = studio.project.memberships.filter(user__is_simulated=False).count()
    assert f"{members} {'person takes' if members == 1 else 'people take'} part." in raters


def test_settings_show_the_mix_of_modes(studio, admin):
    studio.project.pair_percent, studio.project.ranking_percent = 50, 30
    studio.project.save()
    assert "Now: pair 50 %, ranking 30 %, single answers 20 %." in words_of(page(admin, "settings/"))
    studio.project.ranking_percent = 50
    studio.project.save()
    assert "Now: pair 50 %, ranking 50 %." in words_of(page(admin, "settings/"))


def test_ratings_say_which_text_was_better_whichever_side_it_stood_on(studio, admin):
    rate(studio, 20)
    turn(studio)
    listed = page(admin, "policies/2/ratings/")
    found = re.findall(
        r'Clearly better.*?<h3>Better</h3><p class="verbatim">([^<]*)</p>.*?<p class="verbatim">([^<]*)', listed, re.S
    )
    assert len(found) == 20
    for better, worse in found:
        rating = studio.project.ratings.get(comparison__first__text__in=[better, worse])
        first, second = rating.comparison.first.text, rating.comparison.second.text
        assert (better, worse) == ((first, second) if rating.verdict > 0 else (second, first))


def test_the_list_of_ratings_is_paged_and_its_queries_do_not_grow(studio, admin):
    rate(studio, 20)
    turn(studio)
    with CaptureQueriesContext(connection) as few:
        page(admin, "policies/2/ratings/")
    rate(studio, 15)
    turn(studio)
    with CaptureQueriesContext(connection) as many:
        html = page(admin, "policies/3/ratings/")
    assert len(many) <= len(few)
    assert "page 1 of 2" in html
    assert len(re.findall(r'<p class="meta">', page(admin, "policies/3/ratings/?page=2"))) == 15


def test_the_base_policy_says_that_no_rating_is_behind_it(studio, admin):
    assert "No rating is behind it" in page(admin, "policies/1/ratings/")
    assert "No rating of this project is in it" in page(admin, "policies/1/")


def test_samples_of_a_model_are_text_whatever_they_say(studio, admin):
    hostile = '<img src=x onerror="alert(1)"><script>alert(2)</script><a hx-get="/healthz" hx-trigger="load">x</a>'
    studio.add_samples("What <b>can</b> be said", hostile)
    html = page(admin, "policies/1/")
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in html
    assert "What &lt;b&gt;can&lt;/b&gt; be said" in html
    assert "<img" not in html
    assert "hx-get" not in html.replace("&lt;a hx-get", "")
    samples = html.index('<ul class="samples" hx-disable>')
    assert samples < html.index("&lt;script&gt;")


def test_no_page_has_a_script_or_style_of_its_own(studio, admin):
    rate(studio, 20)
    turn(studio)
    for end in (
        "",
        "runs/reward/",
        "runs/policy/",
        "runs/1/",
        "runs/2/",
        "policies/2/",
        "policies/2/ratings/",
        "runs/",
    ):
        answer = admin.get(f"/p/film-reviews/{end}")
        html = answer.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)", html), end
        assert not re.search(r"<[^>]*\s(style|on\w+)=", html), end
        assert "<style" not in html, end
        assert "script-src 'self'" in answer["Content-Security-Policy"]
        assert "unsafe" not in answer["Content-Security-Policy"]
