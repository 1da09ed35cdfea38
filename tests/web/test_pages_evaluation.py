"""Evaluations on the admin's pages: asking for one, what it found on board and policy page, answers side by side."""

import re
import uuid

import pytest
from django.test import Client

from rlhf_core.config import METRICS, EvaluateConfig, SamplingConfig
from tests.studio import Studio, queries_of, sha256
from tests.turns import begin, evaluate, hold_out, open_rated_studio, turn
from tests.web.admin_pages import read, words_of
from webapp.projects.models import Prompt
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.registry.services import change_sampling, promote
from webapp.runs import findings, services
from webapp.runs.models import Run
from webapp.runs.selectors import presets_for

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]


@pytest.fixture
def studio() -> Studio:
    """A project with a candidate v2 and four held-out prompts."""
    studio = open_rated_studio(20)
    turn(studio)
    hold_out(studio, 4)
    return studio


def policy(studio: Studio, version: int) -> Checkpoint:
    return Checkpoint.objects.get(project=studio.project, kind="policy", version=version)


def test_a_candidate_is_offered_to_be_evaluated_first(studio, admin):
    html = read(admin, studio)
    assert "v2 is ready: evaluate it, then look and promote." in words_of(html)
    assert f"/p/{studio.project.slug}/policies/2/evaluate/" in html
    html = read(admin, studio, "policies/2/")
    assert "v2 was not evaluated" in html
    assert "Promote v2</button>" in html  # it can be promoted all the same


def test_without_held_out_prompts_the_board_does_not_ask_for_an_evaluation(studio, admin):
    Prompt.objects.filter(project=studio.project).update(split="train")
    assert "Look and promote" in read(admin, studio)
    assert "evaluate it" not in read(admin, studio)
    form = {"preset": "CPU", "request_id": uuid.uuid4()}
    answer = admin.post(f"/p/{studio.project.slug}/policies/2/evaluate/", form)
    assert answer.status_code == 422
    assert "no held-out prompts" in answer.content.decode()
    assert not Run.objects.filter(kind="evaluate").exists()


def test_one_click_asks_for_an_evaluation_and_two_do_not_make_two(studio, admin):
    html = read(admin, studio, "policies/2/evaluate/")
    assert "Evaluate v2" in html
    assert "4 prompts of this project are held out" in words_of(html)
    form = {"preset": "CPU", "request_id": re.search(r'name="request_id" value="([^"]+)"', html)[1]}
    form["reward_model"] = re.search(r'name="reward_model" value="([^"]+)"', html)[1]
    for _ in range(2):
        answer = admin.post(f"/p/{studio.project.slug}/policies/2/evaluate/", form)
        assert answer.status_code == 302
    run = Run.objects.get(kind="evaluate")
    assert answer["Location"].endswith(f"/runs/{run.number}/")
    assert (run.policy.version, run.serving.version, run.reward_model.version) == (2, 1, 1)
    assert "Evaluate v2" in read(admin, studio, f"runs/{run.number}/")
    assert "v2 is being evaluated" in words_of(read(admin, studio))
    assert "Follow run" in read(admin, studio, "policies/2/")


def test_the_whole_form_starts_it_too_and_the_reward_model_may_be_left_out(studio, admin):
    values = {"request_id": uuid.uuid4(), **EvaluateConfig(prompts=2, seed=9).__dict__, "reward_model": ""}
    answer = admin.post(f"/p/{studio.project.slug}/policies/2/evaluate/", values)
    assert answer.status_code == 302
    run = Run.objects.get(kind="evaluate")
    assert (run.config["prompts"], run.config["seed"], run.reward_model) == (2, 9, None)
    again = read(admin, studio, f"policies/2/evaluate/?from={run.number}")
    assert f"the settings of run {run.number}" in again
    bad = {**values, "prompts": "-1"}
    assert admin.post(f"/p/{studio.project.slug}/policies/2/evaluate/", bad).status_code == 422


def test_an_evaluation_draws_as_the_project_serves(studio):
    config = SamplingConfig(temperature=0.7, max_new_tokens=48, top_p=0.9)
    change_sampling(project=studio.project, config=config, actor=None, expected_epoch=serving(studio.project).epoch)
    for preset in presets_for(studio.project, "evaluate").values():
        assert preset.sampling == config


def test_what_was_found_stands_on_the_board_and_before_the_promotion(studio, admin):
    found = evaluate(studio)
    html = words_of(read(admin, studio))
    assert "v2 is evaluated." in html
    for words in ("+0.412 ( 0.212 to 0.612 ) over v1", "KL to v1 6.25 ± 0.100 nats", "40.0 tokens", "60.0 %"):
        assert words.replace("( ", "(").replace(" )", ")") in html
    html = read(admin, studio, "policies/2/")
    assert html.index('id="evaluation"') < html.index('id="promote"')
    assert "was not evaluated" not in html
    assert "0.212 to 0.612" in html
    assert f"/runs/{found.run.number}/" in html
    assert "k3 6.50" in html


def test_answers_stand_side_by_side_and_hostile_ones_are_only_text(studio, admin):
    found = evaluate(studio)
    for end in ("policies/2/", f"runs/{found.run.number}/"):
        html = read(admin, studio, end)
        assert "<script>v2" not in html
        assert "&lt;script&gt;v2&lt;/script&gt; answers" in html
        assert "&lt;script&gt;v1&lt;/script&gt; answers" in html
        assert "opening 0 &lt;b&gt;bold" in html


def test_many_answers_come_in_pages(studio, admin):
    hold_out(studio, 30)
    found = evaluate(studio)
    first = read(admin, studio, f"runs/{found.run.number}/")
    second = read(admin, studio, f"runs/{found.run.number}/?page=3")
    assert first.count("&lt;script&gt;v2") == findings.PAIRS_A_PAGE
    assert second.count("&lt;script&gt;v2") == 30 - 2 * findings.PAIRS_A_PAGE
    assert read(admin, studio, "policies/2/").count("&lt;script&gt;v2") == findings.PAIRS_AT_FIRST


def test_without_a_reward_model_the_table_leaves_the_reward_out(studio, admin):
    evaluate(studio, reward=False)
    html = words_of(read(admin, studio, "policies/2/"))
    assert "No reward model scored them" in html
    assert "reward above it" not in html
    assert "over v1" not in words_of(read(admin, studio))


def test_the_policy_that_serves_is_the_one_to_be_compared_with(studio, admin):
    second = policy(studio, 2)
    promote(project=studio.project, checkpoint=second, actor=None, expected_epoch=serving(studio.project).epoch)
    third = Checkpoint.objects.create(
        project=studio.project, kind="policy", version=3, sha256=sha256("third"), parent=policy(studio, 1)
    )
    found = findings.findings_in(evaluate(studio, version=3))
    assert [(str(column.policy), column.parts) for column in found.columns] == [
        ("v3", ("candidate",)),
        ("v1", ("parent", "base")),
        ("v2", ("serving",)),
    ]
    assert found.against.policy == second
    assert "Side by side with v2" in read(admin, studio, f"policies/{third.version}/")


def test_answers_of_an_evaluation_are_not_shown_as_given_to_raters(studio, admin):
    evaluate(studio)
    html = read(admin, studio, "policies/1/")
    assert "&lt;script&gt;" not in html
    assert "Answer one of" in html


def test_the_base_can_be_evaluated_and_has_nothing_to_be_compared_with(studio, admin):
    evaluate(studio, version=1)
    html = words_of(read(admin, studio, "policies/1/"))
    assert "Evaluation" in html
    assert "KL of v1" not in html


def test_a_finished_evaluation_loads_its_page_anew(studio, admin):
    found = evaluate(studio)
    answer = admin.get(f"/p/{studio.project.slug}/runs/{found.run.number}/live/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Refresh"]) == (286, "true")
    assert "evaluation of v2" in read(admin, studio, "runs/")


def test_all_that_changes_while_it_goes_on_has_its_place_on_the_page(studio, admin):
    run = services.start_evaluation(
        actor=studio.admin,
        project=studio.project,
        config=EvaluateConfig(),
        policy=policy(studio, 2),
        reward_model=None,
        request_id=uuid.uuid4(),
    )
    begin(run)
    whole = read(admin, studio, f"runs/{run.number}/")
    live = admin.get(f"/p/{studio.project.slug}/runs/{run.number}/live/", headers={"HX-Request": "true"})
    swapped = re.findall(r'id="([a-z-]+)" hx-swap-oob', live.content.decode())
    assert len(swapped) == 3
    assert all(f'id="{name}"' in whole for name in swapped)


def test_every_measure_of_the_table_is_a_documented_metric():
    assert set(findings.TOLD) <= set(METRICS["evaluate"])


def test_the_cost_of_a_page_does_not_grow_with_evaluations(studio, admin):
    first = evaluate(studio)
    ends = ("", "policies/2/", f"runs/{first.run.number}/", "runs/")
    before = [queries_of(admin, f"/p/{studio.project.slug}/{end}") for end in ends]
    hold_out(studio, 20)
    for seed in (1, 2, 3):
        evaluate(studio, seed=seed)
        evaluate(studio, version=1, seed=seed)
    assert [queries_of(admin, f"/p/{studio.project.slug}/{end}") for end in ends] == before


def test_a_rater_finds_no_evaluation(studio):
    found = evaluate(studio)
    client = Client()
    client.force_login(studio.add_rater("rhea"))
    for end in (f"runs/{found.run.number}/", "policies/2/", "policies/2/evaluate/"):
        assert client.get(f"/p/{studio.project.slug}/{end}").status_code == 404


@pytest.mark.parametrize(
    ("settings", "said"), [({"top_p": 0.9}, "top-p 0.9"), ({"top_k": 40}, "top-k 40"), ({"min_p": 0.05}, "min-p 0.05")]
)
def test_what_was_drawn_from_a_narrowed_distribution_is_not_called_a_kl(studio, admin, settings, said):
    run = evaluate(studio, **settings).run
    for end in ("", "policies/2/", f"runs/{run.number}/", "lineage/"):
        html = words_of(read(admin, studio, end))
        assert "mean log-ratio" in html.lower(), end
        assert not re.search(r"KL of v2|KL (to v1 )?6\.25|KL is the sum", html), end
    said = f"What was drawn was cut by {said}, and the log-ratios were not, so their mean is no KL; it is the sum over"
    assert said in html_of_run(admin, studio, run)


def test_an_evaluation_that_cut_nothing_shows_a_kl(studio, admin):
    html = html_of_run(admin, studio, evaluate(studio).run)
    assert "KL of v2 to it, nats" in html
    assert "log-ratio" not in html


def html_of_run(admin, studio, run) -> str:
    return words_of(read(admin, studio, f"runs/{run.number}/"))
