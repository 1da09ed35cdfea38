"""What a first block feeds forward, looked up by token: the same as running it, and only while it stands still."""

import copy

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.modules import attention
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.known_tokens import KnownTokens

TOKENS = torch.tensor([[5, 9, 5, 7], [9, 9, 11, 5]])
ROWS = TOKENS.tolist()


@pytest.fixture
def fed(monkeypatch):
    """Rows of each run of a feed-forward part."""
    found = []
    run = attention.gated_feed_forward
    monkeypatch.setattr(
        attention, "gated_feed_forward", lambda x, *rest: found.append(x.shape[:-1].numel()) or run(x, *rest)
    )
    return found


def test_each_token_is_fed_forward_once(make_palm, fed):
    palm = make_palm()
    known = KnownTokens(palm.token_emb.weight, palm.each_block()[0])
    block = palm.each_block()[0]
    wanted = block.feed(block.norm(palm.embed(TOKENS)))
    fed.clear()
    assert_close(known.feed(TOKENS), wanted)
    assert fed == [4]  # 5, 7, 9 and 11
    assert_close(known.feed(torch.tensor([7, 30]))[0], wanted[0, 3])
    assert fed == [4, 1]


@pytest.mark.parametrize("recompute", [False, True])
def test_policy_critic_and_reference_give_the_same_with_it_and_run_it_less(make_palm, fed, recompute):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    model.recompute_blocks(recompute)
    parameters = [*model.actor_parameters(), *model.critic_parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)

    def run():
        fed.clear()
        policy = model.palm(TOKENS, finetune_scope="actor")
        critic = model.critic_trunk(TOKENS, finetune_scope="critic", return_only_embedding=True)
        loss = policy.square().mean() + model.value_head(critic).square().mean()
        return [policy, critic, model.palm(TOKENS), *torch.autograd.grad(loss, parameters)], list(fed)

    wanted, before = run()
    with model.remember_tokens(ROWS):
        found, within = run()
    for now, then in zip(found, wanted, strict=True):
        assert_close(now, then, atol=1e-5, rtol=1e-5)
    assert len(before) - len(within) == 3  # each pass runs one block less; the first needs no second run for a gradient
    assert run()[1] == before  # and no longer


def test_a_first_block_that_learns_is_never_looked_up(make_palm):
    model = ActorCritic(make_palm(), actor_lora=False, critic_lora=True, critic_dim_out=1)
    with model.remember_tokens(ROWS):
        assert model.palm.known_tokens is None  # its weights move
        assert model.reference_palm.known_tokens is not None  # and so does not the frozen copy, whose adapters learn
    assert model.reference_palm.known_tokens is None


def test_trunks_that_share_the_first_block_share_what_is_known_of_it(make_palm):
    model = ActorCritic(make_palm(), actor_last_layers=1, critic_last_layers=1, critic_dim_out=1)
    with model.remember_tokens(ROWS):
        assert model.palm.known_tokens is model.critic_palm.known_tokens is model.reference_palm.known_tokens
        assert copy.deepcopy(model.palm).known_tokens is None  # a copy may learn
        assert model.palm.known_tokens is not None


def test_it_is_forgotten_when_a_round_fails(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    with pytest.raises(KeyError), model.remember_tokens(ROWS):
        raise KeyError
    assert model.palm.known_tokens is None


def test_embeddings_added_to_the_tokens_are_not_overlooked(make_palm):
    model = ActorCritic(make_palm(), critic_dim_out=1)
    added = torch.linspace(-1, 1, model.palm.dim)
    wanted = model.palm(TOKENS, extra_embed=added)
    with model.remember_tokens(ROWS):
        assert_close(model.palm(TOKENS, extra_embed=added), wanted)
