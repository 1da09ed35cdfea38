"""The over-optimisation watch: what two models' scores say by KL, the two runs that make them, and the pages."""

import math
import re
import uuid
from statistics import NormalDist

import pytest

from rlhf_core.config import RewardConfig, settings_to_dict
from tests.studio import Studio
from tests.turns import (
    POLICY,
    ask_for_policy_run,
    begin,
    finish,
    open_rated_studio,
    over_optimise,
    train_with_judge,
)
from webapp.errors import NotEnoughFeedback, WrongCheckpoint
from webapp.runs import charts, results
from webapp.runs.law import fit_law
from webapp.runs.models import Run
from webapp.runs.selectors import board, parts_of
from webapp.runs.services import start_reward_run
from webapp.runs.watch import watch, windows_of

pytestmark = pytest.mark.usefixtures("no_broker")
HTMX = {"HX-Request": "true"}


def curves_of(scores, judge_scores, error=0.1, kl=None):
    """Curves of a run whose update n has the KL n, unless given."""
    steps = range(1, len(scores) + 1)
    values = {
        "kl": kl or list(map(float, steps)),
        "score": scores,
        "judge_score": judge_scores,
        "judge_score_error": [error] * len(scores),
    }
    return {name: [[step, value] for step, value in zip(steps, rows, strict=True)] for name, rows in values.items()}


# --- What the curves say ---------------------------------------------------------------------------------------------


def test_windows_are_means_over_three_updates_or_a_tenth():
    found = windows_of(curves_of([1.0, 2.0, 3.0, 4.0], [0.0, 3.0, 3.0, 6.0], error=0.3))
    assert [(one.first, one.last, one.kl, one.score, one.judge_score) for one in found] == [
        (1, 3, 2.0, 2.0, 2.0),
        (2, 4, 3.0, 3.0, 4.0),
    ]
    assert found[0].error == pytest.approx(0.3 / math.sqrt(3))  # three equal and independent errors
    assert len(windows_of(curves_of([0.0] * 50, [0.0] * 50))) == 46  # of five updates each


def test_without_a_judge_there_is_nothing_to_tell():
    curves = curves_of([1.0] * 9, [1.0] * 9)
    del curves["judge_score"]
    assert watch(curves) is None
    assert watch({}) is None


def test_before_two_windows_there_is_nothing_to_compare():
    assert watch(curves_of([1.0] * 5, [1.0] * 5)).finding == "early"
    assert watch(curves_of([1.0] * 2, [1.0] * 2)).finding == "early"
    assert watch(curves_of([1.0] * 6, [1.0] * 6)).finding == "unconfirmed"


def test_a_judge_that_falls_while_the_score_rises_is_told_with_where_it_was_best():
    judge = [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 1.0, 0.5, 0.5, 0.5]
    found = watch(curves_of([float(n) for n in range(11)], judge))
    assert found.finding == "turned"
    assert (found.best.first, found.best.last, found.best.kl, found.best.judge_score) == (5, 7, 6.0, 2.0)
    assert found.fall == pytest.approx(1.5)
    assert found.fall_error == pytest.approx(0.1 * math.sqrt(2 / 3))  # two windows, each 0.1 / √3
    assert watch(curves_of([5.0] * 11, judge)).finding == "confirmed", "the score did not rise: no over-optimisation"


@pytest.mark.parametrize(("part", "finding"), [(1.02, "turned"), (0.98, "unconfirmed")])
def test_a_fall_within_the_noise_is_none(part, finding):
    """Two windows share no update with the last: z is the quantile of 1 - 0.05/2; the error of a fall is 0.1·√(2/3)."""
    critical = NormalDist().inv_cdf(0.975) * 0.1 * math.sqrt(2 / 3)
    judge = [1.0] * 4 + [1.0 - part * critical] * 3
    assert watch(curves_of([float(n) for n in range(7)], judge)).finding == finding


def test_a_judge_that_rises_confirms_and_one_that_stands_does_not():
    rising = [float(n) for n in range(12)]
    assert watch(curves_of(rising, [0.5 * n for n in range(12)])).finding == "confirmed"
    assert watch(curves_of(rising, [0.001 * n for n in range(12)])).finding == "unconfirmed"


def test_values_that_were_not_finite_leave_their_update_out():
    curves = curves_of([1.0] * 8, [1.0] * 8)
    curves["judge_score"] = curves["judge_score"][1:]
    assert windows_of(curves)[0].first == 2


# --- The law that is fitted to the judge ------------------------------------------------------------------------------


def lawful(kls, alpha=2.0, beta=0.5):
    """Scores that lie on R = d(α - β ln d), d = √KL."""
    return [math.sqrt(kl) * (alpha - beta * math.log(math.sqrt(kl))) for kl in kls]


def test_the_law_of_points_that_lie_on_it_is_found_with_its_peak():
    kls = [0.5, 1.0, 4.0, 9.0, 16.0]
    law = fit_law(kls, lawful(kls))
    assert (law.alpha, law.beta, law.r2) == pytest.approx((2.0, 0.5, 1.0))
    assert law.at(4.0) == pytest.approx(2 * (2 - 0.5 * math.log(2)))
    assert law.at(0.0) == 0.0
    assert law.peak_kl == pytest.approx(math.exp(6))  # ln d = 2/0.5 - 1 = 3, KL = d²
    best_of_n = fit_law(kls, [math.sqrt(kl) * (2 - 0.5 * math.sqrt(kl)) for kl in kls], is_logarithmic=False)
    assert (best_of_n.alpha, best_of_n.beta, best_of_n.r2) == pytest.approx((2.0, 0.5, 1.0))
    assert best_of_n.peak_kl == pytest.approx(4.0)  # d = 2/(2·0.5) = 2
    assert fit_law(kls, lawful(kls, beta=-0.5)).peak_kl is None, "it never turns down"


def test_points_that_leave_many_laws_open_have_none():
    assert fit_law([4.0, 4.0, 4.0], [1.0, 2.0, 3.0]) is None
    assert fit_law([0.0, -0.1, 4.0], [0.0, 0.0, 3.0]) is None
    assert fit_law([], []) is None
    with pytest.raises(ValueError, match="zip"):
        fit_law([1.0], [1.0, 2.0])


def test_a_run_has_a_law_from_five_windows_on():
    kls = [float(n) for n in range(1, 8)]
    assert watch(curves_of(kls[:6], lawful(kls[:6]))).law is None  # six updates are four windows of three
    found = watch(curves_of(kls, [7 - kl for kl in kls]))  # windows' means: (2, 5), (3, 4) ... (6, 1)
    assert found.law.r2 > 0.9
    assert 0 < found.peak_kl < 2, "it was best before the run's first window"
    assert found.curves["watched_law"] == [[n + 1, pytest.approx(found.law.at(float(n)))] for n in range(2, 7)]
    assert watch(curves_of(kls, [kl for kl in kls])).peak_kl is None, "still rising where the run has been"
    assert watch(curves_of(kls, [0.0] * 7, kl=[0.0] * 7)).law is None, "no drift, no law"


# --- Runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def studio(db) -> Studio:
    return open_rated_studio(40)


def ask_for_two(studio, key=None) -> Run:
    return start_reward_run(
        actor=studio.admin,
        project=studio.project,
        config=RewardConfig(),
        request_id=key or uuid.uuid4(),
        with_judge=True,
    )


def test_a_reward_model_with_a_judge_is_two_runs_on_the_halves_of_one_dataset(studio):
    key = uuid.uuid4()
    first = ask_for_two(studio, key)
    assert ask_for_two(studio, key) == first, "a double click is two runs, not four"
    one, two = Run.objects.order_by("number")
    assert (one, one.dataset) == (first, two.dataset)
    assert [run.config["part"] for run in (one, two)] == ["first", "second"]


def test_each_half_needs_the_smallest_number_of_ratings(studio):
    with pytest.raises(NotEnoughFeedback, match="There are 40 usable ratings, and the run needs 42"):
        start_reward_run(
            actor=None,
            project=studio.project,
            config=RewardConfig(minimum_ratings=21),
            request_id=uuid.uuid4(),
            with_judge=True,
        )
    assert not Run.objects.exists()


def test_only_models_of_different_halves_can_judge_each_other(studio):
    rewarding, judge = train_with_judge(studio)
    whole = finish(start_reward_run(actor=None, project=studio.project, config=RewardConfig(), request_id=uuid.uuid4()))
    assert parts_of(studio.project) == {rewarding.pk: "first", judge.pk: "second", whole.pk: "all"}
    assert ask_for_policy_run(studio, rewarding, judge).judge == judge
    for pair in ((rewarding, rewarding), (whole, judge), (rewarding, whole), (rewarding, studio.checkpoint)):
        with pytest.raises(WrongCheckpoint):
            ask_for_policy_run(studio, *pair)


def test_a_judge_is_never_taken_for_the_reward_model_to_follow(studio, admin):
    rewarding, judge = train_with_judge(studio)
    assert board(studio.project).reward_models == [rewarding]
    assert "Reward model 1 has not been used yet" in admin.get("/p/film-reviews/").content.decode()
    html = admin.get("/p/film-reviews/runs/policy/").content.decode()
    assert f'name="reward_model" value="{rewarding.pk}"' in html
    assert f'name="judge" value="{judge.pk}"' in html
    assert "Reward model 2, which learned from the other half of the prompts, watches" in html
    answer = admin.post("/p/film-reviews/runs/policy/", {
        "preset": "CPU", "request_id": uuid.uuid4(), "reward_model": rewarding.pk, "judge": judge.pk,
    })  # fmt: skip
    assert answer.status_code == 302
    assert Run.objects.get(kind="policy").judge == judge


def test_without_halves_no_judge_is_offered(studio, admin):
    finish(start_reward_run(actor=None, project=studio.project, config=RewardConfig(), request_id=uuid.uuid4()))
    html = admin.get("/p/film-reviews/runs/policy/").content.decode()
    assert 'name="judge"' not in html


def test_one_click_trains_a_reward_model_with_its_judge(studio, admin):
    html = admin.get("/p/film-reviews/runs/reward/").content.decode()
    assert "Start with a judge" in html
    sent = {"preset": "CPU", "request_id": uuid.uuid4(), "with_judge": "on"}
    assert admin.post("/p/film-reviews/runs/reward/", sent)["Location"] == "/p/film-reviews/runs/1/"
    assert Run.objects.count() == 2


@pytest.mark.parametrize("number", [1, 2])
def test_running_one_of_the_two_again_asks_for_both_and_never_for_a_half_alone(studio, admin, number):
    train_with_judge(studio, epochs=7)
    html = admin.get(f"/p/film-reviews/runs/reward/?from={number}").content.decode()
    assert re.search(r'<input type="checkbox" name="with_judge"[^>]* checked', html)
    assert '<option value="all" selected>' in html
    assert 'name="epochs" value="7"' in html
    sent = {**settings_to_dict(RewardConfig(epochs=7)), "request_id": uuid.uuid4(), "with_judge": "on"}
    assert admin.post("/p/film-reviews/runs/reward/", sent)["Location"] == "/p/film-reviews/runs/3/"
    assert parts_asked_for() == ["first", "second"] * 2


def test_a_half_that_was_chosen_by_hand_stays_chosen(studio, admin):
    start_reward_run(actor=None, project=studio.project, config=RewardConfig(part="second"), request_id=uuid.uuid4())
    html = admin.get("/p/film-reviews/runs/reward/?from=1").content.decode()
    assert '<option value="second" selected>' in html
    assert not re.search(r'<input type="checkbox" name="with_judge"[^>]* checked', html)


def parts_asked_for() -> list[str]:
    return [run.config["part"] for run in Run.objects.order_by("number")]


# --- The page --------------------------------------------------------------------------------------------------------


def test_the_run_page_says_when_the_judge_has_turned_down(studio, admin):
    rewarding, judge = train_with_judge(studio)
    run = ask_for_policy_run(studio, rewarding, judge)
    held = begin(run)
    html = admin.get("/p/film-reviews/runs/3/").content.decode()
    assert "The independent judge has seen too few updates" in html
    assert 'data-by="watched_kl"' in html
    over_optimise(held)
    words = " ".join(re.sub(r"<[^>]+>", " ", admin.get("/p/film-reviews/runs/3/").content.decode()).split())
    assert "Over-optimisation: the independent judge has turned down" in words
    assert "It liked the policy best around KL 6.00 (updates 5 to 7)" in words
    assert "run it again with 7 updates, or with a KL target near 6.00" in words
    assert "Judged by reward model 2" in words
    live = admin.get("/p/film-reviews/runs/3/live/", headers=HTMX).content.decode()
    assert '<div id="watch" hx-swap-oob="true">' in live
    metrics = admin.get("/p/film-reviews/runs/3/curves/").json()["metrics"]
    assert len(metrics["watched_kl"]) == len(metrics["watched_judge_score"]) == len(metrics["watched_law"]) == 10
    assert 'data-metrics="watched_score watched_judge_score watched_law"' in html
    law = fit_law([float(n) for n in range(2, 12)], [window[1] for window in metrics["watched_judge_score"]])
    assert f"it explains {100 * law.r2:.1f} % of the score’s variance. Its peak lies at KL {law.peak_kl:.2f}." in words
    results.succeed(held, outputs=[{"kind": "policy", "id": "c" * 64}], result=POLICY)
    assert "the independent judge has turned down" in admin.get("/p/film-reviews/policies/2/").content.decode()


def test_a_run_without_a_judge_says_how_to_get_one(studio, admin):
    rewarding, _ = train_with_judge(studio)
    begin(ask_for_policy_run(studio, rewarding), step=3)
    html = admin.get("/p/film-reviews/runs/3/").content.decode()
    assert "Nothing independent watches this run" in html
    assert 'data-by="watched_kl"' not in html
    assert "watched_kl" not in admin.get("/p/film-reviews/runs/3/curves/").json()["metrics"]


def test_every_metric_of_a_judged_run_is_drawn():
    drawn = {one.metric for each in charts.main_charts("policy") for one in each.curves}
    drawn |= {one.metric for group in charts.folded_charts("policy") for each in group.charts for one in each.curves}
    assert {"judge_score", "judge_score_error"} <= drawn
