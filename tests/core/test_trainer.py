import pytest
import torch

from rlhf_core import PaLM, RewardModel, RLHFTrainer, Tokenizer
from rlhf_core import trainer as trainer_module
from rlhf_core.config import METRICS
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.generation.filters import top_k, top_p
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.records import Prompt, write_prompts
from rlhf_core.training.lion import Lion
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
        critic_adam_eps=1e-7,
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
    for optimizer, decay, epsilon in ((one.actor_optimizer, 0.01, 1e-6), (one.critic_optimizer, 0.02, 1e-7)):
        options = optimizer.param_groups[0]
        assert (options["weight_decay"], options["betas"], options["eps"]) == (decay, (0.8, 0.99), epsilon)


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
    (tmp_path / "prompts.txt").write_text("A film\n\nIt\n")
    from_lines = RLHFTrainer(
        palm=palm, reward_model=reward_model, prompts_path=str(tmp_path / "prompts.txt"), tokenizer=tokenizer
    )
    assert from_lines.prompts == from_texts.prompts
    for made in (lambda texts: torch.tensor([[len(text), 5, 0] for text in texts]), lambda texts: [[6, 5], [2, 5]]):
        by_function = RLHFTrainer(palm=palm, reward_model=reward_model, prompts=["A film", "It"], tokenizer=made)
        assert by_function.prompts == [[6, 5], [2, 5]]
    ragged = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=[[5, 6, 0], [8]])
    assert ragged.prompts == [[5, 6, 0], [8]]  # rows say where they end, so nothing is cut off
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
    for fn, thres in ((top_k, 0.999), (top_p, 1e-6)):
        assert torch.equal(trainer.generate(16, prompt=prompt_ids[0], filter_logits_fn=fn, filter_thres=thres), greedy)
    with pytest.raises(ConfigError, match="top_k, top_p or None"):
        trainer.generate(16, prompt=prompt_ids[0], filter_logits_fn=lambda logits, thres: logits, filter_thres=0.5)
    with pytest.raises(ConfigError, match="num_samples = 0"):
        trainer.generate(16, prompt=prompt_ids[0], num_samples=0)
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
    narrow = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, actor_lora_r=4)
    for one, words in ((third, "it lacks critic_palm"), (narrow, r"\(32, 8\) where \(32, 4\) is expected")):
        before = {name: tensor.clone() for name, tensor in one.actor_critic.state_dict().items()}
        with pytest.raises(CheckpointError, match=words):
            one.load(tmp_path / "learned.safetensors")
        assert all(torch.equal(tensor, before[name]) for name, tensor in one.actor_critic.state_dict().items())
    with pytest.raises(CheckpointError, match="no readable file of weights"):
        other.load(tmp_path / "missing.safetensors")
    palm.save(tmp_path / "palm.safetensors")
    with pytest.raises(CheckpointError, match="RLHFTrainer.save did not write it"):
        other.load(tmp_path / "palm.safetensors")
    whole = bytearray((tmp_path / "learned.safetensors").read_bytes())
    whole[-3] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(whole)
    with pytest.raises(CheckpointError, match="altered since it was written"):
        other.load(tmp_path / "altered.safetensors")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(accelerate_kwargs={"cpu": True}), "accelerate_kwargs = .* one process trains"),
        (dict(actor_dropout=0.1), "actor_dropout = 0.1"),
        (dict(critic_dropout=0.1), "critic_dropout = 0.1"),
        (dict(eps_clip=0.0), "eps_clip = 0.0"),
        (dict(epochs=0), "epochs = 0"),
        (dict(actor_lr=-1.0), "actor_lr = -1.0"),
        (dict(actor_wd=-0.1), "actor_wd = -0.1"),
        (dict(betas=(0.9, 1.0)), "betas = "),
        (dict(critic_adam_eps=0.0), "critic_adam_eps = 0.0"),
        (dict(critic_num_pred_bins=0), "critic_dim_out = 0"),
        (dict(hl_gauss_loss_kwargs=dict(min_value=2.0, max_value=2.0)), "max_value = 2.0 .* above min_value"),
        (dict(hl_gauss_loss_kwargs=dict(clamp_to_range=False)), "clamp_to_range = False"),
        (dict(hl_gauss_loss_kwargs=dict(sigma=1.0)), "hl_gauss_loss_kwargs = 'sigma'"),
        (dict(hl_gauss_loss_kwargs=dict(sigma_to_bin_ratio=0.0)), "value_smoothing = 0.0"),
    ],
)
def test_what_is_not_served_is_refused_by_name(parts, prompt_ids, settings, words):
    palm, reward_model = parts
    with pytest.raises(ConfigError, match=words):
        RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, **settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(prompt_token_ids=[[5, 6], []]), "row 1 has no tokens"),
        (dict(prompt_token_ids=[[5, 259]]), "holds token 259; the vocabulary is 0 to 258"),
        (dict(prompt_token_ids=torch.tensor([[5, -1]])), "holds token -1"),
        (dict(prompt_token_ids=torch.tensor([5, 6])), r"\(prompts, length\), not torch.int64 \(2,\)"),
        (dict(prompt_token_ids=torch.ones(2, 3)), r"torch.float32 \(2, 3\)"),
        (dict(prompt_token_ids=[]), "there are no prompts"),
        (dict(prompts=["a"]), "exactly one of prompts"),
        (dict(critic="palm", critic_palm="palm"), "at most one of critic"),
        (dict(critic="wide"), "critic has width 64"),
        (dict(critic="both_ways"), "critic is not causal"),
        (dict(palm="both_ways"), "palm is not causal"),
        (dict(palm="small"), "reads 259 tokens, the policy writes 100"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_at_once(parts, prompt_ids, make_palm, changes, words):
    made = {"palm": parts[0], "wide": make_palm(dim=64), "small": make_palm(num_tokens=100)}
    made["both_ways"] = make_palm(causal=False)
    arguments = {name: made[one] if isinstance(one, str) else one for name, one in changes.items()}
    with pytest.raises(ValueError, match=words):
        RLHFTrainer(**{"palm": parts[0], "reward_model": parts[1], "prompt_token_ids": prompt_ids, **arguments})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(num_episodes=0), "num_episodes = 0"),
        (dict(update_timesteps=0), "update_timesteps = 0"),
        (dict(max_batch_size=-1), "max_batch_size = -1"),
        (dict(temperature=0.0), "temperature = 0.0"),
        (dict(eos_token=259), "eos_token = 259 .* 0 to 258"),
    ],
)
def test_training_with_nonsense_is_refused_before_anything_is_drawn(parts, prompt_ids, watched, changes, words):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    with pytest.raises(ConfigError, match=words):
        trainer.train(**{**TINY, **changes})
    assert trainer.history == watched == []


def test_lion_is_an_optimiser_on_request(parts, prompt_ids, watched):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, use_lion=True)
    before = trainer.actor_critic.palm.state_dict()["lora.actor.0.q.B"].clone()
    trainer.train(**TINY)
    (one,) = watched
    assert type(one.actor_optimizer) is type(one.critic_optimizer) is Lion
    assert not torch.equal(trainer.actor_critic.palm.state_dict()["lora.actor.0.q.B"], before)


def test_the_critics_bins_are_where_the_arguments_put_them(parts, prompt_ids):
    palm, reward_model = parts

    def critic(**given):
        settings = dict(critic_num_pred_bins=5, hl_gauss_loss_kwargs=given)
        trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids, **settings)
        return trainer.actor_critic

    on_centres = critic(min_value=-2.0, max_value=2.0)
    assert on_centres.value_centers.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert on_centres.value_edges.tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
    assert on_centres.value_smoothing == 1.0
    on_edges = critic(min_value=-2.5, max_value=2.5, min_max_value_on_bin_center=False, sigma_to_bin_ratio=0.5)
    assert on_edges.value_centers.tolist() == on_centres.value_centers.tolist()
    assert on_edges.value_smoothing == 0.5


def test_train_still_sets_the_mode_of_the_module(parts, prompt_ids):
    palm, reward_model = parts
    trainer = RLHFTrainer(palm=palm, reward_model=reward_model, prompt_token_ids=prompt_ids)
    assert trainer.eval() is trainer
    assert not trainer.training
