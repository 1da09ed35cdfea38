import math

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.losses import (
    aggregate_loss,
    binned_cross_entropy,
    bradley_terry_loss,
    clipped_policy_loss,
    clipped_value_loss,
    comparison_logits,
    comparison_loss,
    cumulative_link_loss,
    fit_step_biases,
    fit_thresholds,
    histogram_targets,
    staleness_weights,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient_flows"),
    [
        (1.0, 2.0, -2.0, True),
        (1.5, 2.0, -2.4, False),  # already 20 % likelier: no more reward for going on
        (0.5, 2.0, -1.0, True),  # a good token became rarer: full pull back
        (1.5, -2.0, 3.0, True),  # a bad token became likelier: full push down
        (0.5, -2.0, 1.6, False),
        (1.1, -2.0, 2.2, True),
    ],
)
def test_clipping_takes_the_larger_of_the_two_losses_rule_23(ratio, advantage, loss, gradient_flows):
    log_probs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    found = clipped_policy_loss(log_probs, torch.zeros(1, 1), torch.tensor([[advantage]]), clip_low=0.2)
    assert_close(found.per_token.detach(), torch.tensor([[loss]]))
    found.per_token.sum().backward()
    assert bool(log_probs.grad.abs().sum() > 0) is gradient_flows
    assert bool(found.clipped) is not gradient_flows


def test_asymmetric_and_dual_clipping_rule_23():
    good = clipped_policy_loss(
        torch.log(torch.tensor([1.5])), torch.zeros(1), torch.ones(1), clip_low=0.2, clip_high=0.3
    )
    assert_close(good.per_token, torch.tensor([-1.3]))
    bad = clipped_policy_loss(
        torch.log(torch.tensor([9.0])), torch.zeros(1), torch.tensor([-2.0]), clip_low=0.2, dual_clip=3.0
    )
    assert_close(bad.per_token, torch.tensor([6.0]))  # 18 without the second clip


def test_the_value_loss_takes_the_worse_of_the_clipped_and_the_free_value_rule_22():
    values, old = torch.tensor([1.0, 1.0, 0.1]), torch.zeros(3)
    returns = torch.tensor([2.0, 0.0, 1.0])
    loss, clipped = clipped_value_loss(values, old, returns, clip=0.2)
    # to 0.2: (0.2 - 2)² = 3.24 > 1; (0.2 - 0)² < 1; within the clip both are (0.1 - 1)²
    assert_close(loss, torch.tensor([1.62, 0.5, 0.405]))
    assert clipped.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("token-mean", 2.0), ("sequence-mean", 2.5), ("fixed-length", 1.0)]
)
def test_the_ways_of_aggregating_by_hand_and_in_parts_rule_24(aggregation, expected):
    per_token = torch.tensor([[1.0, 1.0, 2.0], [4.0, 50.0, float("nan")]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    # tokens: 8 / 4; rows: (4/3 + 4) / 2; fixed: 8 / (2 · 4)
    expected = 8 / 3 if aggregation == "sequence-mean" else expected
    length = 4 if aggregation == "fixed-length" else None
    whole = aggregate_loss(per_token, mask, aggregation, fixed_length=length)
    assert_close(whole, torch.tensor(expected))
    total = 4 if aggregation == "token-mean" else 2
    parts = [
        aggregate_loss(per_token[i : i + 1], mask[i : i + 1], aggregation, total=total, fixed_length=length)
        for i in range(2)
    ]
    assert_close(sum(parts), whole)


def test_one_batch_of_8_and_four_of_2_give_equal_gradients_rule_24():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, generator=generator, dtype=torch.double).requires_grad_()
    x = torch.randn(8, 6, 5, generator=generator, dtype=torch.double)
    mask = torch.arange(6) < torch.randint(1, 7, (8, 1), generator=generator)
    (whole,) = torch.autograd.grad(aggregate_loss((x @ weight).square(), mask), weight)
    total = int(mask.sum())
    parts = torch.zeros_like(whole)
    for i in range(0, 8, 2):
        loss = aggregate_loss((x[i : i + 2] @ weight).square(), mask[i : i + 2], total=total)
        parts += torch.autograd.grad(loss, weight)[0]
    assert_close(parts, whole)


def test_fixed_length_aggregation_needs_a_length():
    with pytest.raises(ValueError, match="fixed_length"):
        aggregate_loss(torch.ones(1, 1), torch.ones(1, 1).bool(), "fixed-length")


def test_comparison_probabilities_by_hand():
    # One step each way and equal habits: the odds are e^d : 1 : e^-d. At d = ln 2 that is 2 : 1 : ½.
    logits = comparison_logits(torch.tensor([math.log(2.0)]), torch.zeros(2))
    assert_close(logits.softmax(-1), torch.tensor([[1 / 7, 2 / 7, 4 / 7]]))
    found = comparison_loss(torch.tensor([math.log(2.0)]), torch.tensor([1]), torch.zeros(2))
    assert_close(found, torch.tensor(-math.log(4 / 7)))


def test_the_gradient_of_a_comparison_is_the_expected_verdict_less_the_given_one():
    difference = torch.zeros(4, requires_grad=True)
    losses = comparison_loss(difference, torch.tensor([0, 1, 2, 3]), torch.zeros(4)) * 4
    losses.backward()
    assert_close(difference.grad, torch.tensor([0.0, -1.0, -2.0, -3.0]))  # a stronger verdict pulls more; a tie not
    apart = torch.tensor([1.0], requires_grad=True)
    comparison_loss(apart, torch.tensor([0]), torch.zeros(4)).backward()
    assert apart.grad.item() > 0  # a tie between responses held apart draws them together


def test_a_tie_is_symmetric_and_strength_orders_the_best_difference():
    for sign in (1.0, -1.0):
        assert_close(
            comparison_loss(torch.tensor([sign]), torch.tensor([0]), torch.zeros(4)),
            comparison_loss(torch.tensor([1.0]), torch.tensor([0]), torch.zeros(4)),
        )
    grid = torch.linspace(-3, 3, 61)
    slight, clear = (
        torch.stack([comparison_loss(d[None], torch.tensor([k]), torch.zeros(4)) for d in grid]).argmin()
        for k in (1, 2)
    )
    assert 30 < slight < clear < 60  # "slightly better" is best explained by a smaller gap than "clearly better"


def test_with_one_step_in_use_the_comparison_model_is_bradley_terry():
    biases = torch.tensor([-1e9, 0.0])  # no ties
    difference = torch.tensor([0.3, -1.2])
    found = comparison_loss(difference, torch.tensor([1, 1]), biases)
    assert_close(found, bradley_terry_loss(2 * difference))
    assert_close(bradley_terry_loss(torch.zeros(3)), torch.tensor(math.log(2.0)))


def test_the_biases_start_at_the_habits_of_the_raters():
    strengths = torch.tensor([0] * 9 + [1] * 19 + [2] * 9)  # add one: 10, 20, 10, 1
    found = comparison_logits(torch.zeros(1), fit_step_biases(strengths)).softmax(-1)
    half = torch.tensor([[0.5, 5.0, 10.0, 10.0, 10.0, 5.0, 0.5]]) / 41
    assert_close(found, half)


def test_binned_cross_entropy_by_hand_and_weighted():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    labels = torch.tensor([0, 1])
    assert_close(binned_cross_entropy(logits, labels), torch.tensor(-(math.log(0.5) + math.log(0.1)) / 2))
    weighted = binned_cross_entropy(logits, labels, torch.tensor([3.0, 1.0]))
    assert_close(weighted, torch.tensor(-(3 * math.log(0.5) + math.log(0.1)) / 4))


def test_histogram_targets_sum_to_one_and_centre_on_the_value():
    edges = torch.linspace(0.0, 5.0, 6)
    found = histogram_targets(torch.tensor([2.5, 0.0, 99.0]), edges, sigma=0.75)
    assert_close(found.sum(-1), torch.ones(3))
    assert_close(found[0], found[0].flip(0))
    assert_close((found[0] * (edges[:-1] + 0.5)).sum(), torch.tensor(2.5))
    assert found[1].argmax() == 0
    assert found[2].argmax() == 4


def test_staleness_weights_are_ratios_up_to_a_cap_and_carry_no_gradient_rule_41():
    old = torch.log(torch.tensor([[0.2, 0.6, 0.1, 0.4]])).requires_grad_()
    behaviour = torch.log(torch.tensor([[0.2, 0.3, 0.4, 0.1]]))
    found = staleness_weights(old, behaviour, cap=3.0)
    assert_close(found, torch.tensor([[1.0, 2.0, 0.25, 3.0]]))  # the last is 4, capped
    assert not found.requires_grad
    assert torch.equal(staleness_weights(behaviour, behaviour, cap=2.0), torch.ones(1, 4))
    with pytest.raises(ValueError, match="at least 1"):
        staleness_weights(old, behaviour, cap=0.5)


def test_weighed_stale_samples_have_the_gradient_of_fresh_ones_rule_41():
    policy = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    behaviour = torch.tensor([0.3, 0.3, 0.2, 0.2], dtype=torch.float64)
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def gradient(drawn_by, weights):
        """Of the surrogate over all four tokens, each as often as it is drawn."""
        log_probs = policy.log().requires_grad_()
        loss = clipped_policy_loss(log_probs, policy.log(), advantages, clip_low=0.2).per_token
        (drawn_by * weights * loss).sum().backward()
        return log_probs.grad

    weights = staleness_weights(policy.log(), behaviour.log(), cap=2.0)  # the largest ratio is 2
    assert_close(gradient(behaviour, weights), gradient(policy, torch.ones(4)))
    assert not torch.allclose(gradient(behaviour, torch.ones(4)), gradient(policy, torch.ones(4)), rtol=0.1)


def test_responses_three_rounds_old_teach_nearly_as_well_as_fresh_ones_rule_41():
    """Ten arms of rewards 0 to 9: 60 rounds of PPO, from the policy's own draws or from those of three rounds ago."""

    def reward_after(staleness, cap):
        generator = torch.Generator().manual_seed(0)
        logits = torch.zeros(10, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=1.0)
        past = [logits.detach().log_softmax(-1)] * (staleness + 1)
        for _ in range(60):
            behaviour = past[-1 - staleness]
            drawn = torch.multinomial(behaviour.exp(), 256, replacement=True, generator=generator)
            old = past[-1]
            weights = staleness_weights(old[drawn], behaviour[drawn], cap=cap)
            advantages = drawn - (old.exp() * torch.arange(10)).sum()
            for _ in range(2):
                optimizer.zero_grad()
                now = logits.log_softmax(-1)[drawn]
                loss = clipped_policy_loss(now, old[drawn], advantages / 10, clip_low=0.2).per_token
                (weights * loss).mean().backward()
                optimizer.step()
            past.append(logits.detach().log_softmax(-1))
        return float((past[-1].exp() * torch.arange(10)).sum())

    fresh = reward_after(0, 2.0)
    assert fresh > 8
    assert reward_after(3, 2.0) >= 0.95 * fresh


def test_ordered_classes_by_hand():
    thresholds = torch.tensor([-1.0, 1.0])
    labels = torch.tensor([0, 1, 2])
    values = torch.zeros(3, requires_grad=True)
    # P(0) = s(-1) = .268941, P(1) = s(1) - s(-1) = .462117, P(2) = 1 - s(1) = .268941
    loss = cumulative_link_loss(values, labels, thresholds)
    assert float(loss) == pytest.approx((1.313262 + 0.771937 + 1.313262) / 3, abs=1e-5)
    loss.backward()
    assert values.grad is not None
    assert values.grad[0] > 0  # a low rating pulls the value down, a high one up
    assert values.grad[1] == pytest.approx(0.0, abs=1e-7)
    assert values.grad[2] < 0
    weighted = cumulative_link_loss(values, labels, thresholds, torch.tensor([0.0, 2.0, 0.0]))
    assert float(weighted) == pytest.approx(0.771937, abs=1e-5)


def test_ordered_classes_stay_finite_far_out():
    thresholds = torch.tensor([-1.0, 1.0], requires_grad=True)
    values = torch.tensor([200.0, -200.0, 200.0], requires_grad=True)
    loss = cumulative_link_loss(values, torch.tensor([0, 1, 1]), thresholds)
    loss.backward()
    assert float(loss) == pytest.approx((201 + 199 + 199) / 3, abs=0.3)
    for parameter in (values, thresholds):
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


def test_thresholds_start_at_the_raters_habits():
    found = fit_thresholds(torch.tensor([0, 0, 2, 2, 2]), 3)  # counts 3, 1, 4 with one added
    assert_close(found, torch.logit(torch.tensor([3 / 8, 4 / 8])))
