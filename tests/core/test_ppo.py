import copy
import hashlib
import json
import statistics
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.buffer import Rollout
from rlhf_core.checkpoint import load_policy
from rlhf_core.config import METRICS, PolicyConfig
from rlhf_core.errors import CheckpointError, DatasetError, TrainingDiverged
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Prompt, write_prompts
from rlhf_core.rewards import reward_of
from rlhf_core.training import ppo, ppo_steps
from rlhf_core.training.descent import descend
from rlhf_core.training.lessons import Lessons
from rlhf_core.training.ppo import PolicyTrainer, train_policy
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events
from tests.core.run_steps import metrics_of
from tests.core.small_rounds import SMALL_ROUNDS, even_tokens

SMALL = dict(**SMALL_ROUNDS, kl_target=None, save_interval=1)
PROMPTS = [[1, 40, 41], [1, 50], [1, 60, 61, 62]]


def make_trainer(palm, score=even_tokens, end_id=2, *, lora=True, **settings):
    config = PolicyConfig(**{**SMALL, **settings})
    torch.manual_seed(0)
    model = ActorCritic(palm, actor_lora=lora, critic_lora=lora, critic_dim_out=1)
    return PolicyTrainer(model, PROMPTS, score, config, end_id)


def fingerprint(parameters):
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def make_run(tmp_path, policy_path, reward_model_path, some_prompts):
    def make(name="run", **settings):
        write_prompts(tmp_path / f"{name}.jsonl", some_prompts)
        return RunDirectory.create(
            tmp_path / name,
            kind="policy",
            config=PolicyConfig(**{**SMALL, **settings}),
            store=tmp_path / "store",
            policy=policy_path,
            reward_model=reward_model_path,
            prompts=tmp_path / f"{name}.jsonl",
        )

    return make


def weights_of(run):
    return load_policy(run.result["outputs"][0]["path"])[0].state_dict()


def test_a_run_records_every_metric_and_saves_a_merged_policy_rules_45_and_48(make_run, make_palm):
    run = make_run()
    train_policy(run)
    lines = [event for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "metrics"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert set(line["metrics"]) == set(METRICS["policy"])
        assert all(value is not None for value in line["metrics"].values())
    palm, _, manifest = load_policy(run.result["outputs"][0]["path"])
    assert manifest["kind"] == "policy"
    assert not palm.lora
    parent = make_palm().state_dict()
    moved = {name for name, tensor in palm.state_dict().items() if not torch.equal(tensor, parent[name])}
    assert moved  # adapters were merged into attention weights, and nothing else moved
    assert all("project_in" in name or "attention_out" in name for name in moved)


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_a_resumed_run_equals_an_uninterrupted_one_rule_43(make_run, monkeypatch, lora_rank):
    settings = dict(lora_rank=lora_rank, kl_target=1.0, kl_horizon=50, critic_warmup_updates=1)
    whole, broken = make_run("whole", **settings), make_run("broken", **settings)
    train_policy(whole)
    monkeypatch.setattr(
        RunDirectory,
        "progress",
        lambda run, step, total, phase: run.stop_event.set() if (step, phase) == (2, "learn") else None,
    )
    with pytest.raises(RunStopped):
        train_policy(broken)
    monkeypatch.undo()
    resumed = RunDirectory(broken.path)
    train_policy(resumed)
    assert metrics_of(resumed) == metrics_of(whole)
    found, expected = weights_of(resumed), weights_of(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_equal_seeds_give_equal_logs_and_other_seeds_others_rule_44(make_palm):
    logs = []
    for seed in (0, 0, 1):
        trainer = make_trainer(make_palm(), seed=seed)
        metrics = [trainer.update(index) for index in range(2)]
        for line in metrics:
            del line["tokens_per_second"]
        logs.append(json.dumps(metrics))
    assert logs[0] == logs[1] != logs[2]


def test_measuring_in_between_leaves_the_training_log_as_it_was_rule_47(make_palm):
    logs = []
    for measure in (False, True):
        trainer = make_trainer(make_palm())
        lines = []
        for index in range(2):
            if measure:
                torch.randn(5)
                trainer.roll_out(100)
            line = trainer.update(index)
            del line["tokens_per_second"]
            lines.append(line)
        logs.append(lines)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_before_any_step_every_ratio_is_one_and_nothing_is_clipped_rules_5_and_6(make_palm, temperature):
    trainer = make_trainer(make_palm(), temperature=temperature, ppo_epochs=1, minibatch_size=8)
    found = trainer.update(0)
    assert found["ratio_min"] == pytest.approx(1.0, abs=1e-5)
    assert found["ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert found["clip_fraction"] == 0.0


def test_the_reference_stays_and_the_kl_rises_from_zero_over_50_steps_rule_12(make_palm):
    trainer = make_trainer(make_palm(), updates=13, kl_coefficient=0.0)
    base = trainer.model.palm.palm_parameters()
    before = fingerprint(base)
    rollout = trainer.roll_out(0)
    now = trainer.model.log_probs(rollout.prompts, rollout.responses).log_probs
    assert torch.equal(now, rollout.reference_log_probs)  # exactly 0 before the first step
    found = [trainer.update(index) for index in range(13)]  # 13 rounds of 4 steps
    assert fingerprint(base) == before
    assert found[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found[-1]["k3"] > 0.01
    trainer.config = replace(trainer.config, rollout_batch_size=512)  # of 8 responses k1 may be negative
    assert trainer.derive_lessons(trainer.roll_out(100)).kl > 0.01


def test_without_lora_the_reference_stays_too_rule_12(make_palm):
    trainer = make_trainer(make_palm(), lora=False, learning_rate=1e-3)
    before = fingerprint(trainer.model.reference_palm.parameters())
    found = [trainer.update(index) for index in range(4)]
    assert fingerprint(trainer.model.reference_palm.parameters()) == before
    assert found[-1]["k3"] > 1e-4


def test_critic_warm_up_leaves_the_policy_bit_identical_and_teaches_the_critic_rule_26(make_palm):
    def first_token(prompts, responses):  # known from the prompt's length: a critic can learn it
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    trainer = make_trainer(make_palm(), first_token, updates=12, critic_warmup_updates=12, value_clip=10.0)
    before = fingerprint(trainer.model.actor_parameters())
    found = [trainer.update(index) for index in range(12)]
    assert fingerprint(trainer.model.actor_parameters()) == before
    assert found[0]["explained_variance"] == pytest.approx(0.0, abs=1e-5)
    assert found[-1]["explained_variance"] > found[0]["explained_variance"] + 0.3
    assert all(line["ratio_min"] == line["ratio_max"] == 1.0 and line["actor_grad_norm"] == 0.0 for line in found)
    assert all(line["entropy"] > 0 for line in found)


def test_dropout_is_off_in_policy_critic_reference_and_reward_model_rule_27(make_palm):
    palm = make_palm(attn_dropout=0.5, ff_dropout=0.5)
    reward_model = RewardModel(make_palm(), dropout=0.5, num_binned_output=5).train()
    trainer = make_trainer(palm.train(), reward_of(reward_model, 2))
    model = trainer.model
    rollout = trainer.roll_out(0)
    arguments = (rollout.prompts, rollout.responses)
    assert torch.equal(model.log_probs(*arguments).log_probs, model.log_probs(*arguments).log_probs)
    assert torch.equal(model.reference_log_probs(*arguments), rollout.reference_log_probs)
    assert torch.equal(model.values(trainer.join(*arguments)), model.values(trainer.join(*arguments)))
    assert torch.equal(trainer.score(*arguments), rollout.scores)
    trainer.update(0)
    assert not any(module.training for module in model.modules())


def test_what_stands_after_the_end_token_does_not_change_the_score_rule_10(make_palm):
    score = reward_of(RewardModel(make_palm(), num_binned_output=5), 2)
    assert_close(score([[1, 5]], [[10, 11, 2]]), score([[1, 5]], [[10, 11, 2, 77, 2, 78]]))
    assert score([[1, 5]], [[10, 11, 2]]) != score([[1, 5]], [[10, 11, 12]])


def test_every_response_is_used_once_an_epoch_in_a_fresh_order_rule_32(make_palm):
    trainer = make_trainer(make_palm(), rollout_batch_size=10, minibatch_size=4, ppo_epochs=3)
    plan = trainer.plan_minibatches(0)
    assert [len(rows) for rows in plan] == [4, 4, 2] * 3
    epochs = [sum(plan[at : at + 3], []) for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert trainer.plan_minibatches(1) != plan


def test_prompts_come_in_shuffled_passes(make_palm):
    trainer = make_trainer(make_palm(), rollout_batch_size=4)
    drawn = [tuple(prompt) for index in range(3) for prompt in trainer.choose_prompts(index)]
    for at in range(0, 12, 3):
        assert sorted(drawn[at : at + 3]) == sorted(map(tuple, PROMPTS))


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_a_huge_reward_makes_a_step_no_longer_than_the_permitted_norm_rule_31(make_palm, part):
    trainer = make_trainer(make_palm(), max_grad_norm=0.5)
    parameters = getattr(trainer.model, f"{part}_parameters")()
    # Plain descent of rate 1 moves by the very gradient it is given; Adam's steps would hide its length.
    setattr(trainer, f"{part}_optimizer", torch.optim.SGD(parameters, lr=1.0))
    rollout = trainer.roll_out(0)
    huge = torch.full_like(rollout.values, 1e6)
    lessons = replace(trainer.derive_lessons(rollout), advantages=huge, returns=huge)
    before = [parameter.detach().clone() for parameter in parameters]
    found = getattr(trainer, f"{part}_step")(list(range(8)), rollout, lessons)
    assert found[f"{part}_grad_norm"] > 1e3  # measured before clipping
    moved = torch.cat([(new.detach() - old).flatten() for old, new in zip(before, parameters, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)


def test_descending_clips_the_gradient_and_reports_its_norm_rule_31():
    weight = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    plain = torch.optim.SGD([weight], lr=1.0)
    loss = (weight * torch.tensor([30.0, 40.0])).sum()
    assert descend(plain, loss, [weight], 0.5, "step 1") == pytest.approx(50.0)
    assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))


def test_the_gradient_of_the_parts_of_a_loss_is_that_of_their_sum():
    weight = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    plain = torch.optim.SGD([weight], lr=1.0)
    parts = ((weight * torch.tensor(part)).sum() for part in ([10.0, 40.0], [20.0, 0.0]))
    assert descend(plain, parts, [weight], 100.0, "step 1") == pytest.approx(50.0)
    assert_close(weight.detach(), torch.tensor([-30.0, -40.0]))


def test_a_vetoed_step_leaves_weights_and_optimiser():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    assert descend(optimizer, weight.sum(), [weight], 1.0, "step 1", is_vetoed=lambda: True) == pytest.approx(1.0)
    assert weight.item() == 1.0
    assert not optimizer.state


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_stops_and_leaves_good_weights_rule_42(make_palm, poison):
    calls = []

    def score(prompts, responses):
        calls.append(1)
        found = even_tokens(prompts, responses)
        return found * poison if len(calls) > 1 else found

    trainer = make_trainer(make_palm(), score)
    trainer.update(0)
    before = fingerprint(trainer.model.parameters())
    with pytest.raises(TrainingDiverged, match="score is not finite"):
        trainer.update(1)
    assert fingerprint(trainer.model.parameters()) == before
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trainer.model.parameters())


def infinite_gradient(loss):
    """The same loss; its gradient overflows on the way back."""
    loss.register_hook(lambda gradient: gradient * float("inf"))
    return loss


@pytest.mark.parametrize("spoil", [lambda loss: loss * float("nan"), infinite_gradient])
def test_a_step_whose_loss_or_gradient_is_not_finite_is_not_taken_rule_42(spoil):
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    with pytest.raises(TrainingDiverged, match="step 7: .* not taken"):
        descend(optimizer, spoil((weight * 2).sum()), [weight], 1.0, "step 7")
    assert weight.item() == 1.0
    assert not optimizer.state


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_a_gradient_that_is_not_finite_ends_a_round_and_leaves_good_weights_rule_42(make_palm, monkeypatch, part):
    trainer = make_trainer(make_palm())
    trainer.update(0)
    whole = ppo_steps.descend

    def spoiled(optimizer, losses, *others, **options):
        is_the_part = optimizer is getattr(trainer, f"{part}_optimizer")
        return whole(optimizer, map(infinite_gradient, losses) if is_the_part else losses, *others, **options)

    monkeypatch.setattr(ppo_steps, "descend", spoiled)
    with pytest.raises(TrainingDiverged, match="round 2: a step of the"):
        trainer.update(1)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trainer.model.parameters())


def test_a_kl_beyond_the_hard_cap_stops_the_run_and_keeps_the_last_state_rule_42(make_run):
    run = make_run(updates=40, learning_rate=0.03, lora_rank=0, kl_coefficient=0.0, kl_hard_cap=0.1)
    with pytest.raises(TrainingDiverged, match="the cap is 0.1"):
        train_policy(run)
    state = run.load_state()
    assert state is not None
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.tensors.values())


def test_a_response_without_an_end_is_penalised_excluded_and_counted_rules_28_and_46(make_palm):
    trainer = make_trainer(make_palm(), missing_end_penalty=3.0, kl_coefficient=0.0, end_id=2)
    rollout = trainer.roll_out(0)
    ended = torch.tensor([True, False] * 4)
    lessons = trainer.derive_lessons(replace(rollout, ended=ended))
    assert_close(lessons.rewards.sum(1), rollout.scores - 3.0 * (~ended).float())
    # Excluded: rows without an end give the policy no gradient.
    left_out = make_trainer(make_palm(), exclude_truncated=True)
    rows = list(range(8))
    found = left_out.actor_step(rows, replace(rollout, ended=torch.zeros(8).bool()), lessons)
    assert found["actor_grad_norm"] == 0.0
    assert found["policy_loss"] == 0.0
    never = make_trainer(make_palm(), end_id=None)
    counted = never.update(0)
    assert (counted["end_rate"], counted["truncated_rate"]) == (0.0, 1.0)
    assert counted["response_length"] == 8.0


def test_padded_places_do_not_touch_the_lessons_rule_17(make_palm):
    trainer = make_trainer(make_palm())
    rollout = trainer.roll_out(0)
    mask = rollout.mask.clone()
    mask[0, 3:] = False
    plain = trainer.derive_lessons(replace(rollout, mask=mask))
    poisoned = trainer.derive_lessons(
        replace(
            rollout,
            mask=mask,
            values=torch.where(mask, rollout.values, 100.0),
            log_probs=torch.where(mask, rollout.log_probs, float("nan")),
        )
    )
    assert torch.equal(plain.advantages, poisoned.advantages)
    assert torch.equal(plain.returns, poisoned.returns)


def test_the_entropy_bonus_raises_the_entropy_rule_39(make_palm):
    palm = make_palm()
    with torch.no_grad():
        palm.token_emb.weight *= 30  # a decided policy: far from uniform
    entropies = {}
    for weight in (0.0, 1.0):
        trainer = make_trainer(
            copy.deepcopy(palm),
            lambda prompts, responses: torch.zeros(len(prompts)),
            updates=10,
            entropy_coefficient=weight,
            kl_coefficient=0.0,
            learning_rate=3e-3,
        )
        found = [trainer.update(index) for index in range(10)]
        entropies[weight] = found[-1]["entropy"] - found[0]["entropy"]
    assert entropies[1.0] > 0.05
    assert entropies[1.0] > entropies[0.0] + 0.05


def test_adam_starts_with_the_large_epsilon_and_the_rate_falls_linearly_rules_29_and_30(make_palm):
    trainer = make_trainer(make_palm(), updates=4, learning_rate=0.01)
    assert PolicyConfig().adam_epsilon == 1e-5
    assert trainer.actor_optimizer.defaults["eps"] == trainer.critic_optimizer.defaults["eps"] == 1e-5
    rates = [trainer.update(index)["learning_rate"] for index in range(4)]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_both_optimisers_follow_the_falling_rate_rule_29(make_palm):
    trainer = make_trainer(make_palm(), updates=4, learning_rate=0.01, critic_learning_rate=0.02)
    trainer.update(2)
    assert trainer.actor_optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert trainer.critic_optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_each_round_hands_the_next_an_adapted_coefficient_rule_15(make_palm):
    trainer = make_trainer(make_palm(), kl_target=1.0, kl_horizon=50, kl_coefficient=0.1, learning_rate=0.03)
    found = [trainer.update(index) for index in range(3)]
    expected = 0.1
    for line in found:
        assert line["kl_coefficient"] == pytest.approx(expected)
        expected *= 1 + min(max(line["kl"] / 1.0 - 1, -0.2), 0.2) * 8 / 50
    assert found[1]["kl_coefficient"] == pytest.approx(0.1 * (1 - 0.2 * 8 / 50))  # no drift yet: it falls


@pytest.fixture
def rollout():
    """Two responses of 3 and 2 tokens; nothing of them depends on a network."""
    return Rollout(
        prompts=[[1, 40], [1]],
        responses=[[50, 51, 2], [60, 61]],
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        log_probs=torch.tensor([[-1.0, -2.0, -1.5], [-0.5, -1.0, 0.0]]),
        reference_log_probs=torch.tensor([[-1.5, -1.0, -1.5], [-0.25, -2.0, 0.0]]),
        values=torch.tensor([[0.5, -1.0, 2.0], [0.25, 1.0, 100.0]]),
        scores=torch.tensor([2.0, -1.0]),
        ended=torch.tensor([True, False]),
    )


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_the_lessons_of_a_rollout_by_hand_rules_18_to_21(make_palm, rollout, slow_advantages, whiten, lam):
    trainer = make_trainer(make_palm(), kl_coefficient=0.5, gamma=0.9, gae_lambda=lam, whiten_rewards=whiten)
    lessons = trainer.derive_lessons(rollout)
    # -0.5 · (log-probability - reference), and the score on the last token of each row
    rewards = torch.tensor([[-0.25, 0.5, 2.0], [0.125, -1.5, 0.0]])
    assert_close(lessons.rewards, rewards)
    mask = rollout.mask
    if whiten:
        kept = rewards[mask].tolist()
        mean, deviation = statistics.mean(kept), statistics.pstdev(kept)
        rewards = torch.where(mask, (rewards - mean) / deviation + mean, 0.0)
    advantages = slow_advantages(rewards, rollout.values, mask, 0.9, lam)
    assert_close(lessons.returns, torch.where(mask, advantages + rollout.values, 0.0))  # of what is not whitened yet
    kept = advantages[mask].tolist()
    whitened = (advantages - statistics.mean(kept)) / statistics.pstdev(kept)
    assert_close(lessons.advantages, torch.where(mask, whitened, 0.0))


def hand_made_lessons(advantages, returns):
    return Lessons(
        rewards=torch.zeros(2, 3),
        advantages=torch.tensor(advantages),
        returns=torch.tensor(returns),
        kl=0.0,
        k3=0.0,
        explained_variance=0.0,
    )


@pytest.mark.parametrize(("clip_ratio", "loss", "clipped"), [(0.2, 1.75 / 5, 2 / 5), (0.4, 1.25 / 5, 1 / 5)])
def test_a_policy_step_clips_ratios_at_the_setting_rule_23(make_palm, rollout, clip_ratio, loss, clipped):
    trainer = make_trainer(make_palm(), clip_ratio=clip_ratio)
    with torch.no_grad():
        now = trainer.model.log_probs(rollout.prompts, rollout.responses).log_probs
    ratios = torch.tensor([[0.7, 1.0, 1.3], [1.05, 0.5, 1.0]])
    drawn = replace(rollout, log_probs=torch.where(rollout.mask, now - ratios.log(), 0.0))
    lessons = hand_made_lessons([[1.0, -1.0, 1.0], [-1.0, -2.0, 0.0]], [[0.0] * 3] * 2)
    found = trainer.actor_step([0, 1], drawn, lessons)
    # The larger of -A·ratio and -A·clipped ratio, by token; ε 0.2: -0.7, 1, -1.2 (clipped), 1.05, 1.6 (clipped);
    # ε 0.4: -0.7, 1, -1.3, 1.05, 1.2 (clipped)
    assert found["policy_loss"] == pytest.approx(loss, abs=1e-5)
    assert found["clip_fraction"] == pytest.approx(clipped)
    assert (found["ratio_min"], found["ratio_max"]) == pytest.approx((0.5, 1.3), abs=1e-5)


@pytest.mark.parametrize(("value_clip", "loss", "clipped"), [(0.2, 10.18 / 10, 2 / 5), (0.6, 8.21 / 10, 1 / 5)])
def test_a_critic_step_clips_values_at_the_setting_rule_22(make_palm, rollout, value_clip, loss, clipped):
    trainer = make_trainer(make_palm(), value_clip=value_clip)
    old = replace(rollout, values=torch.tensor([[0.5, 0.5, 0.1], [-1.0, 0.0, 0.0]]))
    lessons = hand_made_lessons([[0.0] * 3] * 2, [[1.0, -1.0, 2.0], [1.0, 0.5, 0.0]])
    found = trainer.critic_step([0, 1], old, lessons)
    # Values are 0 at the start. Free squares 1, 1, 4, 1, 0.25; at clip 0.2 the values stop at 0.3, 0.3, 0, -0.8, 0:
    # 0.49, 1.69, 4, 3.24, 0.25; at clip 0.6 at 0, 0, 0, -0.4, 0: 1, 1, 4, 1.96, 0.25. Half the mean of the larger.
    assert found["value_loss"] == pytest.approx(loss, abs=1e-5)
    assert found["value_clip_fraction"] == pytest.approx(clipped)


@pytest.mark.parametrize("longest", [6, 64])
def test_prompts_keep_as_much_of_their_end_as_the_settings_permit(make_run, monkeypatch, longest):
    seen = []

    class Watched(PolicyTrainer):
        def __init__(self, model, prompts, *others, **more):
            seen.extend(prompts)
            super().__init__(model, prompts, *others, **more)

    monkeypatch.setattr(ppo, "PolicyTrainer", Watched)
    run = make_run(updates=1, max_prompt_tokens=longest)
    write_prompts(run.path / "prompts.jsonl", [Prompt("a", "x" * 50), Prompt("b", "It")])
    train_policy(run)
    assert [len(prompt) for prompt in seen] == [min(longest, 51), 3]  # the begin token counts


def test_a_reward_model_of_another_tokenizer_is_refused(make_run, tmp_path, make_palm):
    from rlhf_core.checkpoint import save_reward_model
    from rlhf_core.text.tokenizer import Tokenizer

    other = Tokenizer.train(["aaa aaa aaa bbb bbb"], 262)
    path = save_reward_model(tmp_path / "store", RewardModel(make_palm(num_tokens=262)), other, {}).path
    run = make_run()
    run.inputs["reward_model"] = str(path)
    with pytest.raises(CheckpointError, match="tokenizers differ"):
        train_policy(run)


def test_a_run_without_prompts_is_refused(make_run):
    run = make_run()
    (run.path / "prompts.jsonl").write_text("")
    with pytest.raises(DatasetError, match="found 0 prompts"):
        train_policy(run)
