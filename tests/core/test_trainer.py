import pytest
import torch

from rlhf_core import PaLM, RewardModel, RLHFTrainer, Tokenizer
from rlhf_core import trainer as trainer_module
from rlhf_core.config import METRICS
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.records import Prompt, write_prompts
from rlhf_core.training.ppo import PolicyTrainer

TINY = dict(num_episodes=2, max_timesteps=6, update_timesteps=8, max_batch_size=4, max_seq_len=16)


@pytest.fixture
def parts(make_palm):
    palm = make_palm(cross_entropy_ignore_index=0)
    torch.manual_seed(5)
    return palm, RewardModel(palm, num_binned_output=5)


@pytest.fixture
def prompt_ids():
    return torch.randint(3, 200, (6, 5), generator=torch.Generator().manual_seed(0))


def test_the_seed_readme_runs_with_only_the_import_changed(tmp_path):
    # First snippet.
    palm = PaLM(num_tokens=200, dim=32, depth=2, flash_attn=True)
    seq = torch.randint(0, 200, (1, 64))
    loss = palm(seq, return_loss=True)
    loss.backward()
    assert palm.generate(64).shape == (1, 64)
    palm.save(tmp_path / "palm.safetensors")

    # Second snippet.
    both_ways = PaLM(num_tokens=200, dim=32, depth=2, causal=False)
    reward_model = RewardModel(both_ways, num_binned_output=5)
    seq = torch.randint(0, 200, (1, 64))
    prompt_mask = torch.zeros(1, 64).bool()
    labels = torch.randint(0, 5, (1,))
    loss = reward_model(seq, prompt_mask=prompt_mask, labels=labels)
    loss.backward()
    assert reward_model(seq, prompt_mask=prompt_mask).shape == (1,)

    # Third snippet, and best of n.
    palm = PaLM(num_tokens=200, dim=32, depth=2)
    palm.load(tmp_path / "palm.safetensors")
    reward_model = RewardModel(palm, num_binned_output=5)
    reward_model.save(tmp_path / "reward_model.safetensors")
    reward_model.load(tmp_path / "reward_model.safetensors")
    prompts = torch.randint(0, 200, (50, 12))
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompts)
    trainer.train(num_episodes=2, max_timesteps=4, update_timesteps=4, max_seq_len=24)
    answer = trainer.generate(24, prompt=prompts[0], num_samples=10)
    assert answer.ndim == 1
    assert len(answer) <= 24
    assert torch.equal(answer[:12], prompts[0])


def test_training_covers_every_rollout_and_records_each_round(parts, prompt_ids):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    before = trainer.actor_critic.palm.state_dict()["lora.actor.0.q.B"].clone()
    trainer.train(**TINY)
    assert len(trainer.history) == 2  # 8 rollouts, and then the 4 that are left
    assert set(trainer.history[0]) == set(METRICS["policy"])
    assert not torch.equal(trainer.actor_critic.palm.state_dict()["lora.actor.0.q.B"], before)


@pytest.fixture
def watched(monkeypatch):
    """Every PolicyTrainer that is made, and the prompts, numbers and rates of its rounds."""
    made = []

    class Watched(PolicyTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.rounds = []
            made.append(self)

        def roll_out(self, index, drawn=None):
            rollout = super().roll_out(index, drawn)
            self.rounds.append((index, rollout, self.actor_optimizer.param_groups[0]["lr"]))
            return rollout

    monkeypatch.setattr(trainer_module, "PolicyTrainer", Watched)
    return made


def test_a_round_of_what_is_left_and_a_second_call_go_on_with_the_next_prompts(parts, watched):
    palm, reward_model = parts
    prompts = [[5 + number] for number in range(12)]
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompts, actor_lr=0.01)
    trainer.train(**TINY)  # 8, then 4
    trainer.train(**TINY)
    (one,) = watched  # the optimisers' moments go on too
    assert [index for index, _, _ in one.rounds] == [0, 1, 2, 3]
    assert [len(rollout.prompts) for _, rollout, _ in one.rounds] == [8, 4, 8, 4]
    drawn = [prompt for _, rollout, _ in one.rounds for prompt in rollout.prompts]
    assert sorted(drawn[:12]) == sorted(drawn[12:]) == prompts  # each prompt once in each pass
    assert one.rounds[0][1].responses != one.rounds[2][1].responses
    assert [rate for _, _, rate in one.rounds] == pytest.approx([0.01, 0.005, 0.01, 0.005])


def test_every_argument_reaches_the_part_that_it_is_meant_for(parts, prompt_ids, watched):
    palm, reward_model = parts
    trainer = RLHFTrainer(
        palm=palm,
        reward_model=reward_model,
        prompt_token_ids=prompt_ids,
        actor_lr=1e-3,
        critic_lr=2e-3,
        actor_wd=0.01,
        critic_wd=0.02,
        betas=(0.8, 0.99),
        max_norm=0.7,
        eps_clip=0.3,
        value_clip=0.6,
        beta_s=0.05,
        minibatch_size=3,
        epochs=2,
        kl_div_loss_weight=0.4,
        actor_adam_eps=1e-6,
        seed=11,
    )
    trainer.train(**TINY, eos_token=2, temperature=0.6)
    (one,) = watched
    expected = dict(
        learning_rate=1e-3,
        critic_learning_rate=2e-3,
        max_grad_norm=0.7,
        clip_ratio=0.3,
        value_clip=0.6,
        entropy_coefficient=0.05,
        minibatch_size=3,
        ppo_epochs=2,
        kl_coefficient=0.4,
        kl_target=None,
        kl_hard_cap=10_000.0,  # responses may be long, and the seed library has no cap
        critic_warmup_updates=0,
        adam_epsilon=1e-6,
        seed=11,
        temperature=0.6,
        max_new_tokens=11,
        updates=2,
        rollout_batch_size=4,
    )
    assert {name: getattr(one.config, name) for name in expected} == expected
    assert (one.end_id, one.rollout_rows) == (2, 4)
    for optimizer, decay in ((one.actor_optimizer, 0.01), (one.critic_optimizer, 0.02)):
        options = optimizer.param_groups[0]
        assert (options["weight_decay"], options["betas"], options["eps"]) == (decay, (0.8, 0.99), 1e-6)


def test_more_room_than_can_be_served_is_refused_by_name(parts, prompt_ids):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    for length in (5, 5 + 4097):
        with pytest.raises(ConfigError, match=f"max_seq_len = {length} .* 1 to 4096 tokens more"):
            trainer.train(**{**TINY, "max_seq_len": length})


def test_the_callers_models_stay_as_they_were_and_serve_a_second_trainer(parts, prompt_ids):
    palm, reward_model = parts
    held = {name: tensor.clone() for name, tensor in palm.state_dict().items()}
    for _ in range(2):
        trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
        trainer.train(**TINY)
    assert palm.state_dict().keys() == held.keys()
    assert all(torch.equal(palm.state_dict()[name], tensor) for name, tensor in held.items())
    assert all(parameter.requires_grad for parameter in palm.parameters())
    assert any(parameter.requires_grad for parameter in reward_model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        dict(critic_pooled_values=False),
        dict(critic_lora=False),
        dict(actor_lora=False),
        dict(actor_lora=False, critic_lora=False),
        dict(critic_num_pred_bins=1),
        dict(max_norm=0.5, epochs=2, minibatch_size=3),
        dict(hl_gauss_loss_kwargs=dict(min_value=-2.0, max_value=2.0), critic_num_pred_bins=20),
    ],
)
def test_every_combination_that_broke_the_seed_library_trains(parts, prompt_ids, settings):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, **settings)
    trainer.train(**{**TINY, "eos_token": 2})
    assert all(value == value for value in trainer.history[-1].values())


def test_a_critic_of_ones_own_or_a_ready_actor_critic_is_used(parts, prompt_ids, make_palm):
    palm, reward_model = parts
    own = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, critic_palm=make_palm(7))
    assert own.actor_critic.critic_palm is not None
    ready = ActorCritic(make_palm(), critic_dim_out=1)
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, actor_critic=ready)
    assert trainer.actor_critic is ready
    trainer.train(**TINY)


def test_batches_of_any_size_draw_the_same_responses(parts, prompt_ids):
    palm, reward_model = parts
    histories = []
    for rows in (3, 16):
        trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
        trainer.train(**{**TINY, "max_batch_size": rows, "update_timesteps": 12})
        histories.append(trainer.history[0])
    assert histories[0]["score"] == pytest.approx(histories[1]["score"], abs=1e-4)
    assert histories[0]["distinct_2"] == histories[1]["distinct_2"]


def test_prompts_may_be_texts_a_file_or_rows_of_any_length(parts, tmp_path):
    palm, reward_model = parts
    tokenizer = Tokenizer.train(["a film"], 259)
    write_prompts(tmp_path / "prompts.jsonl", [Prompt("a", "A film"), Prompt("b", "It")])
    from_file = RLHFTrainer(
        palm=palm, reward_model=reward_model, prompts_path=tmp_path / "prompts.jsonl", tokenizer=tokenizer
    )
    from_texts = RLHFTrainer(palm=palm, reward_model=reward_model, prompts=["A film", "It"], tokenizer=tokenizer)
    assert from_file.prompts == from_texts.prompts
    assert [len(prompt) for prompt in from_file.prompts] == [7, 3]
    ragged = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=[[5, 6, 7], [8]])
    assert ragged.prompts == [[5, 6, 7], [8]]
    padded = RLHFTrainer(
        palm=palm, reward_model=reward_model, prompt_token_ids=torch.tensor([[5, 0, 7, 0, 0], [0, 0, 0, 0, 0]])
    )
    assert padded.prompts == [[5, 0, 7], [0]]  # a pad id inside the text is a token like any other
    with pytest.raises(ValueError, match="exactly one"):
        RLHFTrainer(palm=palm, reward_model=reward_model)
    with pytest.raises(ValueError, match="need a tokenizer"):
        RLHFTrainer(palm=palm, reward_model=reward_model, prompts=["a"])


def test_the_best_of_n_is_the_best_by_the_reward_model_and_the_same_each_time(parts, prompt_ids):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)

    def score(sequence):
        return float(trainer.reward_model(sequence[None], prompt_lengths=torch.tensor([5])))

    one, many = (trainer.generate(16, prompt=prompt_ids[0], num_samples=count) for count in (1, 8))
    assert score(many) >= score(one)
    assert torch.equal(trainer.generate(16, prompt=prompt_ids[0], num_samples=8), many)
    likeliest = [trainer.generate(16, prompt=prompt_ids[0], num_samples=1, filter_thres=0.999) for _ in range(2)]
    assert torch.equal(*likeliest)  # one token of 259 is left
    greedy = palm.generate(16, prompt_ids[0], temperature=0, return_seq_without_prompt=False)
    assert torch.equal(likeliest[0], greedy)
    assert trainer.generate(16, prompt=prompt_ids[0], pad_value=0.0, use_tqdm=True).ndim == 1
    with pytest.raises(ValueError, match="one row of 1 to 15"):
        trainer.generate(16, prompt=prompt_ids)


def test_what_was_learned_is_saved_and_loaded(parts, prompt_ids, tmp_path):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    trainer.train(**TINY)
    trainer.save(tmp_path / "learned.safetensors")
    other = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    other.load(tmp_path / "learned.safetensors")
    state, expected = other.actor_critic.state_dict(), trainer.actor_critic.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    third = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, critic_lora=False)
    with pytest.raises(CheckpointError, match="other tensors"):
        third.load(tmp_path / "learned.safetensors")
    with pytest.raises(CheckpointError):
        other.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        dict(use_lion=True),
        dict(accelerate_kwargs={"cpu": True}),
        dict(actor_dropout=0.1),
        dict(actor_adam_eps=1e-7, critic_adam_eps=1e-6),
        dict(eps_clip=0.0),
    ],
)
def test_what_is_not_served_is_refused_by_name(parts, prompt_ids, settings):
    palm, reward_model = parts
    with pytest.raises(ConfigError, match="|".join(["clip_ratio", *settings])):
        RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, **settings)


def test_train_still_sets_the_mode_of_the_module(parts, prompt_ids):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    assert trainer.eval() is trainer
    assert not trainer.training
