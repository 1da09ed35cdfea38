"""A rater's own ratings, by Django's client: listed, opened, changed; and what an admin sees of them."""

import re
import uuid

import pytest
from django.test import Client

from tests.studio import Studio, let_a_day_pass, open_studio, queries_of
from tests.web.rater_pages import HTMX, enter, field_of, look, texts_of, url
from webapp.feedback.models import Rating, Skip, Slot
from webapp.projects.models import Membership

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio() -> Studio:
    return open_studio()


def test_my_ratings_lists_my_own_only(studio, rater):
    studio.add_items(pairs=4)
    for client, choice in ((rater, "1"), (enter(studio, "bea"), "7")):
        _, fields = look(client, studio)
        client.post(url(studio), {**fields, "choice": choice}, headers=HTMX)
    html = rater.get(url(studio, "history/")).content.decode()
    assert "A is much better" in html
    assert "B is much better" not in html
    assert not re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}", html)


def test_my_ratings_are_paged_in_constant_queries(studio, rater):
    counts = []
    for wave in range(2):
        studio.add_items(pairs=5 + 20 * wave, singles=5 + 20 * wave)
        for n in range(6 if wave == 0 else 34):
            _, fields = look(rater, studio)
            if n % 4:
                rater.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
            else:
                rater.post(url(studio, "rate/skip/"), fields, headers=HTMX)
        counts.append(queries_of(rater, url(studio, "history/")))
    print(f"queries of the list of ratings: {counts}")
    assert 0 < counts[0] == counts[1] <= 16
    html = rater.get(url(studio, "history/")).content.decode()
    assert html.count(">Open<") == 20 + 10
    assert "Page 1 of 2" in html
    last = rater.get(url(studio, "history/") + "?page=2").content.decode()
    assert "Skipped lately" not in last
    assert last.count(">Open<") == Rating.objects.count() - 20


def test_a_rating_is_opened_as_it_was_shown_and_changed(studio, rater):
    studio.add_items(pairs=1)
    html, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
    here = url(studio, f"history/{fields['token']}/")
    page = rater.get(here).content.decode()
    assert texts_of(page) == texts_of(html)
    assert "You said: A is clearly better." in page
    assert re.findall(r'class="before" aria-pressed="true" name="choice" value="(\d)"', page) == ["2"]
    answer = rater.post(here, {"submission_id": field_of(page, "submission_id"), "choice": "7"}, follow=True)
    assert answer.redirect_chain[0][0] == url(studio, "history/")
    assert "B is much better" in answer.content.decode()
    assert sorted(Rating.objects.values_list("revision", "is_current")) == [(1, False), (2, True)]
    wrong = rater.post(here, {"submission_id": uuid.uuid4(), "choice": "9"}, headers=HTMX)
    assert wrong.status_code == 422


def test_what_is_not_mine_or_not_judged_yet_cannot_be_opened(studio, rater):
    studio.add_items(pairs=3)
    _, fields = look(rater, studio)
    here = url(studio, f"history/{fields['token']}/")
    sent = {"submission_id": uuid.uuid4(), "choice": "1"}
    assert rater.get(here).status_code == 404, "it is still to be judged"
    assert rater.post(here, sent).status_code == 404
    rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX)
    assert rater.get(here).status_code == 200
    bea = enter(studio, "bea")
    admin = Client()
    admin.force_login(studio.admin)
    for other in (bea, admin):
        assert other.get(here).status_code == 404
        assert other.post(here, sent).status_code == 404
    elsewhere = open_studio("poems", "Poems")
    Membership.objects.create(project=elsewhere.project, user=studio.raters["ada"])
    assert rater.get(url(elsewhere, f"history/{fields['token']}/")).status_code == 404
    assert rater.post(url(elsewhere, f"history/{fields['token']}/"), {**sent, "choice": "5"}).status_code == 404
    assert Rating.objects.count() == 1


def test_an_item_of_one_project_is_unknown_at_the_addresses_of_another(studio, rater):
    studio.add_items(pairs=5)
    elsewhere = open_studio("poems", "Poems")
    Membership.objects.create(project=elsewhere.project, user=studio.raters["ada"])
    _, fields = look(rater, studio)
    fragment = rater.get(url(studio), {"showing": fields["token"]}, headers=HTMX).content.decode()
    ahead = field_of(fragment, "token")
    for end in ("rate/", "rate/skip/"):
        assert rater.post(url(elsewhere, end), {**fields, "choice": "1"}, headers=HTMX).status_code == 404
    assert rater.post(url(elsewhere, "rate/heartbeat/"), {"token": fields["token"]}).status_code == 410
    rater.post(url(elsewhere, "rate/release/"), {"token": ahead})
    assert Slot.objects.filter(state="leased").count() == 2
    assert not Rating.objects.exists()
    assert not Skip.objects.exists()


def test_a_change_after_a_run_says_which(studio, rater):
    from rlhf_core.config import RewardConfig
    from webapp.runs.leases import claim
    from webapp.runs.results import succeed
    from webapp.runs.services import start_reward_run

    studio.add_items(pairs=3)
    tokens = []
    for choice in "26":
        _, fields = look(rater, studio)
        tokens.append(fields["token"])
        rater.post(url(studio), {**fields, "choice": choice}, headers=HTMX)
    run = start_reward_run(
        actor=studio.admin, project=studio.project, config=RewardConfig(minimum_ratings=2), request_id=uuid.uuid4()
    )
    here = url(studio, f"history/{tokens[0]}/")
    assert "has learned from it" not in rater.get(here).content.decode(), "it has not yet"
    succeed(claim(run.pk, "one"), outputs=[{"kind": "reward_model", "id": uuid.uuid4().hex * 2}], result={})
    assert f"Run {run.number} has learned from it" in rater.get(here).content.decode()
    rater.post(here, {"submission_id": uuid.uuid4(), "choice": "7"})
    assert f"Changed after run {run.number}." in rater.get(here).content.decode()
    html = rater.get(url(studio, "history/")).content.decode()
    assert html.count(f"changed after run {run.number}") == 1


def test_a_verdict_that_is_too_old_is_shown_and_stands(studio, rater):
    studio.add_items(pairs=11)
    tokens = []
    for _ in range(11):
        _, fields = look(rater, studio)
        tokens.append(fields["token"])
        rater.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
    let_a_day_pass()
    here = url(studio, f"history/{tokens[0]}/")
    html = rater.get(here).content.decode()
    assert "It stands" in html
    assert 'name="choice"' not in html
    answer = rater.post(here, {"submission_id": uuid.uuid4(), "choice": "7"}, headers=HTMX)
    assert answer.status_code == 409
    assert "only your last 10" in answer.content.decode()
    assert 'name="choice"' in rater.get(url(studio, f"history/{tokens[1]}/")).content.decode()


def test_undo_without_anything_to_undo_says_so(studio, rater):
    assert rater.get(url(studio, "rate/undo/"), headers=HTMX).status_code == 204
    assert "There is nothing to undo." in rater.get(url(studio, "rate/undo/"), follow=True).content.decode()


def test_the_admin_sees_who_rated_what_in_constant_queries(studio, rater):
    robot = studio.add_rater("robot")
    robot.is_simulated = True
    robot.save()
    admin = Client()
    admin.force_login(studio.admin)
    counts = []
    for wave in range(2):
        studio.add_items(pairs=5 + 10 * wave, singles=5 + 10 * wave)
        for client in (rater, enter(studio, "robot")):
            for _ in range(3 if wave == 0 else 10):
                _, fields = look(client, studio)
                client.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
        counts.append(queries_of(admin, url(studio, "ratings/")))
    assert 0 < counts[0] == counts[1] <= 14
    html = admin.get(url(studio, "ratings/")).content.decode()
    assert "ada" in html
    assert 'class="tag simulated"' in html
    only = admin.get(url(studio, "ratings/") + "?source=human").content.decode()
    assert only.count('class="tag simulated"') == 1, "the member's own line, and no rating"
    assert html.count('class="tag simulated"') > 10
    strange = admin.get(url(studio, "ratings/") + "?source=human&rater__password__startswith=x&page=zz")
    assert strange.status_code == 200
    assert rater.get(url(studio, "ratings/")).status_code == 404
