"""What the learning tasks T1, T1C, T2, T3, T5 and T7 calculate, by hand."""

import argparse
import math

import pytest
import torch

from benchmarks.learning import __main__ as command
from benchmarks.learning import t1_clicks, t1_reward_model
from benchmarks.learning.frontier import TokenBandit
from benchmarks.learning.overoptimisation import (
    Tilt,
    best_of_n_curve,
    expected_true_reward,
    tilt_at_kl,
    true_rewards,
)
from benchmarks.learning.reward_models import draw_pairs, fit_linear
from benchmarks.learning.t1_clicks import clicks_to, rate
from benchmarks.learning.t1_reward_model import worth
from benchmarks.learning.t2_overoptimisation import Round, at_kl, let_through, smooth, told
from benchmarks.learning.t3_walks import distances, draw_graph, draw_walks, optimality
from benchmarks.learning.t5_stopping import is_right
from benchmarks.learning.t7_length import END, draw_comparisons, share_by_length, true_reward
from webapp.runs.law import fit_law

BANDIT = TokenBandit()


def test_a_saturating_reward_by_hand():
    first = [0, 0, 0, *[20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 4]]  # liked twice, a repeat too many, -1
    assert true_rewards(BANDIT, torch.tensor([first])).tolist() == [2 - 0.75 - 1]


def test_the_mean_true_reward_of_independent_tokens_is_exact():
    p = torch.softmax(torch.linspace(0, 3, 32, dtype=torch.float64).flip(0), dim=0)
    drawn = torch.multinomial(p.repeat(20_000, 1), 16, replacement=True, generator=torch.Generator().manual_seed(0))
    sampled = true_rewards(BANDIT, drawn)
    assert expected_true_reward(BANDIT, p) == pytest.approx(float(sampled.mean()), abs=4 * float(sampled.std()) / 141)
    assert expected_true_reward(BANDIT, torch.full((32,), 1 / 32)) == pytest.approx(-0.40, abs=0.01)


def test_tilting_by_a_linear_proxy_turns_as_published():
    published = {0.25: 0.91, 1: 2.09, 2: 2.89, 4: 3.71, 8: 4.21, 16: 3.63, 30: 1.72}  # 5,000 labels
    found = dict.fromkeys(published, 0.0)
    for seed in range(3):
        pairs = draw_pairs(lambda ids: true_rewards(BANDIT, ids), 32, 16, 5000, torch.Generator().manual_seed(seed))
        weights = fit_linear(pairs, 32, variance=0.25)
        points = [tilt_at_kl(BANDIT, weights, kl) for kl in published]
        assert [point.kl for point in points] == pytest.approx(list(published))
        assert sorted(point.proxy for point in points) == [point.proxy for point in points]
        for kl, point in zip(published, points, strict=True):
            found[kl] += point.true / 3
    assert found == pytest.approx(published, abs=0.12)


def test_curves_are_fitted_in_the_root_of_the_kl():
    kls = [0.5, 1.0, 4.0, 9.0, 16.0]
    gains = [math.sqrt(kl) * (2 - 0.5 * math.log(math.sqrt(kl))) for kl in kls]
    assert told(fit_law(kls, gains)) == pytest.approx(
        {"alpha": 2, "beta": 0.5, "r2": 1, "is_logarithmic": True, "peak_kl": math.exp(6)}
    )
    gains = [math.sqrt(kl) * (2 - 0.5 * math.sqrt(kl)) for kl in kls]
    law = fit_law(kls, gains, is_logarithmic=False)
    assert (law.alpha, law.beta, law.r2, law.peak_kl) == pytest.approx((2, 0.5, 1, 4))
    assert told(fit_law([1.0], [1.0])) is None


def test_the_best_by_proxy_is_taken_of_each_group():
    true, proxy = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0]), torch.tensor([5.0, 6.0, 8.0, 7.0, 9.0])
    one, two = best_of_n_curve(true, proxy, [1, 2])
    assert (one.kl, one.true) == (0.0, pytest.approx(3.8))
    assert two == pytest.approx((math.log(2) - 0.5, 2.5, 7.0))


def test_the_gate_lets_the_better_through_and_stops_what_has_turned():
    true = [0.0, 1.0, 2.0, 0.5]
    rounds = [Round(float(at), 0.0, value, torch.full((10,), value)) for at, value in enumerate(true) for _ in range(5)]
    assert let_through(rounds, torch.Generator().manual_seed(0)).true == 2.0
    curve = smooth(rounds)
    assert curve[0] == pytest.approx((0.0, 0.0, 0.0))
    assert curve[1] == pytest.approx((0.2, 0.2, 0.0))
    assert at_kl([Tilt(1, 2, 0), Tilt(3, 6, 0), Tilt(5, 0, 0)], 2) == 4


def test_clicks_to_a_target_lie_on_the_line_between_two_numbers_of_clicks():
    assert clicks_to(0.9, [(50, 0.7), (100, 0.8), (150, 1.0)]) == pytest.approx(125)
    assert clicks_to(0.9, [(50, 0.95), (100, 0.99)]) == 50
    assert clicks_to(0.9, [(50, 0.7), (100, 0.8)]) == 100, "never reached: at least so many"


def test_a_rater_gives_each_rating_equally_often_and_the_better_response_the_higher_one():
    generator = torch.Generator().manual_seed(0)
    responses = torch.randint(32, (10_000, 16), generator=generator)
    ratings = rate(BANDIT, [31], responses, generator)
    scores = torch.tensor([one.score for one in ratings])
    shares = [float((scores == score).double().mean()) for score in range(1, 6)]
    assert shares == pytest.approx([0.2] * 5, abs=0.015)
    true = worth(BANDIT, responses)
    means = [float(true[scores == score].mean()) for score in range(1, 6)]
    assert means == sorted(means)
    first, second = scores[: len(scores) // 2], scores[len(scores) // 2 :]
    gap = true[: len(first)] - true[len(first) :]
    better = (first > second)[(gap == 1) & (first != second)].double()
    assert float(better.mean()) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.05)  # nearly Bradley-Terry's


def test_chosen_pairs_and_ratings_are_measured_beside_random_ones():
    arguments = "T1C --start 10 --step 5 --most 15 --pool 30 --ratings 10 --test-pairs 500 --target 0.99"
    found = t1_clicks.measure(command.parser().parse_args(arguments.split()), 0, lambda words: None)
    assert [clicks for clicks, _ in found["random"]] == [clicks for clicks, _ in found["chosen"]] == [10, 15]
    assert found["random"][0] == found["chosen"][0], "both begin with the same pairs"
    assert found["chosen_share"] == 1.0, "neither reached the target"
    assert set(found["rated"][10]) == {"ratings", "pairs"}


def test_a_reward_model_of_two_is_measured_beside_the_first_alone():
    arguments = "T1 --labels 25 --test-pairs 500"
    found = t1_reward_model.measure(command.parser().parse_args(arguments.split()), 0, lambda words: None)
    (row,) = found["labels"]
    assert found["behind_linear"] == pytest.approx(row["linear_accuracy"] - row["accuracy"])
    assert row["accuracy"] != row["single_accuracy"]
    assert 0.55 < row["accuracy"] < 0.9
    alone = t1_reward_model.measure(command.parser().parse_args([*arguments.split(), "--members", "1"]), 0, print)
    assert alone["labels"][0]["accuracy"] == row["single_accuracy"]


def test_walks_on_a_graph_by_hand():
    edges = [set(), {0, 2}, {1, 3}, {2}]
    shortest = distances(edges)
    assert shortest == [0, 1, 2, 3]
    assert distances([set(), {0}, {2}]) == [0, 1, None]
    assert optimality([3, 2, 1, 0], edges, shortest) == 1.0
    assert optimality([1, 2, 1, 0], edges, shortest) == pytest.approx(6 / 8)  # 4 nodes of 10, where 2 would do
    assert optimality([3, 1, 0], edges, shortest) == 0.0  # no such edge
    assert optimality([1, 2, 1], edges, shortest) == 0.0  # never arrives
    assert optimality([1, *[2, 1] * 4, 0], edges, shortest) == 0.0  # ten nodes


def test_random_walks_follow_the_edges_of_a_graph_that_leads_to_the_goal():
    generator = torch.Generator().manual_seed(0)
    edges = draw_graph(21, generator)
    assert None not in distances(edges)
    assert max(distances(edges)) < 9
    for walk in draw_walks(edges, 50, generator):
        assert 2 <= len(walk) <= 10
        assert all(after in edges[before] for before, after in zip(walk, walk[1:], strict=False))
        assert 0 not in walk[:-1]
        assert len(walk) == 10 or walk[-1] == 0


def test_only_an_end_in_time_is_right():
    options = argparse.Namespace(shortest=4, longest=8)
    for length, right in ((3, False), (4, True), (8, True), (9, False)):
        assert is_right([5] * (length - 1) + [0], options) == right
    assert not is_right([5] * 6, options)


def test_the_share_of_a_gain_that_length_explains_by_hand():
    before, short_and_long = torch.tensor([0.0] * 10 + [1.0] * 10), torch.tensor([1] * 10 + [2] * 10)
    assert share_by_length(before, short_and_long, torch.full((10,), 1.5), torch.full((10,), 2)) == pytest.approx(
        (1.0, 0.5)
    )
    assert share_by_length(before, short_and_long, torch.ones(10), torch.full((10,), 2)) == pytest.approx((0.5, 1.0))
    assert share_by_length(before, short_and_long, before + 1, short_and_long) == pytest.approx((1.0, 0.0))


def test_raters_with_a_taste_for_length_prefer_the_longer_text_and_equal_lengths_silence_it():
    biased = draw_comparisons(300, 5.0, False, torch.Generator().manual_seed(0))
    longer = [len(pair.chosen_tokens) > len(pair.rejected_tokens) for pair in biased]
    assert sum(longer) > 240
    for pair in draw_comparisons(50, 5.0, True, torch.Generator().manual_seed(0)):
        assert len(pair.chosen_tokens) == len(pair.rejected_tokens)
    assert true_reward([0, 1, 4, 20, END]) == pytest.approx(6 * (2 - 1) / 4)
    assert true_reward([END]) == 0.0
