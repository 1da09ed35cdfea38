import math

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.kl import AdaptiveKLController, k1, k2, k3, penalised_rewards, sequence_kl


def test_the_three_estimators_by_hand():
    log_probs, reference = torch.log(torch.tensor([0.5, 0.25])), torch.log(torch.tensor([0.25, 0.5]))
    half = math.log(2.0)
    assert_close(k1(log_probs, reference), torch.tensor([half, -half]))
    assert_close(k2(log_probs, reference), torch.tensor([half**2 / 2, half**2 / 2]))
    assert_close(k3(log_probs, reference), torch.tensor([0.5 - 1 + half, 2.0 - 1 - half]))


def test_sequence_kl_sums_over_tokens_and_averages_over_rows_rule_13():
    per_token = torch.tensor([[1.0, 2.0, 50.0], [4.0, float("nan"), 50.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert_close(sequence_kl(per_token, mask), torch.tensor(3.5))  # (1 + 2 + 4) / 2


def test_k1_and_k3_average_to_the_exact_kl_on_a_small_policy_rule_13():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    exact = float((policy * (policy / reference).log()).sum())
    for estimator in (k1, k3):
        assert_close(float((policy * estimator(policy.log(), reference.log())).sum()), exact)


def test_only_k2_in_a_loss_has_the_gradient_of_the_kl_rule_14():
    logits = torch.tensor([0.3, -0.2, 1.0, 0.0, -1.0], dtype=torch.double, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([1.0, 0.0, -0.5, 0.2, 0.4], dtype=torch.double), 0)

    def gradient(loss_of):
        log_policy = torch.log_softmax(logits, 0)
        (found,) = torch.autograd.grad(loss_of(log_policy), logits)
        return found

    def expectation(estimator):  # the samples' probabilities carry no gradient, as in a loss over drawn tokens
        return lambda log_policy: (log_policy.exp().detach() * estimator(log_policy, reference)).sum()

    exact = gradient(lambda log_policy: (log_policy.exp() * (log_policy - reference)).sum())
    other_way = gradient(lambda log_policy: (reference.exp() * (reference - log_policy)).sum())
    assert_close(gradient(expectation(k2)), exact)
    assert_close(gradient(expectation(k1)), torch.zeros(5, dtype=torch.double))
    assert_close(gradient(expectation(k3)), other_way)


def test_the_score_stands_on_the_last_valid_token_and_the_penalty_on_each_rules_9_and_11():
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]], requires_grad=True)
    reference = torch.tensor([[-2.0, -2.0, -1.0], [-3.0, -0.5, -1.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])  # the first row was cut off, the second ended
    scores = torch.tensor([10.0, -4.0], requires_grad=True)
    found = penalised_rewards(scores, log_probs, reference, mask, coefficient=0.5)
    # row 0: -0.5·1, 0, -0.5·(-2) + 10; row 1: -0.5·2, -0.5·(-0.5) - 4, nothing beyond
    assert_close(found, torch.tensor([[-0.5, 0.0, 11.0], [-1.0, -3.75, 0.0]]))
    assert not found.requires_grad


def test_an_empty_response_is_refused():
    with pytest.raises(ValueError, match="no tokens"):
        penalised_rewards(
            torch.ones(1), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2).bool(), coefficient=1.0
        )


def test_five_updates_of_the_adaptive_coefficient_by_hand_rule_15():
    controller = AdaptiveKLController(0.15, target=6.0, horizon=10_000)
    kls = [12.0, 6.6, 6.0, 3.0, 5.4]  # errors +1 -> +.2, +.1, 0, -.5 -> -.2, -.1
    factors = [1.02, 1.01, 1.0, 0.98, 0.99]  # with 1000 responses of a horizon of 10,000
    expected = 0.15
    for kl, factor in zip(kls, factors, strict=True):
        expected *= factor
        assert controller.update(kl, 1000) == pytest.approx(expected)


def test_without_a_target_the_coefficient_stays():
    controller = AdaptiveKLController(0.3, target=None, horizon=10)
    assert controller.update(1000.0, 5) == 0.3
