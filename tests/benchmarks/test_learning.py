"""The learning benchmarks: their exact answers, how they judge, and one of them for real."""

import argparse
import json
import math

import pytest
import torch

from benchmarks.learning import __main__ as command
from benchmarks.learning import t0_frontier
from benchmarks.learning.frontier import TokenBandit
from benchmarks.learning.harness import Task, sum_up, table
from benchmarks.learning.policies import Fresh
from benchmarks.learning.reward_models import (
    Pairs,
    agreement_with,
    calibration_error,
    draw_pairs,
    fit_linear,
    token_counts,
)
from benchmarks.learning.t0_frontier import above_frontier
from rlhf_core.errors import ConfigError


@pytest.mark.parametrize(
    ("kl", "reward"),
    [(0.51, 2.02), (1, 2.84), (2, 4.04), (4, 5.74), (6, 7.07), (8, 8.19), (12, 10.07), (16, 11.62), (24, 14.09)],
)
def test_the_best_reward_at_a_kl_is_the_published_one(kl, reward):
    assert TokenBandit().at_kl(kl)[0].reward == pytest.approx(reward, abs=0.006)


@pytest.mark.parametrize(
    ("beta", "reward", "kl", "objective"),
    [(2, 2.02, 0.51, 1.01), (1, 4.14, 2.10, 2.04), (0.5, 8.58, 8.76, 4.20), (0.25, 14.41, 25.2, 8.10)],
)
def test_the_best_policy_for_a_coefficient_is_the_published_one(beta, reward, kl, objective):
    point, value = TokenBandit().optimum(beta)
    assert point.reward == pytest.approx(reward, abs=0.006)
    assert point.kl == pytest.approx(kl, abs=0.03)
    assert value == pytest.approx(objective, abs=0.006)


@pytest.mark.parametrize(
    ("n", "bound", "reward"), [(4, 0.636, 2.04), (16, 1.835, 3.51), (64, 3.175, 4.68), (256, 4.549, 5.67)]
)
def test_best_of_n_has_the_published_reward_and_costs_less_than_without_ties(n, bound, reward):
    found = TokenBandit().best_of(n)
    assert found.reward == pytest.approx(reward, abs=0.006)
    assert found.kl_bound == pytest.approx(bound, abs=0.001)
    assert 0.9 * bound < found.kl < bound
    assert found.reward < TokenBandit().at_kl(found.kl)[0].reward  # no policy is beyond the frontier


def test_one_token_by_hand():
    bandit = TokenBandit(tokens=4, positive=1, negative=0, steps=1)
    point = bandit.tilt(math.log(3))  # weights 3, 1, 1, 1: the liked id has probability 1/2
    assert point.reward == pytest.approx(0.5)
    assert point.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert bandit.at_kl(point.kl)[0].reward == pytest.approx(0.5)
    assert bandit.at_kl(point.kl)[1] == pytest.approx(1 / math.log(3))
    best = bandit.best_of(2)  # of two, both miss the liked id with probability 9/16
    assert best.reward == pytest.approx(7 / 16)
    assert best.kl == pytest.approx(7 / 16 * math.log(7 / 4) + 9 / 16 * math.log(3 / 4))


def test_the_optimum_of_any_values_is_one():
    bandit = TokenBandit(tokens=50, positive=7, negative=2, steps=9)
    point, value = bandit.optimum(0.7)
    for nearby in (0.9, 1.1):
        other = bandit.tilt(nearby / 0.7)
        assert other.reward - 0.7 * other.kl < value
    assert value == pytest.approx(0.7 * 9 * math.log((7 * math.exp(1 / 0.7) + 2 * math.exp(-1 / 0.7) + 41) / 50))
    assert bandit.at_kl(point.kl)[0] == pytest.approx(point)


@pytest.mark.parametrize("values", [{"positive": 30}, {"steps": 0}, {"tokens": 3}, {"positive": 0, "negative": 0}])
def test_a_task_without_an_answer_is_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        TokenBandit(**values)


@pytest.mark.parametrize(("meter", "is_beyond"), [(1.0, False), (0.9, True)])
def test_a_kl_meter_that_reads_too_little_shows_as_a_policy_beyond_the_frontier(meter, is_beyond):
    bandit, count = TokenBandit(), 4000
    weights = torch.tensor([float(bandit.reward_of(token)) for token in range(32)]).mul(2).exp()
    drawn = torch.multinomial(
        weights.repeat(count, 1), 16, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    scores = torch.tensor([bandit.reward(row) for row in drawn.tolist()], dtype=torch.float64)
    kls = (weights / weights.mean()).log()[drawn].sum(dim=1).double()
    _, excess, error = above_frontier(bandit, Fresh(None, scores, meter * kls), torch.zeros(count))
    assert (excess > 3 * error) == is_beyond


def test_t0_learns_and_prints_a_line_a_seed_and_a_sum(monkeypatch, capsys):
    monkeypatch.setattr(t0_frontier, "BEST_OF_WITHIN", 0.04)  # fewer choices; the goal stays at 0.02
    options = (
        "T0 --seeds 2 --tokens 8 --positive 2 --negative 2 --steps 4 --beta 1 --updates 20 --samples 512 --best-of 4"
    )
    monkeypatch.setattr("sys.argv", ["benchmarks.learning", *options.split(), "--json"])
    code = command.main()
    printed = capsys.readouterr()
    first, second, summary = map(json.loads, printed.out.splitlines())
    assert [first["seed"], second["seed"]] == [0, 1]
    best = TokenBandit(8, 2, 2, 4).optimum(1.0)
    for line in (first, second):
        assert line["task"] == "T0"
        assert line["passed"] is True
        assert line["best_objective"] == pytest.approx(best[1])
        assert 0.95 <= line["objective"] / best[1] < 1.01
        assert line["kl_error"] > 0
        assert line["objective"] == pytest.approx(line["reward"] - line["kl"])
        assert line["best_of"][0]["n"] == 4
    assert (code, summary["passed"], summary["seeds"]) == (0, True, 2)
    assert summary["worst"]["objective_share"] == min(first["objective_share"], second["objective_share"])
    assert summary["lines"] == [first, second]
    assert summary["options"]["tokens"] == 8
    assert [goal["reached"] for goal in summary["goals"]] == [True, True, True]
    assert "T0 seed 1" in printed.err


@pytest.mark.parametrize("critic", ["", " --critic-trunk policy --value-loss-coefficient 0.5"], ids=["own", "head"])
def test_adapters_learn_on_a_policy_that_was_pretrained_to_be_uniform(critic):
    arguments = "T0 --lora --tokens 8 --positive 2 --negative 2 --steps 4 --beta 1 --updates 20 --samples 512 --best-of"
    arguments += critic
    said = []
    found = t0_frontier.measure(command.parser().parse_args(arguments.split()), 0, said.append)
    assert 0 < found["reference_nats_from_uniform"] < 0.01
    assert found["objective_share"] >= 0.95
    assert found["excess_errors"] <= 3
    assert "pre-trained in" in said[0]


def test_without_a_task_all_are_listed(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks.learning"])
    assert command.main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.TASKS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("T0 --positive 40", "positive = 40"),
        ("T0 --beta 0", "beta = 0"),
        ("T5 --shortest 9", "shortest = 9"),
        ("T2 --members 1", "members = 1"),
    ],
)
def test_an_option_out_of_range_is_named_before_anything_is_trained(monkeypatch, capsys, arguments, named):
    monkeypatch.setattr("sys.argv", ["benchmarks.learning", *arguments.split()])
    assert command.main() == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("task", command.TASKS.values(), ids=list(command.TASKS))
def test_every_task_has_goals_and_every_option_of_it_a_help_text(task):
    assert task.goals
    parser = argparse.ArgumentParser()
    task.add_options(parser)
    assert all(action.help for action in parser._actions)


def fake_task() -> Task:
    goals = command.TASKS["T0"].goals
    assert [goal.path for goal in goals] == ["worst.objective_share", "worst.excess_errors", "worst.best_of_off"]
    return Task("T0", "", lambda parser: None, lambda options, seed, say: {}, ("objective_share",))


def line(seed: int, share: float, excess: float = 0.0) -> dict:
    return {
        "seed": seed,
        "seconds": 1.0,
        "passed": True,
        "objective_share": share,
        "excess_errors": excess,
        "best_of_off": 0,
    }


def test_a_task_is_judged_by_its_worst_seed_in_each_measure():
    found = sum_up(fake_task(), [line(0, 0.99, 4.0), line(1, 0.94), line(2, 0.97)], {})
    assert found["worst"] == {"objective_share": 0.94, "excess_errors": 4.0, "best_of_off": 0.0}
    assert [goal["reached"] for goal in found["goals"]] == [False, False, True]
    assert (found["passed"], found["worst_seed"]) == (False, 1)
    assert "worst seed: 1; NOT PASSED" in table(fake_task(), found)
    assert sum_up(fake_task(), [line(0, 0.99), line(1, 0.95)], {})["passed"] is True


def test_a_goal_of_the_mean_is_judged_by_the_mean_of_the_seeds():
    task = command.TASKS["T1C"]
    lines = [
        {"seed": seed, "seconds": 1.0, "passed": True, "chosen_share": share} for seed, share in enumerate([0.5, 0.8])
    ]
    assert sum_up(task, lines, {})["mean"] == {"chosen_share": pytest.approx(0.65)}
    assert sum_up(task, lines, {})["passed"] is True
    assert sum_up(task, lines[1:], {})["passed"] is False


# Labels and reward models


def test_labels_follow_the_true_reward_and_equal_ones_a_coin():
    worth = torch.tensor([3.0, 0.0])
    pairs = draw_pairs(lambda ids: worth[ids].sum(dim=1), 2, 1, 20_000, torch.Generator().manual_seed(0))
    for margin, probability in ((3.0, 0.9526), (0.0, 0.5), (-3.0, 0.0474)):  # 1 / (1 + e^-margin)
        here = pairs.margin == margin
        assert float(pairs.first_is_better[here].double().mean()) == pytest.approx(probability, abs=0.015)
    (record, *_) = pairs.rows(1).comparisons([7])
    better = pairs.first if pairs.first_is_better[0] else pairs.second
    assert (record.prompt_tokens, record.chosen_tokens) == ((7,), tuple(better[0].tolist()))


def test_the_linear_model_finds_what_made_the_labels():
    worth = torch.tensor([1.0, -1.0, 0.0, 0.0])
    pairs = draw_pairs(lambda ids: worth[ids].sum(dim=1), 4, 6, 20_000, torch.Generator().manual_seed(1))
    found = fit_linear(pairs, 4, variance=1.0)
    assert torch.allclose(found - found.mean(), worth.double(), atol=0.06)
    features = token_counts(pairs.first, 4) - token_counts(pairs.second, 4)
    assert agreement_with(pairs, features @ found) > 0.99


def test_agreement_leaves_equal_pairs_out_and_calibration_weighs_bins_by_size():
    ids = torch.zeros(4, 1, dtype=torch.long)
    pairs = Pairs(ids, ids, torch.tensor([1.0, 1.0, -2.0, 0.0]), torch.ones(4, dtype=torch.bool))
    assert agreement_with(pairs, torch.tensor([0.5, -0.5, 0.0, 9.0])) == pytest.approx(0.5)  # right, wrong, half
    predicted, truth = torch.tensor([0.91, 0.93, 0.15, 1.0]), torch.tensor([0.81, 0.91, 0.25, 1.0])
    assert calibration_error(predicted, truth) == pytest.approx((0.12 + 0.10) / 4)  # 0.1 and 0.02 in one bin, 0.1
