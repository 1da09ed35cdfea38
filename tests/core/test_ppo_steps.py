"""The optimiser steps of PPO: the same gradient whatever memory they are given, and an end where they went too far."""

from dataclasses import replace

import pytest
import torch

from rlhf_core.config import PolicyConfig
from rlhf_core.distributed import Group
from rlhf_core.kl import k3
from rlhf_core.losses import aggregate_loss, clipped_policy_loss
from rlhf_core.masking import masked_mean
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.training.ppo import PolicyTrainer
from tests.core.small_rounds import even_tokens

PROMPTS = [[1, 40, 41], [1, 50], [1, 60, 61, 62, 63, 64]]
SMALL = dict(updates=4, rollout_batch_size=8, minibatch_size=8, ppo_epochs=2, max_new_tokens=8, critic_warmup_updates=0)


def make_trainer(palm, *, lora=True, **settings):
    torch.manual_seed(0)
    model = ActorCritic(palm, actor_lora=lora, critic_lora=lora, critic_dim_out=1)
    with torch.no_grad():  # not at the start: adapters whose B is 0 have gradients in one half alone
        for parameter in (*model.actor_parameters(), *model.critic_parameters()):
            parameter += 0.02 * torch.randn_like(parameter)
    return PolicyTrainer(model, PROMPTS, even_tokens, PolicyConfig(**{**SMALL, **settings}), 2)


def ragged(trainer):
    """A rollout of responses of 1 to 8 tokens, some cut, drawn by a policy that has since moved, and its lessons."""
    rollout = trainer.roll_out(0)
    lengths = [8, 3, 5, 1, 7, 2, 8, 4]
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    moved = 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    rollout = replace(
        rollout,
        responses=[
            [*response, *range(70, 78)][:length] for response, length in zip(rollout.responses, lengths, strict=True)
        ],
        mask=mask,
        ended=torch.tensor([True, False] * 4),
    )
    now = trainer.model.log_probs(rollout.prompts, rollout.responses, temperature=trainer.config.temperature)
    rollout = replace(
        rollout,
        log_probs=torch.where(mask, now.log_probs.detach() + moved, 0.0),
        reference_log_probs=torch.where(mask, now.log_probs.detach() - moved, 0.0),
        values=torch.where(mask, moved, 0.0),
    )
    return rollout, trainer.derive_lessons(rollout)


def gradients(trainer, part, rollout, lessons):
    """The gradient of one step as it reaches the optimiser, and the step's metrics."""
    parameters = getattr(trainer.model, f"{part}_parameters")()
    setattr(trainer, f"{part}_optimizer", torch.optim.SGD(parameters, lr=0.0))
    metrics = getattr(trainer, f"{part}_step")(list(range(8)), rollout, lessons)
    return torch.cat([parameter.grad.flatten() for parameter in parameters]), metrics


def same(x):
    return x


def relative_difference(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("lora", [True, False])
def test_the_policy_step_has_the_gradient_of_the_plain_formula_rule_38(make_palm, lora):
    trainer = make_trainer(make_palm(), lora=lora, temperature=0.7, entropy_coefficient=0.3, max_grad_norm=1e6)
    rollout, lessons = ragged(trainer)
    found, metrics = gradients(trainer, "actor", rollout, lessons)
    now = trainer.model.log_probs(rollout.prompts, rollout.responses, temperature=0.7)  # all logits, by autograd
    surrogate = clipped_policy_loss(now.log_probs, rollout.log_probs, lessons.advantages, clip_low=0.2)
    loss = aggregate_loss(surrogate.per_token, rollout.mask)
    entropy = masked_mean(now.entropies, rollout.mask)
    expected = torch.autograd.grad(loss - 0.3 * entropy, trainer.model.actor_parameters())
    assert relative_difference(found, torch.cat([one.flatten() for one in expected])) < 1e-5
    ratios = surrogate.ratios[rollout.mask]
    assert metrics["policy_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert metrics["entropy"] == pytest.approx(float(entropy.detach()), rel=1e-4)
    assert metrics["clip_fraction"] == pytest.approx(float(surrogate.clipped[rollout.mask].float().mean()))
    assert (metrics["ratio_min"], metrics["ratio_max"]) == pytest.approx((float(ratios.min()), float(ratios.max())))
    drift = k3(rollout.log_probs, now.log_probs)[rollout.mask].mean()
    assert metrics["approx_kl"] == pytest.approx(float(drift.detach()), rel=1e-3)


def test_a_policy_step_keeps_no_logits_for_its_backward_pass_rule_38(make_palm):
    vocabulary = 20_000
    trainer = make_trainer(PaLM(dim=16, num_tokens=vocabulary, depth=1, dim_head=8, heads=2, ff_mult=1))
    rollout, lessons = ragged(trainer)
    kept: list[int] = []
    weight = trainer.model.palm.token_emb.weight.numel()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], same):
        trainer.actor_step(list(range(8)), rollout, lessons)
    assert kept
    assert all(size in (weight,) or size < vocabulary for size in kept)


@pytest.mark.parametrize("micro_batch_size", [1, 3])
@pytest.mark.parametrize("part", ["actor", "critic"])
@pytest.mark.parametrize("exclude", [False, True])
def test_micro_batches_make_the_gradient_of_the_whole_minibatch_rule_24(make_palm, part, micro_batch_size, exclude):
    trainer = make_trainer(make_palm(), entropy_coefficient=0.1, exclude_truncated=exclude, max_grad_norm=1e6)
    rollout, lessons = ragged(trainer)
    whole, expected = gradients(trainer, part, rollout, lessons)
    trainer.config = replace(trainer.config, micro_batch_size=micro_batch_size)
    found, metrics = gradients(trainer, part, rollout, lessons)
    assert relative_difference(found, whole) < 1e-6
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("bins", [1, 6])
def test_a_critic_with_or_without_bins_learns_alike_in_micro_batches(make_palm, bins):
    torch.manual_seed(0)
    model = ActorCritic(make_palm(), critic_dim_out=bins, value_range=(-3.0, 3.0))
    trainer = PolicyTrainer(model, PROMPTS, even_tokens, PolicyConfig(**SMALL, max_grad_norm=1e6), 2)
    rollout, lessons = ragged(trainer)
    whole, _ = gradients(trainer, "critic", rollout, lessons)
    trainer.config = replace(trainer.config, micro_batch_size=2)
    found, _ = gradients(trainer, "critic", rollout, lessons)
    assert relative_difference(found, whole) < 1e-6


def test_micro_batches_hold_responses_of_like_length(make_palm, monkeypatch):
    trainer = make_trainer(make_palm(), micro_batch_size=2)
    rollout, lessons = ragged(trainer)
    seen = []
    whole = trainer.model.response_loss

    def watched(prompts, responses, *others, **options):
        seen.append([len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)])
        return whole(prompts, responses, *others, **options)

    monkeypatch.setattr(trainer.model, "response_loss", watched)
    trainer.actor_step(list(range(8)), rollout, lessons)
    lengths = sorted(len(a) + len(b) for a, b in zip(rollout.prompts, rollout.responses, strict=True))
    assert [length for part in seen for length in part] == lengths
    assert [len(part) for part in seen] == [2, 2, 2, 2]


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("part", ["actor", "critic"])
def test_activation_checkpointing_keeps_less_and_changes_no_gradient(make_palm, part, lora):
    kept = {}
    found = {}
    for is_on in (False, True):
        trainer = make_trainer(make_palm(), lora=lora, activation_checkpointing=is_on, max_grad_norm=1e6)
        rollout, lessons = ragged(trainer)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: (sizes.append(x.numel()), x)[1], lambda x: x
        ):
            found[is_on], _ = gradients(trainer, part, rollout, lessons)
        kept[is_on] = sum(sizes)
    assert torch.equal(found[True], found[False])
    assert kept[True] < kept[False]


def test_a_round_ends_early_where_the_policy_left_the_one_that_drew_it(make_palm):
    settings = dict(minibatch_size=4, ppo_epochs=3, learning_rate=0.05)
    free = make_trainer(make_palm(), **settings).update(0)
    assert free["skipped_steps"] == 0
    trainer = make_trainer(make_palm(), **settings, kl_early_stop=1e-3)
    calls = []
    step = trainer.critic_step
    trainer.critic_step = lambda *arguments: (calls.append(1), step(*arguments))[1]
    found = trainer.update(0)
    assert 0 < found["skipped_steps"] < 6
    assert len(calls) == 6 - found["skipped_steps"]  # the critic rests with the policy
    assert found["approx_kl"] < free["approx_kl"]
    again = trainer.update(1)  # the next round begins anew: its responses are fresh
    assert again["skipped_steps"] < 6


@pytest.mark.parametrize(("limit", "sums"), [(None, 1), (100.0, 2), (1e-6, 1)])
def test_how_far_the_policy_went_is_asked_of_all_processes_once(make_palm, limit, sums):
    class Counting(Group):
        asked = 0

        def sums(self, *values):
            self.asked += 1
            return super().sums(*values)

    trainer = make_trainer(make_palm(), kl_early_stop=limit)
    trainer.group = Counting()
    rollout, lessons = ragged(trainer)
    taken = trainer.actor_step(list(range(8)), rollout, lessons, may_refuse=True)
    assert (taken is None) == (limit == 1e-6)
    assert trainer.group.asked == sums  # one for the distance, if there is a limit, and one for the metrics


def test_the_step_that_would_go_on_from_too_far_is_not_taken(make_palm):
    trainer = make_trainer(make_palm(), kl_early_stop=1e-6)
    rollout, lessons = ragged(trainer)
    before = [parameter.detach().clone() for parameter in trainer.model.actor_parameters()]
    assert trainer.actor_step(list(range(8)), rollout, lessons, may_refuse=True) is None
    assert all(torch.equal(one, other) for one, other in zip(before, trainer.model.actor_parameters(), strict=True))
    assert trainer.actor_step(list(range(8)), rollout, lessons) is not None  # the first of a round is always taken
