"""What a policy run trains: which weights learn, where the critic starts, and what it may be rewarded by."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import PolicyConfig
from rlhf_core.errors import ConfigError, ScoreError, TrainingDiverged
from rlhf_core.masking import join_sequences
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import write_prompts
from rlhf_core.training.ppo import PolicyTrainer, train_policy
from rlhf_core.training.ppo_models import make_models
from rlhf_core.training.run_directory import RunDirectory

PROMPTS = [[1, 40, 41], [1, 50]]
SMALL = PolicyConfig(
    updates=2,
    rollout_batch_size=4,
    minibatch_size=2,
    ppo_epochs=1,
    max_new_tokens=5,
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    critic_warmup_updates=0,
    lora_rank=2,
)


def ones(prompts, responses):
    return torch.ones(len(responses))


def trained_reward_model(make_palm, **head):
    """A reward model none of whose parts stands where it begins."""
    reward_model = RewardModel(make_palm(seed=3), **{"num_binned_output": 5, "dropout": 0.0, **head}).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in reward_model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        reward_model.reward_mean.fill_(1.5)
        reward_model.reward_std.fill_(0.4)
    return reward_model


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"use_lora": False},
        {"num_binned_output": 0},
        {"num_binned_output": 1},
        {"num_binned_output": 9},
        {"head": "ordinal"},
        {"head": "pairwise", "num_binned_output": 0, "pooling": "last"},
    ],
)
def test_a_critic_that_starts_from_the_reward_model_values_a_state_by_its_score(make_palm, head):
    reward_model = trained_reward_model(make_palm, **head)
    model = make_models(make_palm(), replace(SMALL, critic_trunk="reward-model"), reward_model)
    # The value before the second token is read off the first one alone: the score of a response of one token.
    prompts, first = [[1, 5, 6], [1, 7]], [[10], [12]]
    values = model.values(join_sequences(prompts, [[*token, 99] for token in first]))[:, 1]
    assert_close(values.detach(), reward_model.score(join_sequences(prompts, first)))
    learning = {id(parameter) for parameter in model.critic_parameters()}
    assert id(model.segments) in learning
    assert not learning & {id(parameter) for parameter in reward_model.parameters()}


def test_a_critic_from_the_reward_model_learns_and_is_resumed(make_palm):
    config = replace(SMALL, critic_trunk="reward-model", critic_last_layers=1, updates=8, critic_warmup_updates=8)

    def make():
        torch.manual_seed(0)
        model = make_models(make_palm(), config, trained_reward_model(make_palm))
        return PolicyTrainer(model, PROMPTS, ones, config, None)

    trainer = make()
    losses = [trainer.update(index)["value_loss"] for index in range(4)]
    assert losses[-1] < losses[0]
    other = make()
    other.restore(*trainer.capture({}))
    assert torch.equal(other.model.segments, trainer.model.segments)
    one, another = trainer.update(4), other.update(4)
    del one["tokens_per_second"], another["tokens_per_second"]
    assert one == another


@pytest.mark.parametrize(
    ("shape", "words"),
    [({"dim": 48}, "width 48"), ({"num_tokens": 300}, "300 tokens"), ({"causal": False}, "not causal")],
)
def test_a_reward_model_that_does_not_fit_is_refused_as_the_critics_start(make_palm, shape, words):
    reward_model = RewardModel(make_palm(**shape), num_binned_output=5)
    with pytest.raises(ConfigError, match=f"width 32 and 259 tokens; this one .*{words}"):
        make_models(make_palm(), replace(SMALL, critic_trunk="reward-model"), reward_model)


def test_a_critic_cannot_start_from_an_ensemble(make_palm):
    reward_model = RewardModel(make_palm(), num_binned_output=5, ensemble=2)
    with pytest.raises(ConfigError, match="only with a reward model of one member; this one is an ensemble of 2"):
        make_models(make_palm(), replace(SMALL, critic_trunk="reward-model"), reward_model)


def test_a_critic_cannot_start_from_a_reward_model_that_there_is_not(make_palm):
    with pytest.raises(ConfigError, match="critic_trunk = 'reward-model' is not permitted: only where a reward model"):
        make_models(make_palm(), replace(SMALL, critic_trunk="reward-model"))


@pytest.mark.parametrize("name", ["last_layers", "critic_last_layers"])
def test_more_last_layers_than_blocks_are_refused_by_the_settings_name(make_palm, name):
    with pytest.raises(ConfigError, match=f"^{name} = 3 is not permitted: at most 2"):
        make_models(make_palm(), replace(SMALL, **{name: 3}))


def test_a_critic_may_have_a_trunk_and_a_rank_of_its_own(make_palm):
    model = make_models(make_palm(), replace(SMALL, critic_trunk="own", critic_lora_rank=4))
    assert model.critic_trunk is not model.palm
    assert not {id(p) for p in model.critic_trunk.parameters()} & {id(p) for p in model.palm.parameters()}
    assert model.critic_trunk.scope_adapters("critic")[0].q.rank == 4
    assert model.palm.scope_adapters("actor")[0].q.rank == 2
    assert set(model.palm.lora) == {"actor"}
    whole = make_models(make_palm(), replace(SMALL, critic_lora_rank=0))
    assert whole.critic_scope is None
    assert whole.actor_scope == "actor"


@pytest.mark.parametrize(
    "settings",
    [
        {"last_layers": 1},
        {"last_layers": 1, "critic_last_layers": 2, "micro_batch_size": 1},
        {"lora_rank": 0, "critic_lora_rank": 2, "activation_checkpointing": True},
        {"critic_trunk": "own"},
        {"critic_trunk": "reward-model", "critic_lora_rank": 0},
        {"critic_trunk": "policy"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_every_way_of_learning_makes_a_policy(
    tmp_path, policy_path, reward_model_path, some_prompts, make_palm, settings
):
    write_prompts(tmp_path / "prompts.jsonl", some_prompts)
    run = RunDirectory.create(
        tmp_path / "run",
        kind="policy",
        config=replace(SMALL, **settings),
        store=tmp_path / "store",
        policy=policy_path,
        reward_model=reward_model_path,
        prompts=tmp_path / "prompts.jsonl",
    )
    train_policy(run)
    palm, _, manifest = load_policy(run.result["outputs"][0]["path"])
    assert manifest["meta"]["config"] | settings == manifest["meta"]["config"]
    parent = make_palm().state_dict()
    moved = {name for name, tensor in palm.state_dict().items() if not torch.equal(tensor, parent[name])}
    assert moved
    if "last_layers" in settings:
        assert all(name.startswith(("blocks.1.", "norm.")) for name in moved)


# Rewards


def rolled_out(make_palm, score):
    torch.manual_seed(0)
    return PolicyTrainer(make_models(make_palm(), SMALL), PROMPTS, score, SMALL, None).roll_out(0)


@pytest.mark.parametrize(
    "found",
    [[0.5, 1, 2, -1.0], (0.5, 1, 2, -1.0), np.array([0.5, 1, 2, -1.0]), torch.tensor([0.5, 1, 2, -1.0]).double()],
)
def test_a_reward_may_give_a_list_an_array_or_a_tensor(make_palm, found):
    assert_close(rolled_out(make_palm, lambda prompts, responses: found).scores, torch.tensor([0.5, 1, 2, -1.0]))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (torch.zeros(3), r"gave the shape \(3,\) for 4 responses; 4 finite numbers are needed"),
        (torch.zeros(4, 1), r"gave the shape \(4, 1\) for 4 responses"),
        (torch.tensor(0.0), r"gave the shape \(\) for 4 responses"),
        (np.zeros((4, 2)), r"gave the shape \(4, 2\) for 4 responses"),
        ([1.0, 2.0], "gave 2 scores for 4 responses"),
        ([1.0, 2.0, "good", 3.0], "gave 'good' for row 2, which is no number"),
        ([1.0, [2.0], 3.0, 3.0], r"gave \[2.0\] for row 1"),
        (1.0, "gave a float for 4 responses"),
        (None, "gave a NoneType for 4 responses"),
        ("1234", "gave a str for 4 responses"),
    ],
)
def test_a_reward_of_another_form_is_refused_by_row_and_cure(make_palm, found, words):
    with pytest.raises(ScoreError, match=words):
        rolled_out(make_palm, lambda prompts, responses: found)


def test_a_score_that_is_not_finite_is_named_with_its_row_and_response(make_palm):
    seen = []

    def score(prompts, responses):
        seen.extend(responses)
        return [0.0, 1.0, float("inf"), float("nan")]

    with pytest.raises(TrainingDiverged) as caught:
        rolled_out(make_palm, score)
    assert f"a score is not finite: inf for row 2, whose response begins with the tokens {seen[2]}" in str(caught.value)
    assert "2 of 4" in str(caught.value)
    assert "a finite number for every response" in str(caught.value)
