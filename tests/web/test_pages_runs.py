"""The loop board, the forms that start runs, and the run page, by Django's client."""

import re
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from rlhf_core.config import METRICS, PRESETS, PolicyConfig, RewardConfig, SamplingConfig
from tests.studio import Studio, open_studio
from tests.turns import ask_for_policy_run, ask_for_reward_run, begin, finish, rate, rate_by_machine, rater_of, turn
from tests.web.admin_pages import next_step, read, url
from webapp import queue
from webapp.projects.models import Membership, Project
from webapp.projects.services import create_project
from webapp.registry import services as registry_services
from webapp.registry.models import Checkpoint, ServingPointer
from webapp.registry.selectors import serving
from webapp.registry.services import change_sampling, promote
from webapp.runs import charts, figures, progress, results
from webapp.runs.forms import PolicyRunForm, RewardRunForm, range_in_words
from webapp.runs.models import Run
from webapp.runs.selectors import presets_for

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """What the broker was asked for."""
    messages = []

    def take(name, *args, queue):
        messages.append((name, *args))
        return True

    monkeypatch.setattr(queue, "send", take)
    return messages


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


# --- Starting runs ---------------------------------------------------------------------------------------------------


def fields_of(form) -> dict[str, str]:
    return {name: str(form[name].value() if form[name].value() is not None else "") for name in form.fields}


def test_a_preset_is_one_click_and_a_double_click_is_one_run(studio, admin):
    rate(studio, 20)
    html = read(admin, studio, "runs/reward/")
    request_id = re.search(r'name="request_id" value="([^"]+)"', html)[1]
    for _ in range(2):
        answer = admin.post(url(studio, "runs/reward/"), {"preset": "CPU", "request_id": request_id})
        assert answer["Location"] == url(studio, "runs/1/")
    run = Run.objects.get()
    assert run.config == PRESETS["reward"]["CPU"].__dict__
    assert run.started_by == studio.admin


def test_the_form_says_help_unit_and_range_of_every_setting(studio, admin):
    finish_one(studio)
    html = read(admin, studio, "runs/policy/")
    for name in PolicyConfig.__dataclass_fields__:
        assert f'id="id_{name}"' in html
    assert "Longest response." in html
    assert "1 to 4,096." in html
    assert "Above 0, up to 1,000, or empty." in html
    assert html.index('id="id_kl_target"') < html.index("Advanced settings") < html.index('id="id_gae_lambda"')


def finish_one(studio: Studio) -> Checkpoint:
    rate(studio, 20)
    return finish(ask_for_reward_run(studio))


def test_wrong_values_are_named_with_their_range_and_all_input_is_kept(studio, admin):
    finish_one(studio)
    form = {**fields_of(RewardRunForm()), "learning_rate": "-1", "epochs": "many", "batch_size": "", "bins": "5000"}
    answer = admin.post(url(studio, "runs/reward/"), form)
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "Learning rate = -1 is not permitted: above 0, up to 1." in html
    assert "Epochs = &#x27;many&#x27; is not permitted: a whole number, 1 to 1,000." in html
    assert "Batch size is empty; permitted is 1 to 4,096." in html
    assert "Bins = 5000 is not permitted: 2 to 100." in html
    assert 'value="many"' in html
    assert '<details class="fold" open>' in html  # bins is an advanced setting
    assert Run.objects.count() == 1


@pytest.mark.parametrize("digits", [30, 400, 5000])
@pytest.mark.parametrize("kind", ["reward", "policy"])
def test_a_number_of_any_length_is_refused_by_name(studio, admin, kind, digits):
    model = registry_services.record_checkpoint(project=studio.project, kind="reward_model", sha256="9" * 64)
    form = RewardRunForm() if kind == "reward" else PolicyRunForm(project=studio.project)
    names = [name for name in form.setting_names if hasattr(form.fields[name], "number_type")]
    data = fields_of(form) | dict.fromkeys(names, "9" * digits)
    data |= {"request_id": uuid.uuid4(), "reward_model": model.pk}
    answer = admin.post(url(studio, f"runs/{kind}/"), data)
    assert answer.status_code == 422
    assert f"Not started: {len(names)} settings to mend" in answer.content.decode()
    assert not Run.objects.exists()


def test_settings_of_ones_own_reach_the_run_and_an_empty_one_is_none(studio, admin):
    reward_model = finish_one(studio)
    form = fields_of(PolicyRunForm(project=studio.project)) | {"kl_target": "", "updates": "3"}
    form |= {"exclude_truncated": "on", "whiten_rewards": "False"}  # a switch that is on, one that is off
    assert form["reward_model"] == str(reward_model.pk)
    answer = admin.post(url(studio, "runs/policy/"), form)
    assert answer["Location"] == url(studio, "runs/2/")
    assert Run.objects.get(number=2).config == PolicyConfig(kl_target=None, updates=3, exclude_truncated=True).__dict__


def test_too_few_ratings_are_refused_with_the_cure(studio, admin):
    rate(studio, 3)
    answer = admin.post(url(studio, "runs/reward/"), {"preset": "CPU", "request_id": str(uuid.uuid4())})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "There are 3 usable ratings, and the run needs 20. Collect 17 more" in html
    assert "Invite raters" in html
    assert not Run.objects.exists()


def test_ppo_without_a_reward_model_leads_to_training_one(studio, admin):
    html = read(admin, studio, "runs/policy/")
    assert "First, a reward model" in html
    answer = admin.post(url(studio, "runs/policy/"), {"preset": "CPU", "request_id": str(uuid.uuid4())})
    assert answer.status_code == 422
    assert not Run.objects.exists()


def test_a_reward_model_of_another_project_is_refused(studio, admin):
    other = open_studio("other", "Other")
    foreign = finish_one(other)
    finish_one(studio)
    admin.force_login(other.admin)  # opening the other studio renewed the password
    sent = {"preset": "CPU", "request_id": str(uuid.uuid4()), "reward_model": str(foreign.pk)}
    assert admin.post(url(studio, "runs/policy/"), sent).status_code == 422
    assert not Run.objects.filter(kind="policy").exists()


def test_no_preset_promises_a_card_that_no_run_uses(studio, admin):
    rate(studio, 20)
    html = read(admin, studio, "runs/reward/")
    assert "On a GPU" not in html
    assert "Sized for a GPU; where the worker has none, it runs on the CPU." in html


def test_an_admin_may_ask_for_several_processes_and_another_algorithm(studio, admin):
    reward_model = finish_one(studio)
    assert 'name="processes" value="1"' in read(admin, studio, "runs/policy/")
    sent = {"preset": "RLOO", "request_id": str(uuid.uuid4()), "reward_model": reward_model.pk}
    assert admin.post(url(studio, "runs/policy/"), sent).status_code == 302
    assert Run.objects.get(kind="policy").config["algorithm"] == "rloo"


def test_an_unknown_preset_starts_nothing(studio, admin):
    rate(studio, 20)
    sent = {"preset": "TPU", "request_id": str(uuid.uuid4())}
    answer = admin.post(url(studio, "runs/reward/"), sent)
    assert answer.status_code == 422
    assert "there are CPU, GPU" in answer.content.decode()
    assert not Run.objects.exists()


def test_run_again_fills_in_the_settings_of_that_run(studio, admin):
    rate(studio, 20)
    ask_for_reward_run(studio, epochs=7, learning_rate=2.5e-5)
    html = read(admin, studio, "runs/reward/?from=1")
    assert 'name="epochs" value="7"' in html
    assert 'name="learning_rate" value="0.000025"' in html
    assert "the settings of run 1" in html


def test_numbers_and_ranges_are_written_as_one_says_them():
    assert range_in_words(RewardConfig.__dataclass_fields__["seed"].metadata) == "0 to 4,294,967,295"
    assert range_in_words({"minimum": None, "maximum": None, "above": 0}) == "above 0"
    assert range_in_words({"minimum": 2, "maximum": None, "above": None}) == "2 or more"


# --- A run's page ----------------------------------------------------------------------------------------------------


def test_the_run_page_shows_progress_values_log_settings_and_links(studio, admin):
    reward_model = finish_one(studio)
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
    reward_model = finish_one(studio)
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
    finish_one(studio)
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
    finish_one(studio)
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


# --- Figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (3.14, "3.1 s"), (59.6, "1 min"), (221, "3 min 41 s"), (3600, "1 h"), (7_500, "2 h 5 min")],
)
def test_durations_are_said_in_words(seconds, words):
    assert figures.say_duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.7083, "share", "70.8\xa0%"),
        (1234.5, "", "1,234"),
        (9.876, "nats", "9.88"),
        (-0.0132, "", "−0.013"),
        (0.0003, "", "0.00030"),
        (2e-6, "", "2.0e−6"),
        (0, "", "0"),
        (13.0, "verdicts", "13"),
        (None, "", "–"),
    ],
)
def test_values_are_short_and_keep_their_sign(value, unit, words):
    assert figures.say_value(value, unit) == words


def test_every_metric_of_a_kind_is_drawn_once():
    for kind in ("reward", "policy"):
        drawn = [curve.metric for chart in charts.main_charts(kind) for curve in chart.curves]
        drawn += [
            curve.metric for group in charts.folded_charts(kind) for chart in group.charts for curve in chart.curves
        ]
        assert sorted(drawn) == sorted(charts.metrics_of(kind))
        assert set(METRICS[kind]) <= set(drawn)


def test_a_chart_has_one_unit():
    for kind in ("reward", "policy"):
        groups = [charts.main_charts(kind), *(group.charts for group in charts.folded_charts(kind))]
        for chart in (chart for group in groups for chart in group):
            assert len({curve.unit for curve in chart.curves}) == 1


def test_long_curves_are_thinned_with_both_ends_kept():
    points = [[n, 0.0] for n in range(1, 10_001)]
    found = charts.thin(points, most=600)
    assert len(found) <= 601
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert charts.thin(points[:600], most=600) == points[:600]


def test_a_policy_is_trained_at_the_lengths_and_temperature_that_serve(studio):
    project = studio.project
    pointer = serving(project)
    config = SamplingConfig(temperature=0.7, max_new_tokens=48)
    change_sampling(project=project, config=config, actor=None, expected_epoch=pointer.epoch)
    for preset in presets_for(project, "policy").values():
        assert (preset.temperature, preset.max_new_tokens, preset.max_prompt_tokens) == (0.7, 48, 32)
    for name, preset in presets_for(project, "reward").items():
        assert preset == replace(PRESETS["reward"][name], temperature=0.7)
