"""Wherever a reward model's agreement stands it says from how many comparisons, and few lead to rating on."""

import re

import pytest

from tests.studio import Studio
from tests.turns import ask_for_policy_run, ask_for_reward_run, begin, finish, open_rated_studio, rate
from tests.web.admin_pages import read, words_of
from webapp.registry.models import Checkpoint
from webapp.runs import results
from webapp.runs.agreement import Agreement

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]
TOO_FEW = "1 held-out comparison is too few to tell whether it has learned what raters like: rate on."
NOTHING = "No comparison was held out, so nothing tells yet whether it has learned what raters like: rate on."


@pytest.fixture
def studio() -> Studio:
    return open_rated_studio(20)


def measured(studio: Studio, **result: float) -> Checkpoint:
    """The reward model of a run that measured ``result``."""
    run = ask_for_reward_run(studio)
    claim = begin(run, step=10, total_steps=10)
    results.succeed(claim, outputs=[{"kind": "reward_model", "id": "ab" * 32}], result=result)
    return run.outputs.get()


def buttons(html: str) -> dict[str, bool]:
    """The buttons of the band, and whether each is the main one."""
    (band,) = re.findall(r'<(?:section|div) class="next.*?</(?:section|div)>', html, re.S)
    return {words: "primary" in kind for kind, words in re.findall(r'<a class="(button[^"]*)"[^>]*>([^<]*)</a>', band)}


def test_after_one_comparison_board_and_run_lead_to_rating_on_and_ppo_stays_possible(studio, admin):
    measured(studio, holdout_accuracy=0.0, holdout_count=1)
    board, run = read(admin, studio), read(admin, studio, "runs/1/")
    said = "It agrees with raters on 0.0 % of 1 held-out comparison (95 % interval 0–79 %). " + TOO_FEW
    assert said in words_of(board)
    assert "20 more make the next training worth its while." in words_of(board)
    assert "better at what it likes" not in board
    assert TOO_FEW in words_of(run)
    for page in (board, run):
        assert buttons(page) == {"Improve policy (PPO)": False, "Rate on": True}
    form = read(admin, studio, "runs/policy/")
    assert said in words_of(form)
    assert "reward model 1, agrees on 0.0 % of 1 comparison</option>" in " ".join(form.split())


def test_once_enough_ratings_have_come_the_board_leads_to_training_again(studio, admin):
    measured(studio, holdout_accuracy=1.0, holdout_count=2)
    rate(studio, 20)
    found = buttons(read(admin, studio))
    assert found == {"Improve policy (PPO)": False, "Rate on": False, "Train reward model again": True}


def test_where_comparisons_tell_ppo_is_the_main_button(studio, admin):
    measured(studio, holdout_accuracy=0.75, holdout_count=40)
    board, run = read(admin, studio), read(admin, studio, "runs/1/")
    assert "It agrees with raters on 75.0 % of 40 held-out comparisons (95 % interval 60–86 %)." in words_of(board)
    for page in (board, run):
        assert buttons(page) == {"Improve policy (PPO)": True}
        assert "rate on" not in page


def test_a_model_of_which_nothing_was_measured_leads_to_rating_on(studio, admin):
    model = measured(studio, holdout_count=0)
    for page in (read(admin, studio), read(admin, studio, "runs/1/")):
        assert NOTHING in words_of(page)
        assert buttons(page)["Rate on"]
    finish(ask_for_policy_run(studio, model))  # and the loop goes on all the same
    assert "v2 is ready" in words_of(read(admin, studio))


def test_a_policys_page_says_from_how_many_comparisons(studio, admin):
    finish(ask_for_policy_run(studio, measured(studio, holdout_accuracy=0.5, holdout_count=2)))
    found = words_of(read(admin, studio, "policies/2/"))
    assert "Reward model 1 agrees on 50.0 % of 2 held-out comparisons (95 % interval 9–91 %)" in found


@pytest.mark.parametrize(
    ("share", "count", "tells"),
    [
        (1.0, 19, False),
        (0.75, 20, True),
        (0.7, 20, False),
        (0.6, 40, False),
        (0.6, 200, True),
        (0.2, 200, False),
        (0.2, 20, False),
    ],
)
def test_an_agreement_tells_from_twenty_on_if_a_coin_is_outside_of_its_interval(share, count, tells):
    agreement = Agreement(share, count)
    assert agreement.tells is tells
    assert bool(agreement.doubt) is not tells
    is_worse = share == 0.2
    assert ("may be chance" in agreement.doubt) is (count >= 20 and not tells and not is_worse)
    assert ("worse than chance" in agreement.doubt) is is_worse
