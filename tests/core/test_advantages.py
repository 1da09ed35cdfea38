import pytest
import torch
from torch.testing import assert_close

from rlhf_core.advantages import estimate_advantages, estimate_returns, explained_variance, group_advantages

NAN = float("nan")


def test_padding_does_not_change_the_advantages_rule_17():
    rewards, values = torch.tensor([[0.0, 1.0, NAN]]), torch.tensor([[0.5, 0.5, NAN]])
    mask = torch.tensor([[True, True, False]])
    found = estimate_advantages(rewards, values, mask, gamma=1.0, lam=1.0)
    assert_close(found, torch.tensor([[0.5, 0.5, 0.0]]))  # by hand: 0 + 1 - 0.5, then 1 - 0.5
    values[0, 2] = 100.0
    assert torch.equal(estimate_advantages(rewards, values, mask, gamma=1.0, lam=1.0), found)


def test_two_steps_by_hand():
    rewards, values, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.ones(1, 2).bool()
    found = estimate_advantages(rewards, values, mask, gamma=0.5, lam=0.5)
    # δ1 = 2 - 4 = -2; δ0 = 1 + 0.5·4 - 3 = 0; A1 = -2; A0 = 0 + 0.25·(-2)
    assert_close(found, torch.tensor([[-0.5, -2.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (1.0, 1.0)])
def test_advantages_equal_the_quadratic_sum_on_ragged_rows_rule_18(slow_advantages, gamma, lam):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(4, 9, generator=generator), torch.randn(4, 9, generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 1, 4, 7])[:, None]
    found = estimate_advantages(rewards, values, mask, gamma=gamma, lam=lam)
    assert_close(found, slow_advantages(rewards, values, mask, gamma, lam))


def test_a_value_is_that_of_the_state_before_its_token_rule_16():
    # A process that pays 1 at each of three tokens is worth 3, 2, 1 before them. With those values nothing surprises.
    rewards, values, mask = torch.ones(1, 3), torch.tensor([[3.0, 2.0, 1.0]]), torch.ones(1, 3).bool()
    assert_close(estimate_advantages(rewards, values, mask, gamma=1.0, lam=0.95), torch.zeros(1, 3))
    late = torch.tensor([[2.0, 1.0, 0.0]])  # values read after the tokens: every step surprises by 1
    assert_close(estimate_advantages(rewards, late, mask, gamma=1.0, lam=0.0), torch.tensor([[0.0, 0.0, 1.0]]))


def test_returns_are_advantages_plus_old_values_rule_19():
    rewards, values = torch.tensor([[1.0, 1.0, 7.0]]), torch.tensor([[0.3, -0.2, 9.0]])
    mask = torch.tensor([[True, True, False]])
    advantages = estimate_advantages(rewards, values, mask, gamma=1.0, lam=1.0)
    returns = estimate_returns(advantages, values, mask)
    assert_close(returns, torch.tensor([[2.0, 1.0, 0.0]]))  # with λ = 1 the rewards to come, whatever the values


def test_explained_variance_of_a_perfect_a_useless_and_a_constant_case():
    returns, mask = torch.tensor([[1.0, 3.0, 77.0]]), torch.tensor([[True, True, False]])
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(torch.full((1, 3), 5.0), returns, mask) == 0.0
    assert explained_variance(returns, torch.ones(1, 3), mask) == 0.0


def test_tensors_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        estimate_advantages(torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2).bool(), gamma=1.0, lam=1.0)


def test_leaving_one_out_compares_with_the_mean_of_the_others_rule_40():
    scores = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, -3.0])
    # 1 - (2 + 6)/2, 2 - (1 + 6)/2, 6 - (1 + 2)/2; 0 - (0 - 3)/2 twice, -3 - 0
    assert_close(group_advantages(scores, 3), torch.tensor([-3.0, -1.5, 4.5, 1.5, 1.5, -3.0]))


def test_the_other_baselines_by_hand_rule_40():
    scores = torch.tensor([1.0, 3.0, 2.0, 6.0])  # means 2 and 4, deviations 1 and 2
    assert_close(group_advantages(scores, 2, "mean"), torch.tensor([-1.0, 1.0, -2.0, 2.0]))
    assert_close(group_advantages(scores, 2, "mean-deviation"), torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert_close(group_advantages(scores, 2), 2 * group_advantages(scores, 2, "mean"))  # G / (G - 1)


@pytest.mark.parametrize("baseline", ["leave-one-out", "mean", "mean-deviation"])
def test_a_group_of_equal_scores_teaches_exactly_nothing_rule_40(baseline):
    scores = torch.tensor([0.1] * 3 + [0.0, 1e-30, 0.0] + [-7.3] * 3)
    found = group_advantages(scores, 3, baseline)
    assert found.tolist() == [0.0] * 9  # though 0.1 + 0.1 + 0.1 is not 0.3


@pytest.mark.parametrize("baseline", ["leave-one-out", "mean", "mean-deviation"])
def test_rounding_of_equal_scores_teaches_nothing(baseline):
    scores = torch.tensor([0.5, 0.5 + 1e-7, 200.0, 200.0 + 1e-4, 0.5, 0.5 + 1e-3])
    found = group_advantages(scores, 2, baseline)
    assert scores[0] != scores[1]
    assert scores[2] != scores[3]
    assert found[:4].tolist() == [0.0] * 4
    assert found[4] < 0 < found[5]
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(("shape", "size"), [((4,), 3), ((4,), 1), ((2, 2), 2)])
def test_scores_that_make_no_groups_are_refused(shape, size):
    with pytest.raises(ValueError, match="make no whole groups"):
        group_advantages(torch.zeros(shape), size)
