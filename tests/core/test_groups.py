"""RLOO and GRPO: responses beside the others to the same prompt, by hand; a run resumes exactly and has no critic."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.buffer import Rollout
from rlhf_core.checkpoint import load_policy
from rlhf_core.config import CRITIC_METRICS, GROUP_METRICS, METRICS, PolicyConfig
from rlhf_core.errors import ConfigError, TrainingDiverged
from rlhf_core.kl import k3
from rlhf_core.losses import aggregate_loss, clipped_policy_loss
from rlhf_core.records import write_prompts
from rlhf_core.training.groups import derive_group_lessons, token_weights
from rlhf_core.training.ppo import PolicyTrainer, train_policy
from rlhf_core.training.ppo_models import make_models
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events
from tests.core.small_rounds import even_tokens

SMALL = dict(
    group_size=2,
    updates=2,
    rollout_batch_size=8,
    minibatch_size=4,
    ppo_epochs=2,
    max_new_tokens=6,
    learning_rate=1e-2,
    kl_target=None,
    lora_rank=2,
    save_interval=1,
    threads=1,
)
PROMPTS = [[1, 40, 41], [1, 50], [1, 60, 61, 62]]
ALGORITHMS = [("rloo", "deviation"), ("grpo", "deviation"), ("grpo", "none")]


def settings(algorithm="rloo", scaling="deviation", **changes):
    return PolicyConfig(**{**SMALL, "algorithm": algorithm, "group_scaling": scaling, **changes})


def make_trainer(palm, config, score=even_tokens):
    torch.manual_seed(0)
    return PolicyTrainer(make_models(palm, config), PROMPTS, score, config, 2)


def metrics_of(run):
    lines = [event for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "metrics"]
    return {line["step"]: {**line["metrics"], "tokens_per_second": 0.0} for line in lines}


def two_groups(scores, drift):
    """Four responses of two tokens, the last of one; each token is ``drift`` of its row away from the parent."""
    mask = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    log_probs = torch.where(mask, torch.tensor(drift)[:, None], 0.0)
    return Rollout(
        prompts=[[1]] * 4,
        responses=[[5, 6], [5, 6], [5, 6], [5]],
        mask=mask,
        log_probs=log_probs,
        reference_log_probs=torch.zeros(4, 2),
        values=torch.zeros(4, 2),
        scores=torch.tensor(scores),
        ended=torch.ones(4, dtype=torch.bool),
    )


def test_rloo_takes_the_drift_off_the_score_and_leaves_each_response_out_of_its_baseline_rule_40():
    found = derive_group_lessons(two_groups([3.0, 1.0, 2.0, 2.0], [0.5, 0.0, 0.0, -1.0]), settings(), 0.2)
    # less 0.2 nats' worth: 3 - 0.2 * 1 = 2.8 against 1; 2 against 2 + 0.2 * 1 = 2.2
    assert_close(found.advantages, torch.tensor([[1.8, 1.8], [-1.8, -1.8], [-0.2, -0.2], [0.2, 0.0]]))
    assert_close(found.rewards.sum(dim=1), torch.tensor([2.8, 1.0, 2.0, 2.2]))
    assert (found.loss_coefficient, found.flat_groups) == (0.0, 0.5)  # the second's scores are equal, if not its drift
    assert found.kl == pytest.approx((1.0 + 0.0 + 0.0 - 1.0) / 4)


@pytest.mark.parametrize(("scaling", "above"), [("deviation", 1.0), ("none", 1.0 * 2)])
def test_grpo_compares_scores_with_the_mean_and_leaves_the_drift_to_the_loss_rule_40(scaling, above):
    rollout = two_groups([5.0, 1.0, 2.0, 2.0], [0.5, 0.0, 0.0, 0.0])
    found = derive_group_lessons(rollout, settings("grpo", scaling), 0.2)
    assert_close(found.advantages, torch.tensor([[above, above], [-above, -above], [0.0, 0.0], [0.0, 0.0]]))
    assert_close(found.rewards.sum(dim=1), rollout.scores)
    assert found.loss_coefficient == 0.2
    assert found.flat_groups == 0.5  # of two, the second: nothing to tell apart


def test_a_response_without_an_end_pays_before_it_is_compared():
    rollout = replace(two_groups([1.0, 1.0, 2.0, 2.0], [0.0] * 4), ended=torch.tensor([True, False, True, True]))
    found = derive_group_lessons(rollout, settings(missing_end_penalty=0.5), 0.0)
    assert_close(found.advantages[:, 0], torch.tensor([0.5, -0.5, 0.0, 0.0]))


@pytest.mark.parametrize(("algorithm", "scaling"), ALGORITHMS)
def test_of_scores_in_too_small_a_unit_nothing_is_learned_and_a_factor_cures_it(algorithm, scaling):
    config = settings(algorithm, scaling)
    scores = [9e-6, 0.0, 3e-6, 1e-6]
    small = derive_group_lessons(two_groups(scores, [0.0] * 4), config, 0.0)
    assert (small.flat_groups, float(small.advantages.abs().max())) == (1.0, 0.0)
    scaled = derive_group_lessons(two_groups([1e5 * score for score in scores], [0.0] * 4), config, 0.0)
    assert scaled.flat_groups == 0.0
    assert float(scaled.advantages[:, 0].abs().min()) > 0.05


def test_a_drift_above_the_cap_stops_groups_too():
    with pytest.raises(TrainingDiverged, match="the cap is 1"):
        derive_group_lessons(two_groups([1.0] * 4, [2.0] * 4), settings(kl_hard_cap=1.0), 0.1)


def test_tokens_weigh_as_each_algorithm_says():
    counted = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    assert token_weights(counted, PolicyConfig()) is None

    def loss(config):
        return float(aggregate_loss(x * token_weights(counted, config), counted, total=4))

    assert loss(settings("grpo")) == pytest.approx((2.0 + 10.0) / 2)  # each response's mean, then theirs
    assert loss(settings("grpo", "none")) == pytest.approx((6.0 + 10.0) / (2 * 6))  # max_new_tokens 6 for both
    assert loss(settings("rloo")) == pytest.approx((6.0 + 10.0) / (2 * 6))


@pytest.mark.parametrize(("algorithm", "scaling"), ALGORITHMS)
@pytest.mark.parametrize("micro_batch_size", [0, 3])
def test_a_step_has_the_gradient_of_the_plain_formula(make_palm, algorithm, scaling, micro_batch_size):
    config = settings(algorithm, scaling, kl_coefficient=0.3, max_grad_norm=1e6, micro_batch_size=micro_batch_size)
    trainer = make_trainer(make_palm(), config)
    trainer.update(0)  # away from the parent, else its KL has no gradient
    rollout = trainer.roll_out(1)
    lessons = trainer.derive_lessons(rollout)
    now = trainer.model.log_probs(rollout.prompts, rollout.responses).log_probs
    per_token = clipped_policy_loss(now, rollout.log_probs, lessons.advantages, clip_low=config.clip_ratio).per_token
    if algorithm == "grpo":
        per_token = per_token + 0.3 * k3(now, rollout.reference_log_probs)
    kept = torch.where(rollout.mask, per_token, 0.0).sum(dim=1)
    lengths = rollout.mask.sum(dim=1) if (algorithm, scaling) == ("grpo", "deviation") else 6
    expected = torch.autograd.grad((kept / lengths).mean(), trainer.model.actor_parameters())
    trainer.actor_optimizer = torch.optim.SGD(trainer.model.actor_parameters(), lr=0.0)
    trainer.actor_step(list(range(8)), rollout, lessons)
    for parameter, gradient in zip(trainer.model.actor_parameters(), expected, strict=True):
        assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-4


def test_where_all_score_alike_grpo_goes_back_to_its_parent_and_nothing_else_moves(make_palm):
    trainer = make_trainer(make_palm(), settings("grpo", updates=12, kl_coefficient=0.0))
    for index in range(4):
        trainer.update(index)
    trainer.score = lambda prompts, responses: torch.ones(len(responses))
    before = [parameter.clone() for parameter in trainer.model.actor_parameters()]
    trainer.actor_optimizer = torch.optim.SGD(trainer.model.actor_parameters(), lr=1.0)
    assert trainer.update(4)["flat_groups"] == 1.0
    assert all(map(torch.equal, before, trainer.model.actor_parameters()))  # no advantage, and the KL costs nothing
    trainer.controller.coefficient = 1.0
    away = trainer.update(5)["k3"]
    for index in range(6, 12):
        trainer.update(index)
    assert trainer.update(11)["k3"] < away


def test_each_prompt_is_answered_by_a_whole_group_and_all_prompts_come_in_turn(make_palm):
    config = settings(rollout_batch_size=12, group_size=4)
    trainer = make_trainer(make_palm(), config)
    chosen = trainer.choose_prompts(0)
    assert [chosen[at] for at in (0, 4, 8)] == [chosen[at + 3] for at in (0, 4, 8)]
    assert sorted(map(tuple, chosen[::4])) == sorted(map(tuple, PROMPTS))
    rollout = trainer.roll_out(0)
    assert rollout.prompts == chosen
    assert len(set(map(tuple, rollout.responses[:4]))) > 1  # seeds of their own
    # A process whose share begins inside a group draws the same responses.
    seeds = list(range(7, 15))
    whole, part = trainer.draw(chosen[:8], seeds), trainer.draw(chosen[1:8], seeds[1:])
    assert whole.responses[1:] == part.responses


def test_there_is_no_critic(make_palm):
    palm = make_palm()
    config = settings(lora_rank=0)
    model = make_models(palm, config)
    trainer = PolicyTrainer(model, PROMPTS, even_tokens, config, 2)
    assert trainer.critic_optimizer is None
    assert model.critic_trunk is model.reference_palm  # no third copy of the weights
    assert not any(parameter.requires_grad for parameter in model.critic_parameters())
    found = trainer.update(0)
    assert set(found) == set(METRICS["policy"]) - set(CRITIC_METRICS) | set(GROUP_METRICS)
    tensors, values = trainer.capture({})
    assert not any("critic" in name or "value_head" in name for name in tensors)
    assert not bool(trainer.roll_out(1).values.any())
    trainer.restore(tensors, values)


def test_groups_that_are_not_whole_are_refused():
    with pytest.raises(ConfigError, match="rollout_batch_size = 8 is not permitted: a multiple of group_size, 3"):
        settings(group_size=3)
    assert PolicyConfig(group_size=3).responses_per_prompt == 1  # of no matter to ppo


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_run_stopped_inside_a_round_equals_one_left_alone(
    algorithm, tmp_path, policy_path, reward_model_path, some_prompts, monkeypatch
):
    write_prompts(tmp_path / "prompts.jsonl", some_prompts)
    whole, broken = (
        RunDirectory.create(
            tmp_path / name,
            kind="policy",
            config=settings(algorithm, step_save_seconds=0),
            store=tmp_path / "store",
            policy=policy_path,
            reward_model=reward_model_path,
            prompts=tmp_path / "prompts.jsonl",
        )
        for name in ("whole", "broken")
    )
    train_policy(whole)
    watched, passed = RunDirectory.save_or_stop_within, []

    def stop_now_and_then(run, *arguments):
        passed.append(1)
        if len(passed) in (3, 7):
            run.stop_event.set()
        watched(run, *arguments)

    monkeypatch.setattr(RunDirectory, "save_or_stop_within", stop_now_and_then)
    for _ in range(2):
        with pytest.raises(RunStopped):
            train_policy(RunDirectory(broken.path))
    train_policy(RunDirectory(broken.path))
    weights = [load_policy(RunDirectory(run.path).result["outputs"][0]["path"])[0] for run in (whole, broken)]
    first, second = (one.state_dict() for one in weights)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [metrics_of(run) for run in (whole, broken)]
    assert rows[0] == rows[1]
    assert set(rows[0][1]) == set(METRICS["policy"]) - set(CRITIC_METRICS) | set(GROUP_METRICS)
