import pytest
import torch
from torch.testing import assert_close

from rlhf_core.errors import ConfigError
from rlhf_core.masking import Sequences, join_sequences
from rlhf_core.modules.actor_critic import ActorCritic, before_response

PROMPTS, RESPONSES = [[1, 5, 6], [1, 7]], [[10, 11, 2], [12, 13, 14, 15, 2]]


def jiggle(parameters):
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def test_policy_critic_and_reference_share_one_frozen_base(make_palm):
    palm = make_palm()
    model = ActorCritic(palm, critic_dim_out=1)
    assert model.palm is model.critic_trunk is palm
    assert model.reference_palm is None
    assert all(not parameter.requires_grad for parameter in palm.palm_parameters())
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert learning == {id(parameter) for parameter in (*model.actor_parameters(), *model.critic_parameters())}


def test_values_start_at_zero_rule_25(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    values = model.values(join_sequences(PROMPTS, RESPONSES))
    assert torch.equal(values, torch.zeros(2, 5))
    binned = ActorCritic(make_palm(), critic_dim_out=6, value_range=(-1.0, 1.0))
    assert_close(binned.values(join_sequences(PROMPTS, RESPONSES)), torch.zeros(2, 5))


def test_a_value_belongs_to_the_state_before_its_token_rule_16(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    jiggle(model.critic_parameters())
    values = model.values(join_sequences(PROMPTS, RESPONSES))
    changed = model.values(join_sequences(PROMPTS, [[10, 99, 2], RESPONSES[1]]))
    assert_close(changed[0, :2], values[0, :2])  # V_1 was read before token 1 was drawn, so it cannot know it
    assert float((changed[0, 2] - values[0, 2]).detach().abs()) > 1e-4
    counted = before_response(torch.arange(8.0).expand(2, 8), join_sequences(PROMPTS, RESPONSES))
    assert counted[0, :3].tolist() == [2, 3, 4]  # the prompt's last position, then those of the tokens before
    assert counted[1].tolist() == [1, 2, 3, 4, 5]


def test_the_pooled_value_reads_the_prompt_alone(make_palm):
    model = ActorCritic(make_palm(), pooled_values=True, critic_dim_out=1)
    jiggle(model.critic_parameters())
    values = model.values(join_sequences(PROMPTS, RESPONSES))
    other = model.values(join_sequences(PROMPTS, [[99, 98, 97], [96, 95, 94, 93, 92]]))
    assert torch.equal(values, other)  # a baseline that had seen the action would cancel the signal
    assert_close(values[:, 0], values[:, 2])


def test_the_reference_does_not_move_with_the_policy_rules_12_and_45(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    before = model.reference_log_probs(PROMPTS, RESPONSES)
    assert torch.equal(model.log_probs(PROMPTS, RESPONSES).log_probs, before)  # KL is exactly 0 at the start
    jiggle(model.actor_parameters())
    assert torch.equal(model.reference_log_probs(PROMPTS, RESPONSES), before)
    assert float((model.log_probs(PROMPTS, RESPONSES).log_probs - before).detach().abs().max()) > 1e-3


def test_without_lora_each_part_has_weights_of_its_own(make_palm):
    palm = make_palm()
    model = ActorCritic(palm, actor_lora=False, critic_lora=False, critic_dim_out=1)
    before = model.reference_log_probs(PROMPTS, RESPONSES)
    values = model.values(join_sequences(PROMPTS, RESPONSES)).detach()
    jiggle(model.actor_parameters())
    assert torch.equal(model.reference_log_probs(PROMPTS, RESPONSES), before)
    assert torch.equal(model.values(join_sequences(PROMPTS, RESPONSES)), values)
    assert not {id(p) for p in model.actor_parameters()} & {id(p) for p in model.critic_parameters()}
    assert all(not parameter.requires_grad for parameter in model.reference_palm.parameters())


@pytest.mark.parametrize(("actor_lora", "critic_lora"), [(True, False), (False, True)])
def test_either_part_may_go_without_lora(make_palm, actor_lora, critic_lora):
    model = ActorCritic(make_palm(), actor_lora=actor_lora, critic_lora=critic_lora, critic_dim_out=1)
    model.log_probs(PROMPTS, RESPONSES).log_probs.sum().backward()
    assert all(parameter.grad is None for parameter in model.critic_parameters())
    jiggle(model.value_head.parameters())
    model.zero_grad(set_to_none=True)
    model.values(join_sequences(PROMPTS, RESPONSES)).sum().backward()
    assert all(parameter.grad is None for parameter in model.actor_parameters())
    assert any(parameter.grad is not None for parameter in model.critic_parameters())


def test_log_probs_and_values_ignore_neighbours_and_padding_rule_1(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    jiggle([*model.actor_parameters(), *model.critic_parameters()])
    together = model.log_probs(PROMPTS, RESPONSES, temperature=0.7)
    sequences = join_sequences(PROMPTS, RESPONSES)
    values = model.values(sequences)
    for row in range(2):
        alone = model.log_probs(PROMPTS[row : row + 1], RESPONSES[row : row + 1], temperature=0.7)
        length = len(RESPONSES[row])
        assert_close(together.log_probs[row, :length], alone.log_probs[0])
        one = model.values(sequences.rows(torch.tensor([row])))
        assert_close(values[row, :length], one[0])
    assert together.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_forward_gives_logits_and_values(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    x = torch.randint(0, 259, (2, 7))
    logits, values = model(x, prompt_lengths=torch.tensor([3, 4]))
    assert logits.shape == (2, 7, 259)
    assert values.shape == (2, 4)
    assert model(x)[1].shape == (2, 6)


def test_generate_continues_prompts_and_marks_what_is_real(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    found = model.generate(torch.tensor([[1, 5, 6], [1, 7, 8]]), 12, eos_token=2)
    assert found.sequence.shape[0] == 2
    assert found.sequence.shape[1] <= 12
    assert torch.equal(found.sequence[:, :3], torch.tensor([[1, 5, 6], [1, 7, 8]]))
    assert torch.equal(found.sequence[:, 3:], found.actions)
    assert found.prompt_mask.sum().item() == 6
    again = model.generate(torch.tensor([[1, 5, 6], [1, 7, 8]]), 12, eos_token=2)
    assert torch.equal(again.sequence, found.sequence)


def test_rows_are_cut_to_the_longest_of_them():
    sequences = join_sequences(PROMPTS, RESPONSES)
    assert isinstance(sequences, Sequences)
    assert sequences.tokens.tolist() == [[1, 5, 6, 10, 11, 2, 0], [1, 7, 12, 13, 14, 15, 2]]
    assert sequences.response_lengths.tolist() == [3, 5]
    assert sequences.rows(torch.tensor([0])).tokens.tolist() == [[1, 5, 6, 10, 11, 2]]


def scores_of(model):
    return model.log_probs(PROMPTS, RESPONSES).log_probs.detach()


def storage(*modules):
    """Numbers that some modules hold together, what they share counted once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


@pytest.mark.parametrize("critic", ["lora", "last", "all"])
@pytest.mark.parametrize("actor", ["lora", "last", "all"])
def test_policy_and_critic_learn_what_they_are_told_and_nothing_moves_the_reference(make_palm, actor, critic):
    palm = make_palm(depth=3)
    start = {name: tensor.clone() for name, tensor in palm.state_dict().items()}
    ways = {
        f"{part}_{name}": value
        for part, way in (("actor", actor), ("critic", critic))
        for name, value in (("lora", way == "lora"), ("last_layers", 2 if way == "last" else 0))
    }
    model = ActorCritic(palm, critic_dim_out=1, **ways)
    before, values = scores_of(model), model.values(join_sequences(PROMPTS, RESPONSES)).detach()
    assert torch.equal(model.reference_log_probs(PROMPTS, RESPONSES), before)
    jiggle(model.actor_parameters())
    moved = scores_of(model)
    assert float((moved - before).abs().max()) > 1e-3
    assert torch.equal(model.values(join_sequences(PROMPTS, RESPONSES)), values)
    jiggle(model.critic_parameters())
    assert float((model.values(join_sequences(PROMPTS, RESPONSES)) - values).detach().abs().max()) > 1e-3
    assert torch.equal(scores_of(model), moved)
    assert torch.equal(model.reference_log_probs(PROMPTS, RESPONSES), before)
    changed = {
        name for name, tensor in palm.state_dict().items() if name in start and not torch.equal(tensor, start[name])
    }
    expected = {"lora": set(), "all": set(start)}.get(
        actor, {name for name in start if name.startswith(("blocks.1.", "blocks.2.", "norm."))}
    )
    assert changed == expected
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert learning == {id(parameter) for parameter in (*model.actor_parameters(), *model.critic_parameters())}


def test_the_reference_of_last_layers_holds_those_layers_alone(make_palm):
    palm = make_palm(depth=4)
    whole, block, gain = storage(palm), storage(palm.blocks[0]), storage(palm.norm)
    model = ActorCritic(palm, actor_last_layers=1, critic_last_layers=2, critic_dim_out=1)
    assert storage(model.palm, model.reference_palm) == whole + block + gain
    assert storage(model.palm, model.reference_palm, model.critic_palm) == whole + 3 * block + 2 * gain
    assert model.critic_trunk.blocks[0] is palm.blocks[0]
    # A critic with adapters lives on the reference's weights, which stay as they are.
    model = ActorCritic(make_palm(depth=4), actor_last_layers=1, critic_dim_out=1)
    assert model.critic_trunk is model.reference_palm


def test_a_state_of_last_layers_is_small_and_comes_back(make_palm):
    def make():
        return ActorCritic(make_palm(depth=4), actor_last_layers=1, critic_last_layers=1, critic_dim_out=1)

    model = make()
    jiggle([*model.actor_parameters(), *model.critic_parameters()])
    state = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    assert sum(tensor.numel() for tensor in state.values()) == sum(
        parameter.numel() for parameter in (*model.actor_parameters(), *model.critic_parameters())
    )
    other = make()
    other.load_state_dict(state, strict=False)
    assert torch.equal(scores_of(other), scores_of(model))
    sequences = join_sequences(PROMPTS, RESPONSES)
    assert torch.equal(other.values(sequences), model.values(sequences))
    assert torch.equal(other.reference_log_probs(PROMPTS, RESPONSES), model.reference_log_probs(PROMPTS, RESPONSES))


def test_the_gradient_of_last_layers_reaches_nothing_below_them(make_palm):
    model = ActorCritic(make_palm(depth=3), actor_last_layers=1, critic_last_layers=1, critic_dim_out=1)
    model.log_probs(PROMPTS, RESPONSES).log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.actor_parameters())
    assert all(parameter.grad is None for parameter in model.critic_parameters())
    assert all(parameter.grad is None for block in model.palm.blocks[:2] for parameter in block.parameters())


@pytest.mark.parametrize("layers", [-1, 3])
def test_more_last_layers_than_there_are_is_refused(make_palm, layers):
    with pytest.raises(ConfigError, match="1 to 2, which is how many blocks there are"):
        ActorCritic(make_palm(), actor_last_layers=layers)
