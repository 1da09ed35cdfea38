"""The pages of a fine-tuning: its form, its run, its candidate, and the way back to the answers and ratings."""

import re
import uuid

import pytest

from rlhf_core.config import PRESETS
from tests.studio import Studio, open_studio, queries_of
from tests.turns import ask_for_reward_run, ask_for_sft_run, begin, finish, rate, rate_by_machine, turn
from tests.web.admin_pages import next_step, read, url, words_of
from webapp.projects.models import Project
from webapp.quality.demonstrations import DemonstrationRules
from webapp.quality.models import DatasetItem
from webapp.registry.services import promote
from webapp.runs import charts, progress, results, services
from webapp.runs.forms import SFTRunForm
from webapp.runs.models import Run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]
HTMX = {"HX-Request": "true"}


@pytest.fixture
def studio() -> Studio:
    return open_studio()


# --- The board -------------------------------------------------------------------------------------------------------


def test_the_board_offers_fine_tuning_as_a_beginning_and_then_at_any_time(studio, admin):
    assert "it imitates the answers that they liked best" in next_step(read(admin, studio))
    rate(studio, 15)
    assert "/runs/sft/" in read(admin, studio), "at any time"
    rate(studio, 5)
    found = next_step(read(admin, studio))
    assert "or to begin by imitating the answers that they liked best" in found
    assert "Fine-tune on the best answers Train reward model" in found
    promote(project=studio.project, checkpoint=finish(ask_for_sft_run(studio)), actor=None, expected_epoch=1)
    found = read(admin, studio)
    assert "20 ratings are in" in next_step(found), "a reward model has learned from none of them"
    assert "imitating" not in next_step(found)
    assert "fine-tune on the best answers" in found


def test_the_board_follows_a_fine_tuning_and_then_asks_to_look_at_its_candidate(studio, admin):
    rate(studio, 4)
    run = ask_for_sft_run(studio)
    begin(run, step=2)
    found = next_step(read(admin, studio))
    assert found.startswith("v1 is being fine-tuned. It learns to write as the best-rated answers were written")
    assert "step 2 of 10" in found
    services.cancel(actor=None, run=run)
    assert "makes no policy" in read(admin, studio, "runs/1/cancel/")
    Run.objects.update(state="cancelled")
    finish(ask_for_sft_run(studio))
    html = read(admin, studio)
    assert next_step(html).startswith("v2 is ready.")
    row = words_of(html[html.index("<tbody>") : html.index("</tr>", html.index("<tbody>"))])
    assert row == "v2 fine-tuned from v1 4 – – 1.50 nats 0.0 s candidate look and promote"
    assert "fine-tuning of v1 on 4 demonstrations" in words_of(html)


# --- The form --------------------------------------------------------------------------------------------------------


def test_the_form_says_what_would_be_learned_and_shows_some_of_it(studio, admin):
    rate(studio, 3)
    rate_by_machine(studio, 1)
    html = read(admin, studio, "runs/sft/")
    words = words_of(html)
    assert "4 demonstrations. Found among: 4 ratings · 3 by people · 1 simulated" in words
    assert "an answer that a rater wrote, one with a mean score of at least 4" in words
    assert "written by v1, liked in 1 rating" in words
    assert html.index('id="id_minimum_score"') < html.index('id="id_epochs"') < html.index("Advanced settings")
    Project.objects.update(use_simulated_ratings=False)
    assert "3 demonstrations. Found among: 3 ratings" in words_of(read(admin, studio, "runs/sft/"))


def test_without_a_good_answer_the_form_says_how_to_get_one(studio, admin):
    words = words_of(read(admin, studio, "runs/sft/"))
    assert "No answer is good enough yet" in words
    assert "Nobody has rated yet. Rate yourself" in words


def test_a_preset_is_one_click_and_a_double_click_is_one_run(studio, admin):
    rate(studio, 20)
    request_id = re.search(r'name="request_id" value="([^"]+)"', read(admin, studio, "runs/sft/"))[1]
    for _ in range(2):
        answer = admin.post(url(studio, "runs/sft/"), {"preset": "CPU", "request_id": request_id})
        assert answer["Location"] == url(studio, "runs/1/")
    run = Run.objects.get()
    served = {"max_prompt_tokens": 32, "sample_tokens": 64}  # as raters are shown
    assert run.config == PRESETS["sft"]["CPU"].__dict__ | served
    assert run.dataset.counts["demonstrations"] == 20


def fields_of(form) -> dict[str, str]:
    return {name: str(form[name].value() if form[name].value() is not None else "") for name in form.fields}


def test_too_few_demonstrations_are_refused_with_the_cure(studio, admin):
    rate(studio, 3)
    html = admin.post(url(studio, "runs/sft/"), {"preset": "CPU", "request_id": uuid.uuid4()})
    assert html.status_code == 422
    assert "There are 3 demonstrations, and the run needs 16." in html.content.decode()
    assert "Invite raters" in html.content.decode()
    assert not Run.objects.exists()


def test_the_rules_are_part_of_the_form_and_run_again_fills_them_in(studio, admin):
    rate(studio, 5)
    form = fields_of(SFTRunForm()) | {"minimum_demonstrations": "2", "minimum_strength": "2", "epochs": "7"}
    assert admin.post(url(studio, "runs/sft/"), form)["Location"] == url(studio, "runs/1/")
    run = Run.objects.get()
    assert (run.config["epochs"], run.dataset.rules["minimum_strength"]) == (7, 2)
    assert "minimum_strength" not in run.config
    html = read(admin, studio, "runs/sft/?from=1")
    assert 'name="epochs" value="7"' in html
    assert 'name="minimum_demonstrations" value="2"' in html
    assert "call at least clearly better" in words_of(html)


def test_wrong_values_of_both_kinds_are_named_with_their_range(studio, admin):
    form = fields_of(SFTRunForm()) | {"minimum_score": "6", "epochs": "0"}
    answer = admin.post(url(studio, "runs/sft/"), form)
    assert answer.status_code == 422
    assert "Minimum score = 6 is not permitted: 1 to 5." in answer.content.decode()
    assert "Epochs = 0 is not permitted: 1 to 10,000." in answer.content.decode()


# --- The run and what it made ----------------------------------------------------------------------------------------


def test_the_run_page_shows_curves_texts_and_what_was_learned_from(studio, admin):
    rate(studio, 6)
    run = ask_for_sft_run(studio)
    claim = begin(run, step=3)
    progress.record_texts(claim, [{"step": 3, "prompt": "A <b>film", "response": " is <i>good"}])
    html = read(admin, studio, "runs/1/")
    words = words_of(html)
    assert "Fine-tune v1 v1 learns to write as the 6 best-rated answers were written." in words
    assert 'data-metrics="loss validation_loss parent_validation_loss"' in html
    assert "A &lt;b&gt;film" in html
    assert "after step 3" in words
    assert "6 demonstrations · chosen by 6 ratings · 6 by people" in words
    assert "/runs/sft/?from=1" in html
    live = admin.get(url(studio, "runs/1/live/"), headers=HTMX).content.decode()
    assert 'id="texts" hx-swap-oob="true"' in live
    results.fail(claim, "TrainingDiverged: too far")
    assert "smaller learning rate" in read(admin, studio, "runs/1/")


def test_every_metric_of_a_fine_tuning_is_drawn():
    drawn = [one.metric for each in charts.main_charts("sft") for one in each.curves]
    drawn += [one.metric for group in charts.folded_charts("sft") for each in group.charts for one in each.curves]
    assert sorted(drawn) == sorted(set(drawn))
    assert {"loss", "validation_loss", "parent_validation_loss", "kl", "epoch", "grad_norm"} <= set(drawn)


def test_the_candidate_leads_back_to_demonstrations_and_ratings_and_forward_again(studio, admin):
    rate(studio, 22)
    run = ask_for_sft_run(studio)
    finish(run)
    words = words_of(read(admin, studio, "policies/2/"))
    assert "Loss on held-out demonstrations 2.60 nats a token, 2.90 before" in words
    assert "KL to v1 1.50 nats a response" in words
    assert "Fine-tuning · run 1" in words
    assert "Read the demonstrations, and the ratings that chose them" in words
    html = read(admin, studio, "policies/2/ratings/")
    assert "The demonstrations that v2 learned from" in html
    assert html.count("written by") == 20
    assert read(admin, studio, "policies/2/ratings/?page=2").count("written by") == 2
    ratings = read(admin, studio, "policies/2/ratings/?show=ratings&source=human")
    assert ratings.count("what became of it") == 20
    assert "?page=2&amp;show=ratings&amp;source=human" in ratings
    rating = DatasetItem.objects.filter(dataset=run.dataset).first().rating
    fate = words_of(read(admin, studio, f"ratings/{rating.pk}/"))
    assert "policies learned from it" in fate
    assert "Policy v2 by fine-tuning, run 1 from v1" in fate
    assert "22 demonstrations · 22 ratings" in fate


def test_the_tree_says_which_policy_was_fine_tuned(studio, admin):
    rate(studio, 20)
    promote(project=studio.project, checkpoint=finish(ask_for_sft_run(studio)), actor=None, expected_epoch=1)
    turn(studio)
    words = words_of(read(admin, studio, "lineage/"))
    assert "from v1 by fine-tuning, run 1 · 20 demonstrations" in words
    assert "from v2 by PPO, run 3 · 20 ratings" in words
    assert "20 demonstrations · 20 ratings" in words


def test_pages_cost_as_many_queries_after_many_fine_tunings(studio, admin):
    rate(studio, 20)
    finish(ask_for_sft_run(studio))
    ends = ("", "lineage/", "runs/1/", "runs/sft/", "policies/2/", "policies/2/ratings/")
    before = [queries_of(admin, url(studio, end)) for end in ends]
    for _ in range(3):
        rate(studio, 3)
        finish(ask_for_sft_run(studio))
    assert [queries_of(admin, url(studio, end)) for end in ends] == before


def test_a_rule_that_no_version_knows_any_more_is_shown_as_far_as_it_goes(studio, admin):
    assert DemonstrationRules().minimum_demonstrations == 16
    rate(studio, 20)
    finish(ask_for_reward_run(studio))
    assert "Each is" not in read(admin, studio, "runs/1/"), "ratings that a reward model learns from have no such rule"
