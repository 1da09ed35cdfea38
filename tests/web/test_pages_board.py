"""The loop board and what it lets an admin do at once, by Django's client."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.studio import Studio, open_studio
from tests.turns import ask_for_reward_run, begin, finish, rate, rate_by_machine, turn
from tests.web.admin_pages import next_step, read, url
from webapp import queue
from webapp.projects.models import Membership, Project
from webapp.projects.services import create_project
from webapp.registry.models import ServingPointer
from webapp.registry.selectors import serving
from webapp.registry.services import promote

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def studio() -> Studio:
    return open_studio()


# --- The board says what to do next ----------------------------------------------------------------------------------


def test_an_empty_board_offers_simulated_raters_invitations_and_rating_oneself(studio, admin):
    found = next_step(read(admin, studio))
    assert "Nobody has rated yet" in found
    assert "Let simulated raters give the first 200" in found
    assert "Invite raters" in found
    assert "Rate yourself" in found


def test_too_few_ratings_ask_for_more(studio, admin):
    rate(studio, 3)
    found = next_step(read(admin, studio))
    assert "3 of 20 ratings" in found
    assert "17 more" in found


def test_enough_ratings_ask_to_train_and_simulated_ones_are_told_apart(studio, admin):
    rate(studio, 15)
    rate_by_machine(studio, 5)
    found = next_step(read(admin, studio))
    assert "20 ratings are in" in found
    assert "5 simulated of 20" in found
    assert "Train reward model" in found


def test_a_new_reward_model_asks_to_improve_the_policy(studio, admin):
    rate(studio, 20)
    finish(ask_for_reward_run(studio))
    assert "Reward model 1 has not been used yet. It agrees with raters on 75.0 %" in next_step(read(admin, studio))


def test_a_candidate_asks_to_be_looked_at_and_after_promotion_more_ratings_are_wanted(studio, admin):
    rate(studio, 20)
    candidate = turn(studio)
    assert next_step(read(admin, studio)).startswith("v2 is ready.")
    promote(project=studio.project, checkpoint=candidate, actor=studio.admin, expected_epoch=1)
    assert "0 ratings have come since reward model 1 was trained." in next_step(read(admin, studio))
    rate(studio, 20)
    assert "20 ratings have come since reward model 1 was trained." in next_step(read(admin, studio))


def test_a_board_without_a_policy_says_how_to_get_one(studio, admin):
    ServingPointer.objects.all().delete()
    found = next_step(read(admin, studio))
    assert "First, a policy." in found
    assert "./manage.py add_policy --project film-reviews --checkpoint" in found
    assert "Start with" not in found


def test_a_new_project_begins_with_the_policy_of_another_project_of_the_admins(studio, admin):
    project = create_project(actor=studio.admin, name="Poems", slug="poems", question="?", single_question="?")
    html = admin.get("/p/poems/").content.decode()
    assert "Start with v1 of Film reviews" in next_step(html)
    for _ in range(2):  # a double click changes nothing more
        assert admin.post("/p/poems/policies/", {"source": "film-reviews"})["Location"] == "/p/poems/"
    pointer = serving(project)
    assert (pointer.checkpoint.sha256, pointer.checkpoint.version) == (studio.checkpoint.sha256, 1)
    assert (pointer.sampling, pointer.epoch) == (studio.sampling, 1)
    assert "Nobody has rated yet" in next_step(admin.get("/p/poems/").content.decode())


def test_the_policy_of_a_project_that_one_does_not_manage_cannot_be_taken(studio):
    poems = open_studio("poems", "Poems")
    ServingPointer.objects.filter(project=poems.project).delete()
    boss = poems.add_rater("boss", role="admin")
    Membership.objects.create(project=studio.project, user=boss)
    client = Client()
    client.force_login(boss)
    assert "Start with" not in next_step(client.get("/p/poems/").content.decode())
    assert client.post("/p/poems/policies/", {"source": "film-reviews"}).status_code == 404
    assert serving(poems.project) is None


def test_a_running_run_is_on_the_board_and_only_then_it_polls(studio, admin):
    assert "hx-trigger" not in read(admin, studio)
    rate(studio, 20)
    begin(ask_for_reward_run(studio), step=4, total_steps=10)
    html = read(admin, studio)
    assert "step 4 of 10" in next_step(html)
    assert 'hx-trigger="every 3s"' in html
    fragment = admin.get(url(studio), headers=HTMX)
    assert fragment.status_code == 200
    assert "<html" not in fragment.content.decode()


def test_when_the_run_ends_the_board_is_told_to_load_anew(studio, admin):
    answer = admin.get(url(studio), headers=HTMX)
    assert answer.status_code == 286
    assert answer["HX-Refresh"] == "true"


def test_the_table_shows_version_ratings_accuracy_with_interval_reward_kl_and_state(studio, admin):
    rate(studio, 16)
    rate_by_machine(studio, 4)
    turn(studio)
    html = read(admin, studio)
    row = html[html.index("<tbody>") : html.index("</tr>", html.index("<tbody>"))]
    words = " ".join(re.sub(r"<[^>]+>", " ", row).split())
    # Wilson by hand: 30 of 40 is 0.75, 95 % interval 0.5981 to 0.8581
    assert words.startswith("v2 PPO from v1 20 4 simulated 75.0 % 60–86 %, n = 40 0.800 8.00 nats")
    assert words.endswith("candidate look and promote")


def test_the_board_asks_no_more_queries_for_a_long_history(studio, admin, django_assert_max_num_queries):
    rate(studio, 20)
    turn(studio)
    with CaptureQueriesContext(
        connection,
    ) as before:
        read(admin, studio)
    for _ in range(3):
        rate(studio, 20)
        turn(studio)
    with django_assert_max_num_queries(len(before)):
        read(admin, studio)


# --- Simulated raters ------------------------------------------------------------------------------------------------


def test_simulated_raters_are_asked_once_whoever_asks_and_their_progress_is_shown(
    studio, admin, sent, django_capture_on_commit_callbacks
):
    other = Client()  # a second browser, of another admin
    other.force_login(studio.add_rater("boss", role="admin"))
    with django_capture_on_commit_callbacks(execute=True):
        for client in (admin, admin, other):
            assert client.post(url(studio, "simulate/")).status_code == 302
    assert sent == [("workers.simulate_ratings", str(studio.project.pk))]
    studio.project.refresh_from_db()
    assert studio.project.simulated_target == 200
    rate_by_machine(studio, 3)
    for client in (admin, other):
        html = read(client, studio)
        assert "3 of 200 ratings" in next_step(html)
        assert 'hx-trigger="every 3s"' in html
    Project.objects.update(simulated_asked_at=timezone.now() - timedelta(minutes=16))
    assert "at work" not in next_step(read(admin, studio)), "no item came for a quarter of an hour"
    admin.post(url(studio, "simulate/"))
    studio.project.refresh_from_db()
    assert studio.project.simulated_target == 203


def test_simulated_raters_are_asked_also_while_the_broker_is_away(studio, admin, monkeypatch):
    monkeypatch.setattr(queue, "send", lambda *args, **kwargs: False)
    answer = admin.post(url(studio, "simulate/"), follow=True)
    assert "0 of 200 ratings" in next_step(answer.content.decode())
