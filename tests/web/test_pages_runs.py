"""The run page, its live part and its curves, and who may see what, by Django's client."""

import re
import uuid

import pytest
from django.test import Client

from tests.studio import Studio, open_studio
from tests.turns import ask_for_policy_run, ask_for_reward_run, begin, finish, rate, rater_of, train_reward_model
from tests.web.admin_pages import read, url
from webapp.runs import progress, results
from webapp.runs.models import Run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def studio() -> Studio:
    return open_studio()


# --- A run's page ----------------------------------------------------------------------------------------------------


def test_the_run_page_shows_progress_values_log_settings_and_links(studio, admin):
    reward_model = train_reward_model(studio)
    claim = begin(ask_for_policy_run(studio, reward_model, updates=30, kl_coefficient=0.25), step=3, total_steps=30)
    progress.record_log(claim, "<b>32 prompts</b>")
    html = read(admin, studio, "runs/2/")
    assert "update 3 of 30" in html
    assert 'value="3" max="30"' in html
    assert 'href="/p/film-reviews/runs/1/"' in html  # the run that made the reward model
    assert "&lt;b&gt;32 prompts&lt;/b&gt;" in html
    assert re.search(r"<code>kl</code></td><td[^>]*>8.00</td>", html)
    assert re.search(r"<code>kl_coefficient</code></td><td class=\"number\">0.25</td>", html)
    assert 'data-curves="/p/film-reviews/runs/2/curves/"' in html
    assert 'http-equiv="refresh"' in html  # for those without scripts


def test_the_live_fragment_is_304_until_something_changes_and_286_at_the_end(studio, admin):
    rate(studio, 20)
    run = ask_for_reward_run(studio)
    claim = begin(run, step=2)
    first = admin.get(url(studio, "runs/1/live/"), headers=HTMX)
    assert first.status_code == 200
    assert "no-cache" in first["Cache-Control"]
    known = {**HTMX, "If-None-Match": first["ETag"]}
    assert admin.get(url(studio, "runs/1/live/"), headers=known).status_code == 304
    progress.record_progress(claim, step=3, total_steps=10, phase="learning")
    changed = admin.get(url(studio, "runs/1/live/"), headers=known)
    assert changed.status_code == 200
    assert 'hx-swap-oob="true"' in changed.content.decode()
    results.fail(claim, "DatasetError: <i>nothing</i> to learn")
    ended = admin.get(url(studio, "runs/1/live/"), headers=known)
    assert ended.status_code == 286
    assert "hx-trigger" not in ended.content.decode()
    assert "&lt;i&gt;nothing&lt;/i&gt;" in ended.content.decode()


def test_the_last_fragment_of_a_run_says_what_it_made(studio, admin):
    rate(studio, 20)
    run = ask_for_reward_run(studio)
    claim = begin(run, step=2)
    going_on = admin.get(url(studio, "runs/1/live/"), headers=HTMX).content.decode()
    assert re.search(r'<dd id="made" hx-swap-oob="true">\s*<span class="quiet">nothing yet', going_on)
    results.succeed(claim, outputs=[{"kind": "reward_model", "id": "ab" * 32}], result={})
    ended = admin.get(url(studio, "runs/1/live/"), headers=HTMX).content.decode()
    assert re.search(r'<dd id="made" hx-swap-oob="true">reward model 1 .*<code>abababababab</code>', ended)


def test_a_304_costs_few_queries(studio, admin, django_assert_max_num_queries):
    rate(studio, 20)
    begin(ask_for_reward_run(studio), step=2)
    known = {**HTMX, "If-None-Match": admin.get(url(studio, "runs/1/live/"))["ETag"]}
    with django_assert_max_num_queries(7):  # session, user, project, run, last event, serving pointer, metrics
        admin.get(url(studio, "runs/1/live/"), headers=known)


def test_the_curves_are_json_by_metric_with_steps(studio, admin):
    rate(studio, 20)
    begin(ask_for_reward_run(studio), step=2, metrics={"loss": 0.5})
    found = admin.get(url(studio, "runs/1/curves/"))
    assert found.json()["metrics"] == {"loss": [[1, 0.5], [2, 0.5]]}
    assert found.json()["total_steps"] == 10
    known = {"If-None-Match": found["ETag"]}
    assert admin.get(url(studio, "runs/1/curves/"), headers=known).status_code == 304


def test_a_finished_run_leads_on(studio, admin):
    reward_model = train_reward_model(studio)
    html = read(admin, studio, "runs/1/")
    assert "agrees with raters on 75.0\xa0% of held-out comparisons" in html
    assert "95 % interval 60–86\xa0%, from 40 comparisons" in html
    assert 'href="/p/film-reviews/runs/policy/?reward_model=1"' in html
    finish(ask_for_policy_run(studio, reward_model))
    assert "Look and promote" in read(admin, studio, "runs/2/")


def test_cancelling_asks_first_then_stops_the_run(studio, admin):
    rate(studio, 20)
    ask_for_reward_run(studio)
    assert "Cancel run 1?" in read(admin, studio, "runs/1/cancel/")
    assert Run.objects.get().state == "queued"
    assert admin.post(url(studio, "runs/1/cancel/"))["Location"] == url(studio, "runs/1/")
    assert Run.objects.get().state == "cancelled"
    assert admin.get(url(studio, "runs/1/cancel/")).status_code == 302
    assert "Cancelled" in read(admin, studio, "runs/1/")


def test_all_runs_are_listed(studio, admin):
    assert "None yet" in read(admin, studio, "runs/")
    train_reward_model(studio)
    assert 'href="/p/film-reviews/runs/1/"' in read(admin, studio, "runs/")


# --- Who may ---------------------------------------------------------------------------------------------------------


ADDRESSES = [
    "",
    "runs/",
    "runs/reward/",
    "runs/policy/",
    "runs/1/",
    "runs/1/live/",
    "runs/1/curves/",
    "runs/1/cancel/",
    "policies/1/",
    "policies/1/ratings/",
]


@pytest.mark.parametrize("end", ADDRESSES)
def test_only_admins_of_the_project_see_its_pages(studio, admin, end):
    train_reward_model(studio)
    assert admin.get(url(studio, end)).status_code in (200, 286, 302)
    other = open_studio("other", "Other")
    for user in (studio.add_rater("nosy"), other.add_rater("boss", role="admin")):
        stranger = Client()
        stranger.force_login(user)
        assert stranger.get(url(studio, end)).status_code == 404
    assert Client().get(url(studio, end)).status_code == 302


@pytest.mark.parametrize("end", ["simulate/", "policies/", "runs/reward/", "runs/1/cancel/", "policies/1/promote/"])
def test_changes_are_by_post_with_the_csrf_token_and_by_admins_alone(studio, admin, end, sent):
    rate(studio, 20)
    ask_for_reward_run(studio)
    asked = list(sent)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(studio.admin)
    assert strict.post(url(studio, end)).status_code == 403
    rater = Client()
    rater.force_login(rater_of(studio))
    assert rater.post(url(studio, end), {"preset": "CPU", "request_id": str(uuid.uuid4())}).status_code == 404
    assert Run.objects.get().state == "queued"
    assert sent == asked


def test_what_does_not_exist_is_404(studio, admin):
    for end in ("runs/9/", "runs/9/live/", "policies/9/", f"datasets/{uuid.uuid4()}/"):
        assert admin.get(url(studio, end)).status_code == 404
