"""Halves of the feedback that share no prompt, and the judge of one half that watches PPO please the other."""

import math

import pytest
import torch

from rlhf_core.checkpoint import load_reward_model, save_reward_model
from rlhf_core.config import JUDGE_METRICS, METRICS, PolicyConfig, RewardConfig
from rlhf_core.distributed import Group
from rlhf_core.errors import CheckpointError, DatasetError
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import write_feedback, write_prompts
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.feedback import prompt_groups
from rlhf_core.training.halves import half_of, take_part
from rlhf_core.training.ppo import train_policy
from rlhf_core.training.reward import train_reward
from rlhf_core.training.run_directory import RunDirectory, read_events
from rlhf_core.training.watch import judged

QUICK = PolicyConfig(
    updates=2, rollout_batch_size=8, minibatch_size=4, ppo_epochs=1, max_new_tokens=8, critic_warmup_updates=0
)


def parts_of(records):
    groups = prompt_groups(records)
    return [take_part(records, groups, part) for part in ("first", "second", "all")]


def test_the_halves_share_no_prompt_and_are_all_together(rated_responses):
    records = rated_responses(comparisons=90, scores=90, prompts=40)
    first, second, everything = parts_of(records)
    assert everything == records
    assert sorted(map(repr, first + second)) == sorted(map(repr, records))
    assert not {item.prompt_tokens for item in first} & {item.prompt_tokens for item in second}
    assert not {item.prompt_id for item in first} & {item.prompt_id for item in second}
    assert 0.25 < len(first) / len(records) < 0.75


def test_a_prompt_stays_in_its_half_as_feedback_grows(rated_responses):
    records = rated_responses(comparisons=60, prompts=30)
    early, late = parts_of(records[:20]), parts_of(records)
    assert [item for item in late[0] if item in records[:20]] == early[0]
    assert {half_of((1, number)) for number in range(64)} == {"first", "second"}


def test_records_that_stand_together_fall_into_one_half(rated_responses):
    records = rated_responses(comparisons=30, prompts=30)
    joined = [0] * len(records)  # as if all shared a prompt; the smallest tokens decide
    part = half_of(min(item.prompt_tokens for item in records))
    assert take_part(records, joined, part) == records
    other = "second" if part == "first" else "first"
    with pytest.raises(DatasetError, match=f"none of the 30 usable ratings falls into the {other} half"):
        take_part(records, joined, other)


def test_two_reward_models_learn_from_the_two_halves(tmp_path, policy_path, rated_responses):
    records = rated_responses(comparisons=60, scores=20, prompts=30)
    write_feedback(tmp_path / "feedback.jsonl", records)
    learned = []
    for part in ("first", "second"):
        run = RunDirectory.create(
            tmp_path / part,
            kind="reward",
            config=RewardConfig(epochs=1, minimum_ratings=10, part=part),
            store=tmp_path / "store",
            policy=policy_path,
            feedback=tmp_path / "feedback.jsonl",
        )
        train_reward(run)
        meta = load_reward_model(run.result["outputs"][0]["path"])[2]["meta"]
        assert meta["config"]["part"] == part
        learned.append(meta["training_records"] + meta["holdout_records"])
    assert sum(learned) == 80
    assert min(learned) >= 10


def test_the_judges_mean_has_its_standard_error():
    scores = judged(lambda prompts, responses: torch.tensor([1.0, 2.0, 3.0]), [[1]] * 3, [[5], [6], [7]])
    assert scores == {"judge_score": 2.0, "judge_score_error": pytest.approx(1 / math.sqrt(3))}  # s is 1, of 3 values
    assert judged(lambda *_: torch.tensor([1.5]), [[1]], [[5]]) == {"judge_score": 1.5, "judge_score_error": 0.0}


def test_each_of_several_processes_has_its_share_judged():
    asked = []

    def judge(prompts, responses):
        asked.append((prompts, responses))
        return torch.tensor([float(response[0]) for response in responses])

    prompts, responses = [[1], [2], [3]], [[5], [6], [7]]
    scores = judged(judge, prompts, responses, group=Group(rank=1, size=2))  # the first of the two has one row
    assert asked == [([[2], [3]], [[6], [7]])]
    assert scores["judge_score"] == 6.5
    with pytest.raises(ValueError, match="there is no value"):
        judged(judge, prompts[:1], responses[:1], group=Group(rank=0, size=2))
    assert len(asked) == 1  # a process without rows asks nothing


def policy_run(tmp_path, name, policy_path, reward_model_path, some_prompts, **more) -> RunDirectory:
    write_prompts(tmp_path / "prompts.jsonl", some_prompts)
    return RunDirectory.create(
        tmp_path / name,
        kind="policy",
        config=QUICK,
        store=tmp_path / "store",
        policy=policy_path,
        reward_model=reward_model_path,
        prompts=tmp_path / "prompts.jsonl",
        **more,
    )


def metrics_of(run):
    return [event["metrics"] for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "metrics"]


def test_a_judge_scores_the_same_responses_and_changes_nothing(
    tmp_path, policy_path, reward_model_path, some_prompts, make_palm, tiny_tokenizer
):
    other = save_reward_model(tmp_path / "store", RewardModel(make_palm(5), num_binned_output=5), tiny_tokenizer, {})
    alone = policy_run(tmp_path, "alone", policy_path, reward_model_path, some_prompts)
    by_itself = policy_run(tmp_path, "itself", policy_path, reward_model_path, some_prompts, judge=reward_model_path)
    by_other = policy_run(tmp_path, "other", policy_path, reward_model_path, some_prompts, judge=other.path)
    for run in (alone, by_itself, by_other):
        train_policy(run)
    known = set(METRICS["policy"]) - {"tokens_per_second"}
    for without, itself, another in zip(*map(metrics_of, (alone, by_itself, by_other)), strict=True):
        assert set(another) == set(METRICS["policy"]) | set(JUDGE_METRICS)
        assert itself["judge_score"] == pytest.approx(itself["score"], abs=1e-6)
        assert another["judge_score"] != pytest.approx(another["score"], abs=1e-6)
        assert another["judge_score_error"] > 0
        assert {name: without[name] for name in known} == {name: another[name] for name in known}


def test_a_judge_of_another_tokenizer_is_refused(tmp_path, policy_path, reward_model_path, some_prompts, make_palm):
    foreign = Tokenizer.train(["quite other words here, quite other words"] * 3, vocab_size=262)
    model = RewardModel(make_palm(num_tokens=262), num_binned_output=5)
    path = save_reward_model(tmp_path / "store", model, foreign, {}).path
    run = policy_run(tmp_path, "run", policy_path, reward_model_path, some_prompts, judge=path)
    with pytest.raises(CheckpointError, match="the judge reads other tokens"):
        train_policy(run)
