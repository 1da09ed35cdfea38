"""A critic that is a head on the policy's own states: one pass for both, and the policy feels it only if asked to."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from rlhf_core.config import PolicyConfig
from rlhf_core.distributed import Group
from rlhf_core.errors import ConfigError
from rlhf_core.losses import clipped_value_loss
from rlhf_core.masking import join_sequences
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.training.ppo import PolicyTrainer
from rlhf_core.training.ppo_models import make_models
from tests.core.small_rounds import SMALL_ROUNDS, even_tokens

PROMPTS = [[1, 40, 41], [1, 50], [1, 60, 61, 62, 63, 64]]
SMALL = PolicyConfig(**SMALL_ROUNDS, critic_trunk="policy", lora_rank=2)


def make_trainer(palm, *, moved=True, **settings):
    config = replace(SMALL, **settings)
    torch.manual_seed(0)
    model = make_models(palm, config)
    if moved:  # not at the start: adapters whose B is 0 have gradients in one half alone
        with torch.no_grad():
            for parameter in (*model.actor_parameters(), *model.critic_parameters()):
                parameter += 0.05 * torch.randn_like(parameter)
    return PolicyTrainer(model, PROMPTS, even_tokens, config, 2)


def held(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def are_equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def one_minibatch(trainer, **settings):
    """The gradients of policy and head in one minibatch of all rows, as they reach the optimisers, and the lesson."""
    trainer.config = replace(trainer.config, minibatch_size=8, max_grad_norm=1e6, **settings)
    rollout = trainer.roll_out(0)
    moved = 0.3 * torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(1))
    rollout = replace(rollout, values=torch.where(rollout.mask, rollout.values + moved, 0.0))
    lessons = trainer.derive_lessons(rollout)
    model, rows, states = trainer.model, list(range(8)), []
    trainer.actor_optimizer = torch.optim.SGD(model.actor_parameters(), lr=0.0)
    trainer.critic_optimizer = torch.optim.SGD(model.critic_parameters(), lr=0.0)
    trainer.actor_step(rows, rollout, lessons, states=states)
    actor = torch.cat([parameter.grad.flatten() for parameter in model.actor_parameters()])
    trainer.critic_step(rows, rollout, lessons, states)
    assert torch.equal(actor, torch.cat([parameter.grad.flatten() for parameter in model.actor_parameters()]))
    return actor, [parameter.grad.clone() for parameter in model.critic_parameters()], rollout, lessons


@pytest.fixture
def passes(monkeypatch):
    """Whether gradients were on and how many rows there were, of each pass through a PaLM."""
    found = []
    run = PaLM.forward

    def watched(palm, x, *others, **options):
        found.append((torch.is_grad_enabled(), len(x)))
        return run(palm, x, *others, **options)

    monkeypatch.setattr(PaLM, "forward", watched)
    return found


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 0}, {"last_layers": 1}], ids=["adapters", "all", "last"])
@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_the_heads_gradient_is_that_of_a_pass_of_its_own_over_states_at_rest(make_palm, settings, micro_batch_size):
    trainer = make_trainer(make_palm(), **settings)
    _, (by_weight, by_bias), rollout, lessons = one_minibatch(trainer, micro_batch_size=micro_batch_size)
    model = trainer.model
    loss, count = 0.0, int(rollout.mask.sum())
    for row, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        with torch.no_grad():  # one row at a time, all its tokens
            states = model.palm(
                torch.tensor([[*prompt, *response]]), finetune_scope=model.actor_scope, return_only_embedding=True
            )[0]
        size = len(response)
        values = F.linear(states[len(prompt) - 1 : -1], model.value_head.weight, model.value_head.bias)[:, 0]
        old, returns = rollout.values[row, :size], lessons.returns[row, :size]
        loss = loss + clipped_value_loss(values, old, returns, clip=0.2)[0].sum() / count
    expected = torch.autograd.grad(loss, list(model.critic_parameters()))
    assert_close(by_weight, expected[0], rtol=1e-6, atol=1e-6)
    assert_close(by_bias, expected[1], rtol=1e-6, atol=1e-6)
    assert float(by_weight.norm()) > 1e-3


def test_the_policys_gradient_is_that_beside_a_critic_of_its_own(make_palm):
    found, _, rollout, lessons = one_minibatch(make_trainer(make_palm()))
    other = make_trainer(make_palm(), critic_trunk="own")
    other.model.palm.load_state_dict(make_trainer(make_palm()).model.palm.state_dict())
    other.config = replace(other.config, minibatch_size=8, max_grad_norm=1e6)
    other.actor_optimizer = torch.optim.SGD(other.model.actor_parameters(), lr=0.0)
    other.actor_step(list(range(8)), rollout, lessons)
    assert torch.equal(found, torch.cat([parameter.grad.flatten() for parameter in other.model.actor_parameters()]))


@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_with_a_coefficient_the_policys_gradient_is_that_of_both_losses(make_palm, micro_batch_size):
    alone, *_ = one_minibatch(make_trainer(make_palm()))
    trainer = make_trainer(make_palm(), value_loss_coefficient=0.5)
    found, head, rollout, lessons = one_minibatch(trainer, micro_batch_size=micro_batch_size)
    model, loss, count = trainer.model, 0.0, int(rollout.mask.sum())
    for row, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        states = model.palm(torch.tensor([[*prompt, *response]]), finetune_scope="actor", return_only_embedding=True)
        values = model.value_head(states[0, len(prompt) - 1 : -1])[:, 0]
        old, returns = rollout.values[row, : len(response)], lessons.returns[row, : len(response)]
        loss = loss + clipped_value_loss(values, old, returns, clip=0.2)[0].sum() / count
    by_value = torch.cat(
        [one.flatten() for one in torch.autograd.grad(loss, model.actor_parameters(), retain_graph=True)]
    )
    assert_close(found, alone + 0.5 * by_value, rtol=1e-4, atol=1e-6)
    assert float(by_value.norm()) > 1e-3
    # The head's own step is that of the plain value loss: the coefficient weighs it in the policy's alone.
    assert_close(head[0], torch.autograd.grad(loss, model.value_head.weight)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_the_gradients_of_two_processes_sum_up_to_that_of_one(make_palm, coefficient):
    settings = dict(value_loss_coefficient=coefficient, micro_batch_size=3)
    actor, head, rollout, lessons = one_minibatch(make_trainer(make_palm(), **settings))
    actors, heads = [], []
    for rank in (0, 1):
        trainer = make_trainer(make_palm(), **settings, max_grad_norm=1e6)
        model, states = trainer.model, []
        trainer.group = Group(rank, 2)  # sends nothing: what it gives is this process's share
        trainer.actor_optimizer = torch.optim.SGD(model.actor_parameters(), lr=0.0)
        trainer.critic_optimizer = torch.optim.SGD(model.critic_parameters(), lr=0.0)
        trainer.actor_step(list(range(8)), rollout, lessons, states=states)
        trainer.critic_step(list(range(8)), rollout, lessons, states)
        actors.append(torch.cat([parameter.grad.flatten() for parameter in model.actor_parameters()]))
        heads.append([parameter.grad for parameter in model.critic_parameters()])
    assert_close(actors[0] + actors[1], actor, rtol=1e-4, atol=1e-6)
    for one, other, both in zip(*heads, head, strict=True):
        assert_close(one + other, both, rtol=1e-5, atol=1e-6)


def test_settings_with_the_head_need_a_model_with_it(make_palm):
    with pytest.raises(ConfigError, match="critic_trunk = 'policy' is not permitted: only for a model whose values"):
        PolicyTrainer(ActorCritic(make_palm()), PROMPTS, even_tokens, SMALL, 2)


def test_a_coefficient_without_the_head_is_refused():
    words = "value_loss_coefficient = 0.5 is not permitted: 0 with critic_trunk shared"
    with pytest.raises(ConfigError, match=words):
        PolicyConfig(value_loss_coefficient=0.5)


def test_how_fast_the_head_learns_does_not_touch_the_policys_round(make_palm):
    slow, fast = (make_trainer(make_palm(), moved=False, critic_learning_rate=rate) for rate in (1e-5, 0.1))
    for trainer in (slow, fast):
        trainer.update(0)  # drawn with a head of 0 in both
    assert are_equal(slow.model.actor_parameters(), fast.model.actor_parameters())
    assert not are_equal(slow.model.critic_parameters(), fast.model.critic_parameters())


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_the_warm_up_teaches_the_head_and_leaves_the_policy_to_the_last_bit(make_palm, coefficient):
    trainer = make_trainer(make_palm(), critic_warmup_updates=3, value_loss_coefficient=coefficient)
    policy, head = held(trainer.model.palm.parameters()), held(trainer.model.critic_parameters())
    losses = [trainer.update(index)["value_loss"] for index in range(3)]
    assert are_equal(policy, trainer.model.palm.parameters())
    assert not are_equal(head, trainer.model.critic_parameters())
    assert losses[-1] < losses[0]
    trainer.update(3)
    assert not are_equal(policy, trainer.model.palm.parameters())


def test_a_minibatch_is_one_pass_and_a_rollout_two(make_palm, passes):
    trainer = make_trainer(make_palm())
    trainer.update(0)
    # Of 8 responses in parts of 4: reference and values each; then 2 epochs of 2 minibatches.
    assert passes == [(False, 4)] * 4 + [(True, 4)] * 4
    passes.clear()
    make_trainer(make_palm(), micro_batch_size=2).update(0)
    assert passes == [(False, 2)] * 8 + [(True, 2)] * 8
    passes.clear()
    make_trainer(make_palm(), critic_warmup_updates=1).update(0)
    assert [grad for grad, _ in passes] == [False] * len(passes)  # the policy at rest gives its states without
    passes.clear()
    make_trainer(make_palm(), critic_trunk="shared").update(0)
    assert passes == [(False, 4)] * 4 + [(True, 4)] * 8


def test_the_values_of_a_rollout_are_read_off_the_policys_states_adapters_included(make_palm):
    model = make_trainer(make_palm()).model
    sequences = join_sequences([[1, 5, 6], [1, 7]], [[10, 11, 2], [12, 13, 14, 15, 2]])
    values = model.values(sequences)
    states = model.palm(torch.tensor([[1, 7, 12, 13]]), finetune_scope="actor", return_only_embedding=True)[0, 1:]
    assert_close(values[1, :3], model.value_head(states)[:, 0])
    values.sum().backward()
    assert all(parameter.grad is None for parameter in model.palm.parameters())
    assert model.value_head.weight.grad is not None
    bare = model.palm(torch.tensor([[1, 7, 12, 13]]), return_only_embedding=True)[0, 1:]
    assert float((values[1, :3] - model.value_head(bare)[:, 0]).detach().abs().max()) > 1e-4


def test_policy_head_and_reference_stand_on_one_trunk(make_palm):
    palm = make_palm()
    model = make_models(palm, SMALL)
    assert model.palm is model.critic_trunk is palm
    assert model.reference_palm is model.critic_palm is None
    assert list(palm.lora) == ["actor"]
    assert [tuple(parameter.shape) for parameter in model.critic_parameters()] == [(1, 32), (1,)]
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert learning == {id(parameter) for parameter in (*model.actor_parameters(), *model.critic_parameters())}


def test_the_head_rests_with_a_policy_that_went_too_far(make_palm):
    trainer = make_trainer(make_palm(), ppo_epochs=3, learning_rate=0.05, kl_early_stop=1e-3)
    taken = []
    step = trainer.critic_step
    trainer.critic_step = lambda *arguments: (taken.append(1), step(*arguments))[1]
    found = trainer.update(0)
    assert 0 < found["skipped_steps"] < 6
    assert len(taken) == 6 - found["skipped_steps"]


def test_activation_checkpointing_changes_no_gradient(make_palm):
    plain, checkpointed = (make_trainer(make_palm(), activation_checkpointing=is_on) for is_on in (False, True))
    actor, head, *_ = one_minibatch(plain)
    other_actor, other_head, *_ = one_minibatch(checkpointed)
    assert torch.equal(actor, other_actor)
    assert are_equal(head, other_head)


def test_a_head_with_bins_learns_from_the_policys_pass(make_palm):
    torch.manual_seed(0)
    model = ActorCritic(make_palm(), critic_dim_out=6, value_range=(-1.0, 2.0), values_from_policy=True)
    trainer = PolicyTrainer(model, PROMPTS, even_tokens, replace(SMALL, critic_learning_rate=0.05), 2)
    losses = [trainer.update(index)["value_loss"] for index in range(4)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"critic_lora_rank": 4}, "critic_lora_rank = 4 is not permitted: empty with critic_trunk policy"),
        ({"critic_lora_rank": 0}, "critic_lora_rank = 0 is not permitted: empty with critic_trunk policy"),
        ({"critic_last_layers": 1}, "critic_last_layers = 1 is not permitted: 0 with critic_trunk policy"),
        ({"algorithm": "rloo"}, "critic_trunk = 'policy' is not permitted: shared, own or reward-model with rloo"),
        ({"algorithm": "grpo"}, "critic_trunk = 'policy' is not permitted: shared, own or reward-model with grpo"),
    ],
)
def test_a_critic_of_its_own_beside_the_head_is_refused_by_setting_and_cure(settings, words):
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **settings)


@pytest.mark.parametrize("name", ["critic", "pooled_values", "critic_last_layers"])
def test_an_actor_critic_with_the_head_takes_no_critic_of_its_own(make_palm, name):
    given = {"critic": make_palm(), "pooled_values": True, "critic_last_layers": 1}[name]
    with pytest.raises(ConfigError, match=f"^{name} = .* is not permitted: leave {name} out, since values_from_policy"):
        ActorCritic(make_palm(), values_from_policy=True, **{name: given})
