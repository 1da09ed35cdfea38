"""The forms that start runs, by Django's client."""

import re
import uuid
from dataclasses import replace

import pytest

from rlhf_core.config import PRESETS, PolicyConfig, SamplingConfig
from tests.studio import Studio, open_studio
from tests.turns import ask_for_reward_run, rate, train_reward_model
from tests.web.admin_pages import read, url
from webapp.registry import services as registry_services
from webapp.registry.selectors import serving
from webapp.registry.services import change_sampling
from webapp.runs.forms import PolicyRunForm, RewardRunForm
from webapp.runs.models import Run
from webapp.runs.selectors import presets_for

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]


@pytest.fixture
def studio() -> Studio:
    return open_studio()


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
    train_reward_model(studio)
    html = read(admin, studio, "runs/policy/")
    for name in PolicyConfig.__dataclass_fields__:
        assert f'id="id_{name}"' in html
    assert "Longest response." in html
    assert "1 to 4,096." in html
    assert "Above 0, up to 1,000, or empty." in html
    assert html.index('id="id_kl_target"') < html.index("Advanced settings") < html.index('id="id_gae_lambda"')


def test_wrong_values_are_named_with_their_range_and_all_input_is_kept(studio, admin):
    train_reward_model(studio)
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
    reward_model = train_reward_model(studio)
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
    foreign = train_reward_model(other)
    train_reward_model(studio)
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
    reward_model = train_reward_model(studio)
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


def test_a_policy_is_trained_at_the_lengths_and_temperature_that_serve(studio):
    project = studio.project
    pointer = serving(project)
    config = SamplingConfig(temperature=0.7, max_new_tokens=48)
    change_sampling(project=project, config=config, actor=None, expected_epoch=pointer.epoch)
    for preset in presets_for(project, "policy").values():
        assert (preset.temperature, preset.max_new_tokens, preset.max_prompt_tokens) == (0.7, 48, 32)
    for name, preset in presets_for(project, "reward").items():
        assert preset == replace(PRESETS["reward"][name], temperature=0.7)
