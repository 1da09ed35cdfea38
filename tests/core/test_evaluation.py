"""Numbers that compare policies, by hand; and a whole evaluation from files."""

import json
import math
from dataclasses import replace

import pytest
import torch

from rlhf_core.checkpoint import load_reward_model, save_policy, save_reward_model
from rlhf_core.config import METRICS, EvaluateConfig
from rlhf_core.errors import CheckpointError, DatasetError
from rlhf_core.evaluation import (
    describe_responses,
    distinct_n,
    estimate,
    paired_difference,
    repetition,
    sequence_kl_estimate,
    t_95,
)
from rlhf_core.generation.log_probs import sequence_log_probs
from rlhf_core.kl import k1, sequence_kl
from rlhf_core.masking import join_sequences
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import write_prompts
from rlhf_core.rewards import Composite, length_reward, reward_of
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.evaluate import SAMPLES, evaluate_policy
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events
from rlhf_core.training.scoring import Scoring

# Numbers by hand


def test_a_mean_comes_with_its_standard_error_and_interval():
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert found.value == 3.0
    assert found.error == pytest.approx(math.sqrt(14 / 3 / 4))  # squares 4 + 1 + 0 + 9, by n - 1, by n
    assert found.low == pytest.approx(3.0 - 3.1824 * math.sqrt(14 / 12), abs=5e-3)  # t with 3 degrees of freedom
    assert found.low + found.high == pytest.approx(6.0)
    assert found.as_dict()["count"] == 4


def test_a_single_value_has_no_interval_and_none_is_refused():
    assert estimate([2.5]).as_dict() == {"value": 2.5, "error": None, "low": None, "high": None, "count": 1}
    with pytest.raises(ValueError, match="no value"):
        estimate([])


@pytest.mark.parametrize(
    ("freedom", "known"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (319, 1.96743)]
)
def test_the_quantiles_of_t_are_those_of_the_tables(freedom, known):
    assert t_95(freedom) == pytest.approx(known, rel=2e-3)


def test_a_paired_difference_leaves_out_what_the_pairs_share():
    ours, theirs = [101.0, 52.0, 13.0], [100.0, 50.0, 10.0]  # differences 1, 2, 3
    found = paired_difference(ours, theirs)
    assert (found.value, found.count) == (2.0, 3)
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert paired_difference(theirs, ours).value == -2.0
    with pytest.raises(ValueError, match="zip"):
        paired_difference(ours, theirs[:2])


def test_a_sequence_kl_is_the_sum_over_tokens_and_its_error_is_over_rows():
    found = sequence_kl_estimate([[1.0, 2.0], [5.0], [0.5, 0.5]])  # rows 3, 5, 1
    assert (found.value, found.count) == (3.0, 3)
    assert found.error == pytest.approx(2 / math.sqrt(3))  # variance (0 + 4 + 4) / 2


def test_distinct_n_by_hand():
    assert distinct_n([[1, 2, 1, 2], [5]], 2) == pytest.approx(2 / 3)  # 12, 21, 12; none across responses
    assert distinct_n([[1, 2, 1, 2], [5]], 1) == pytest.approx(3 / 5)
    assert distinct_n([[1, 2, 1, 2], [5]], 3) == 1.0  # 121, 212
    assert distinct_n([[5]], 2) == 0.0


def test_repetition_by_hand():
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)  # five runs of four, 1234 twice
    assert repetition([7] * 9) == pytest.approx(5 / 6)  # six runs, all the same
    assert repetition([1, 2, 3]) == 0.0


def test_responses_are_described_by_their_means():
    found = describe_responses([[1, 2, 3, 2], [1, 1]], [True, False])
    assert found["response_length"] == 3.0
    assert found["end_rate"] == 0.5
    assert found["distinct_1"] == 0.5  # 1, 2, 3 of six
    assert found["distinct_2"] == 1.0
    assert found["repetition"] == 0.0
    with pytest.raises(ValueError, match="at least one"):
        describe_responses([], [])


# A whole evaluation


@pytest.fixture
def policies(tmp_path, make_palm, tiny_tokenizer):
    """Three stored policies: the base, its child, and a child of that."""
    return [save_policy(tmp_path / "store", make_palm(seed), tiny_tokenizer, {"seed": seed}) for seed in range(3)]


@pytest.fixture
def make_run(tmp_path, policies, reward_model_path, some_prompts):
    write_prompts(tmp_path / "prompts.jsonl", some_prompts)

    def make(name="run", *, candidate=2, with_reward=True, references=None, reward_model=None, **settings):
        base, parent, _ = policies
        config = {"max_new_tokens": 6, "threads": 1, "batch_size": 3, "temperature": 0.8, **settings}
        return RunDirectory.create(
            tmp_path / name,
            kind="evaluate",
            config=EvaluateConfig(**config),
            store=tmp_path / "store",
            policy=policies[candidate].path,
            reward_model=(reward_model or reward_model_path) if with_reward else None,
            prompts=tmp_path / "prompts.jsonl",
            references={"parent": parent.path, "base": base.path} if references is None else references,
        )

    return make


def evaluated(run):
    evaluate_policy(run)
    lines = [json.loads(line) for line in (run.path / SAMPLES).read_text().splitlines()]
    return run.result, lines


def test_every_policy_answers_every_prompt_once(make_run, policies, some_prompts, make_palm):
    result, lines = evaluated(make_run())
    assert result["outputs"] == []
    assert set(result["metrics"]) == set(METRICS["evaluate"])
    report = result["report"]
    assert report["checkpoints"] == {"candidate": policies[2].id, "parent": policies[1].id, "base": policies[0].id}
    for policy in policies:
        answered = [line["prompt_id"] for line in lines if line["checkpoint"] == policy.id]
        assert answered == [prompt.prompt_id for prompt in some_prompts]
    assert len({line["seed"] for line in lines}) == len(lines)
    rewards = {policy.id: [line["reward"] for line in lines if line["checkpoint"] == policy.id] for policy in policies}
    differences = [a - b for a, b in zip(rewards[policies[2].id], rewards[policies[1].id], strict=True)]
    assert report["reward_differences"]["parent"]["value"] == pytest.approx(sum(differences) / 4)
    assert report["reward_differences"]["parent"]["count"] == 4
    assert report["policies"]["base"]["reward"]["value"] == pytest.approx(sum(rewards[policies[0].id]) / 4)


@pytest.fixture
def ensemble(tmp_path, make_palm, tiny_tokenizer):
    """A stored ensemble whose three members disagree."""
    torch.manual_seed(1)
    model = RewardModel(make_palm(), num_binned_output=5, ensemble=3)
    model.reward_mean.copy_(torch.tensor([0.0, 1.0, -1.0]))
    return save_reward_model(tmp_path / "store", model, tiny_tokenizer, {}).path


def test_an_ensemble_reads_each_answer_once_a_member(make_run, ensemble, monkeypatch):
    passes, pool = [], RewardModel.pool

    def count(self, x, *args, **kwargs):
        passes.append(len(x))
        return pool(self, x, *args, **kwargs)

    monkeypatch.setattr(RewardModel, "pool", count)
    _, lines = evaluated(make_run(reward_model=ensemble))
    assert sum(passes) == 3 * len(lines) == 36  # members, answers: three policies to four prompts
    model = load_reward_model(ensemble)[0]
    for line in lines:
        read = join_sequences([line["prompt_tokens"]], [line["tokens"]])
        assert line["reward"] == pytest.approx(float(model.score(read)), abs=1e-4)
        assert line["uncertainty"] == pytest.approx(float(model.uncertainty(read)), abs=1e-4)
        assert line["uncertainty"] > 0.5  # of members at 0, -1 and 1: about 0.8


def test_a_function_is_added_to_an_ensembles_scores_and_not_to_their_uncertainty(ensemble):
    model, read = reward_of(load_reward_model(ensemble)[0], 2), ([[1, 5]] * 2, [[10, 2], [11, 12, 2]])
    alone, uncertainty = model.score_with_uncertainty(*read)
    function = length_reward(0, 1)  # -1 and -2 here: both are longer
    both = Scoring(Composite({"model": model, "function": function}), model, function, {})
    scores, told = both.score_with_uncertainty(*read)
    assert scores == pytest.approx([float(alone[0]) - 1, float(alone[1]) - 2])
    assert scores == pytest.approx(both.score(*read).tolist())
    assert told == uncertainty.tolist()
    assert Scoring(function, None, function, {}).score_with_uncertainty(*read) == ([-1.0, -2.0], [None, None])


def test_the_kl_is_that_of_the_candidates_responses_at_the_sampling_temperature(make_run, policies, make_palm):
    result, lines = evaluated(make_run())
    mine = [line for line in lines if line["checkpoint"] == policies[2].id]
    prompts, responses = [line["prompt_tokens"] for line in mine], [line["tokens"] for line in mine]
    with torch.no_grad():
        candidate = sequence_log_probs(make_palm(2).eval(), prompts, responses, temperature=0.8)
        base = sequence_log_probs(make_palm(0).eval(), prompts, responses, temperature=0.8)
    expected = sequence_kl(k1(candidate.log_probs, base.log_probs), candidate.mask)
    assert result["report"]["kl"]["base"]["value"] == pytest.approx(float(expected), rel=1e-4)
    assert result["metrics"]["kl_base"] == result["report"]["kl"]["base"]["value"]
    drawn = [line["log_prob"] for line in mine]
    assert drawn == pytest.approx(candidate.log_probs.sum(dim=1).tolist(), rel=1e-3)


def test_a_policy_is_at_no_distance_from_itself_and_is_asked_once(make_run, policies, some_prompts):
    twice = {"parent": policies[1].path, "base": policies[1].path}
    result, lines = evaluated(make_run(candidate=1, references=twice))
    assert len(lines) == len(some_prompts)
    for estimator in (result["report"]["kl"]["base"], result["report"]["kl"]["parent"]["k3"]):
        assert (estimator["value"], estimator["error"]) == (0.0, 0.0)
    assert result["report"]["reward_differences"]["parent"]["value"] == 0.0


def test_equal_settings_give_equal_responses_and_another_seed_gives_others(make_run):
    _, first = evaluated(make_run("one"))
    _, again = evaluated(make_run("two", batch_size=64))
    _, other = evaluated(make_run("three", seed=1))
    assert [line["tokens"] for line in first] == [line["tokens"] for line in again]
    assert all(a["seed"] != b["seed"] for a, b in zip(first, other, strict=True))


def test_fewer_prompts_are_the_first_ones(make_run, some_prompts):
    result, lines = evaluated(make_run(prompts=2))
    assert result["report"]["prompts"] == 2
    assert {line["prompt_id"] for line in lines} == {prompt.prompt_id for prompt in some_prompts[:2]}


def test_without_a_reward_model_all_but_the_reward_is_measured(make_run):
    result, lines = evaluated(make_run(with_reward=False))
    assert {line["reward"] for line in lines} == {None}
    assert result["report"]["reward_differences"] == {}
    assert result["report"]["policies"]["candidate"]["reward"] is None
    assert set(METRICS["evaluate"]) - set(result["metrics"]) == {
        "reward",
        "reward_difference",
        "reward_difference_error",
    }


def test_a_stopped_run_asks_no_policy_twice_and_finds_the_same(make_run, some_prompts):
    straight, _ = evaluated(make_run("straight"))
    run = make_run("stopped")

    def stop_in_the_second(event):
        if event["kind"] == "progress" and event["step"] == len(some_prompts) + 3:
            run.stop_event.set()

    run.listener = stop_in_the_second
    with pytest.raises(RunStopped, match="4 responses that are kept"):
        evaluate_policy(run)
    assert run.result is None
    again = RunDirectory(run.path)
    result, lines = evaluated(again)
    assert result["report"] == straight["report"]
    steps = [event["step"] for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "progress"]
    assert steps == [0, 3, 4, 4, 7, 4, 7, 8, 8, 11, 12]  # the candidate's four once; the second policy from its start


def test_what_cannot_be_evaluated_is_refused(make_run, policies, tmp_path, make_palm):
    run = make_run("empty")
    (run.path / "prompts.jsonl").write_text("")
    with pytest.raises(DatasetError, match="0 held-out prompts"):
        evaluate_policy(run)
    other = Tokenizer.train(["another text altogether"] * 3, 262)
    foreign = save_policy(tmp_path / "store", make_palm(5, num_tokens=262), other, {})
    with pytest.raises(CheckpointError, match="tokenizers differ"):
        evaluate_policy(make_run("foreign", references={"parent": foreign.path, "base": policies[0].path}))


def test_the_settings_say_how_samples_are_drawn():
    config = EvaluateConfig(temperature=0.7, top_p=0.9, max_new_tokens=9)
    assert (config.sampling.temperature, config.sampling.top_p, config.sampling.max_new_tokens) == (0.7, 0.9, 9)
    assert replace(config, prompts=0).prompts == 0
