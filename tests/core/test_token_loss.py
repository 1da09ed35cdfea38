"""Losses of log-probabilities taken chunk by chunk, against the plain formulas over all logits at once."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from rlhf_core.modules import token_loss as module
from rlhf_core.modules.token_loss import mean_cross_entropy, token_loss


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Three tokens at a time: seven tokens make three chunks, the last of one."""
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 3)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 1)


def make(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((7, 4), (11, 4)))
    targets = torch.randint(11, (7,), generator=generator)
    return states.requires_grad_(), weight.requires_grad_(), targets


def odd_loss(log_probs, entropies, part):
    """One that is linear in neither and differs from token to token."""
    weights = torch.arange(7, dtype=log_probs.dtype)[part] - 2.0
    return (weights * log_probs.exp() + (weights * entropies).square()).sum()


def plain(states, weight, targets, temperature):
    log_probs = (F.linear(states, weight) / temperature).log_softmax(dim=-1)
    return log_probs.gather(1, targets[:, None])[:, 0], -(log_probs.exp() * log_probs).sum(dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("frozen", ["", "states", "weight"])
@pytest.mark.parametrize(
    "loss_of",
    [
        odd_loss,
        lambda log_probs, entropies, part: -log_probs.sum(),
        lambda log_probs, entropies, part: entropies.sum(),
        lambda log_probs, entropies, part: (log_probs * entropies.detach()).sum(),
        lambda log_probs, entropies, part: (-log_probs.exp() + 0.1 * entropies).sum(),
    ],
)
def test_values_and_gradients_are_those_of_all_logits_at_once(loss_of, temperature, frozen):
    states, weight, targets = make()
    {"states": states, "weight": weight}.get(frozen, torch.empty(0)).requires_grad_(False)
    wanted_log_probs, wanted_entropies = plain(states, weight, targets, temperature)
    wanted = loss_of(wanted_log_probs, wanted_entropies, slice(None))
    (2 * wanted).backward()
    gradients = states.grad, weight.grad
    states.grad = weight.grad = None
    found = token_loss(states, weight, targets, loss_of, temperature=temperature, with_entropies=True)
    (2 * found.loss).backward()
    assert_close(found, (wanted.detach(), wanted_log_probs.detach(), wanted_entropies.detach()))
    assert_close([x for x in (states.grad, weight.grad) if x is not None], [x for x in gradients if x is not None])
    assert (states.grad is None, weight.grad is None) == (frozen == "states", frozen == "weight")


def test_the_gradient_is_that_of_the_function():
    states, weight, targets = make()
    assert torch.autograd.gradcheck(
        lambda *x: token_loss(*x, targets, odd_loss, temperature=0.8, with_entropies=True).loss, (states, weight)
    )
    assert torch.autograd.gradcheck(lambda *x: mean_cross_entropy(*x, targets), (states, weight))


def test_the_mean_cross_entropy_is_torchs():
    states, weight, targets = make(torch.float32)
    assert_close(mean_cross_entropy(states, weight, targets), F.cross_entropy(F.linear(states, weight), targets))


def test_an_unlikely_token_keeps_its_log_probability():
    weight = torch.tensor([[0.0], [1.0]])
    found = token_loss(torch.tensor([[200.0]]), weight, torch.tensor([0]), lambda log_probs, _, __: log_probs.sum())
    assert found.log_probs.tolist() == [-200.0]  # its probability is below what float32 can hold
    assert found.loss.item() == -200.0


def test_nothing_is_differentiated_where_gradients_are_off():
    states, weight, targets = make()
    with torch.no_grad():
        found = token_loss(states, weight, targets, odd_loss, with_entropies=True)
    assert not found.loss.requires_grad
    assert_close(found.loss, odd_loss(*plain(states, weight, targets, 1.0), slice(None)).detach())


def test_a_bfloat16_model_has_its_sums_in_float32():
    states, weight, targets = make(torch.bfloat16)
    found = token_loss(states, weight, targets, odd_loss, with_entropies=True)
    found.loss.backward()
    assert found.loss.dtype == found.log_probs.dtype == torch.float32
    assert states.grad.dtype == weight.grad.dtype == torch.bfloat16


def test_autocast_does_not_reach_the_logits():
    states, weight, targets = make(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_loss(states.bfloat16().float(), weight, targets, odd_loss, with_entropies=True)
        found.loss.backward()
    assert_close(found.log_probs, plain(states.bfloat16().float(), weight, targets, 1.0)[0].detach())


def test_logits_are_never_all_held(monkeypatch):
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 16)
    rows = []
    multiply = module.multiply
    monkeypatch.setattr(module, "multiply", lambda x, weight: rows.append(len(x)) or multiply(x, weight))
    states, weight = torch.randn(100, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    token_loss(states, weight, torch.zeros(100, dtype=torch.long), lambda log_probs, _, __: log_probs.sum())
    assert max(rows) == 16
    assert sum(rows) == 2 * 100  # logits and the states' gradient, each made once
