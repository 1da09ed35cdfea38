import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.checkpoint import load_policy, load_reward_model
from rlhf_core.config import RewardConfig
from rlhf_core.errors import DatasetError, TrainingDiverged
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.masking import join_sequences
from rlhf_core.records import Comparison, ScoredResponse, write_feedback
from rlhf_core.text.template import TEMPLATE_SHA256
from rlhf_core.training import reward
from rlhf_core.training.feedback import check_informative, score_to_bin, split_by_prompt
from rlhf_core.training.reward import feedback_loss, plan_steps, reference_responses, train_reward
from rlhf_core.training.reward_measures import measure_holdout
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events
from tests.core.run_steps import metrics_of

FAST = dict(epochs=4, batch_size=16, learning_rate=1e-2, minimum_ratings=20)


@pytest.fixture
def make_run(tmp_path, policy_path):
    def make(records, name="run", **settings):
        write_feedback(tmp_path / f"{name}.jsonl", records)
        return RunDirectory.create(
            tmp_path / name,
            kind="reward",
            config=RewardConfig(**{**FAST, **settings}),
            store=tmp_path / "store",
            policy=policy_path,
            feedback=tmp_path / f"{name}.jsonl",
        )

    return make


def test_comparisons_and_ratings_train_one_model_that_agrees_with_unseen_verdicts(make_run, rated_responses):
    run = make_run(rated_responses(comparisons=240, scores=160), epochs=8, lora_rank=0, learning_rate=5e-3)
    train_reward(run)
    result = run.result
    assert result["outputs"][0]["kind"] == "reward_model"
    final = result["metrics"]
    assert final["holdout_accuracy"] >= 0.85
    assert final["holdout_concordance"] >= 0.85
    assert final["holdout_count"] >= 10
    assert {"loss", "accuracy", "comparison_loss", "score_loss", "learning_rate", "grad_norm"} <= final.keys()
    model, _, manifest = load_reward_model(result["outputs"][0]["path"])
    assert manifest["template_sha256"] == TEMPLATE_SHA256  # rule 36: one template, its hash kept with the model
    # Rule 35: mean 0 and deviation 1 on fresh responses of the parent policy, and the constants were saved.
    palm, tokenizer, _ = load_policy(run.policy)
    prompts, responses = reference_responses(palm, rated_responses(comparisons=240), 99, tokenizer.end, 1.0)
    scores = model.score(join_sequences(prompts, responses))
    assert float(scores.mean()) == pytest.approx(0.0, abs=0.4)
    assert float(scores.std()) == pytest.approx(1.0, abs=0.3)
    # Both directions of use: a good response outscores a bad one.
    pair = join_sequences([[1, 50]] * 2, [[101] * 8 + [2], [121] * 8 + [2]])
    good, bad = model.score(pair).tolist()
    assert good > bad + 1.0


def test_ratings_alone_are_enough(make_run, rated_responses):
    run = make_run(rated_responses(scores=240), name="scores", epochs=8, lora_rank=0, learning_rate=5e-3)
    train_reward(run)
    assert run.result["metrics"]["holdout_accuracy"] >= 0.75


@pytest.mark.parametrize("stop_after", [3, 10])
def test_a_resumed_run_equals_an_uninterrupted_one_rule_43(make_run, rated_responses, monkeypatch, stop_after):
    records = rated_responses(comparisons=40, scores=24)
    whole = make_run(records, name="whole", epochs=3, save_interval=1)
    train_reward(whole)
    broken = make_run(records, name="broken", epochs=3, save_interval=1)
    monkeypatch.setattr(
        RunDirectory, "progress", lambda run, step, total, phase: run.stop_event.set() if step == stop_after else None
    )
    with pytest.raises(RunStopped):
        train_reward(broken)
    monkeypatch.undo()
    resumed = RunDirectory(broken.path)
    train_reward(resumed)
    assert metrics_of(resumed) == metrics_of(whole)
    assert weights_of(resumed).keys() == weights_of(whole).keys()
    assert all(torch.equal(weights_of(resumed)[name], tensor) for name, tensor in weights_of(whole).items())


def weights_of(run):
    return load_reward_model(run.result["outputs"][0]["path"])[0].state_dict()


def test_no_prompt_stands_in_both_parts_rule_33(rated_responses):
    records = rated_responses(comparisons=90, scores=90, prompts=30)
    # The same prompt under another name, and the same name with other tokens: both belong together.
    records.append(Comparison("renamed", records[0].prompt_tokens, (7, 2), (8, 2)))
    records.append(Comparison(records[1].prompt_id, (1, 9), (7, 2), (8, 2)))
    training, holdout = split_by_prompt(records, 0.2, seed=0)
    assert len(training) + len(holdout) == len(records)
    assert 1 <= len({item.prompt_id for item in holdout} - {"renamed"}) <= 12  # a fifth of 30, on average
    assert not {item.prompt_id for item in training} & {item.prompt_id for item in holdout}
    assert not {item.prompt_tokens for item in training} & {item.prompt_tokens for item in holdout}
    assert split_by_prompt(records, 0.2, seed=0) == (training, holdout)
    assert split_by_prompt(records, 0.2, seed=1)[1] != holdout
    assert split_by_prompt(records, 0.0, seed=0)[1] == []
    assert split_by_prompt(records[:1], 0.5, seed=0)[1] == []  # one prompt: nothing can be held out


def test_a_prompt_that_was_held_out_stays_so_as_feedback_grows_rule_33():
    records = [Comparison(f"p{number}", (1, number), (7, 2), (8, 2)) for number in range(2000)]
    _, few = split_by_prompt(records[:500], 0.1, seed=3)
    training, many = split_by_prompt(records, 0.1, seed=3)
    assert {item.prompt_id for item in few} <= {item.prompt_id for item in many}
    assert not {item.prompt_id for item in few} & {item.prompt_id for item in training}
    assert 150 <= len(many) <= 250  # 200 on average, standard deviation 13
    assert len(split_by_prompt(records[:2], 0.5, seed=0)[1]) == 1  # one for each side, whatever the hashes


def test_scores_are_normalised_at_the_temperature_of_the_settings_rule_35(make_run, rated_responses, monkeypatch):
    drawn = []

    def watched(palm, prompts, *, sampling, **options):
        drawn.append(sampling.temperature)
        return generate_batch(palm, prompts, sampling=sampling, **options)

    monkeypatch.setattr(reward, "generate_batch", watched)
    train_reward(make_run(rated_responses(comparisons=30), epochs=1, temperature=0.7))
    assert drawn == [0.7]


def test_each_record_is_seen_once_an_epoch_in_a_fresh_order_rule_32():
    steps = plan_steps(10, RewardConfig(epochs=2, batch_size=4))
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = sum(steps[:3], []), sum(steps[3:], [])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_too_few_ratings_are_refused_with_what_was_found_and_needed(make_run, rated_responses):
    records = [*rated_responses(comparisons=7), Comparison("p", (1,), (9, 2), (9, 2))]
    with pytest.raises(DatasetError, match=r"found 7 usable ratings \(1 more compare.*at least 20 are needed"):
        train_reward(make_run(records))


def test_one_sided_ratings_are_refused():
    same = [ScoredResponse(f"p{n}", (1, n), (5, 2), 4) for n in range(30)]
    ties = [Comparison(f"p{n}", (1, n), (5, 2), (6, 2), strength=0) for n in range(30)]
    with pytest.raises(DatasetError, match="30 of 30 scores found are the same"):
        check_informative(same, "found")
    with pytest.raises(DatasetError, match="30 of 30 comparisons found are ties"):
        check_informative(ties, "found")
    with pytest.raises(DatasetError, match="30 of 30 scores .* and 30 of 30 comparisons are ties"):
        check_informative([*same, *ties], "found")
    check_informative([*same, ScoredResponse("a", (1,), (5,), 1), ScoredResponse("b", (1,), (5,), 2)], "found")
    check_informative([*ties, *[Comparison("a", (1,), (5,), (6,))] * 2], "found")


def test_tokens_that_the_policy_does_not_know_are_refused(make_run, rated_responses):
    records = [*rated_responses(comparisons=30), Comparison("p", (1,), (9999, 2), (9, 2), rating_id="r7")]
    with pytest.raises(DatasetError, match="'r7' holds token 9999; the policy knows 0 to 258"):
        train_reward(make_run(records))


def not_a_number(loss):
    return loss * float("nan")


def infinite_gradient(loss):
    """The same loss; its gradient overflows on the way back."""
    loss.register_hook(lambda gradient: gradient * float("inf"))
    return loss


@pytest.mark.parametrize("spoil", [not_a_number, infinite_gradient])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_state_rule_42(
    make_run, rated_responses, monkeypatch, spoil
):
    run = make_run(rated_responses(comparisons=40), save_interval=1)
    calls = []

    def poisoned(model, *others, **named):
        calls.append(model)
        found = feedback_loss(model, *others, **named)
        return found if len(calls) < 3 else replace(found, loss=spoil(found.loss))

    monkeypatch.setattr(reward, "feedback_loss", poisoned)
    with pytest.raises(TrainingDiverged, match="step 3"):
        train_reward(run)
    state = run.load_state()
    assert state.step == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.tensors.values())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in calls[0].parameters())


def test_the_gradient_is_clipped_to_the_setting_rule_31(make_run, rated_responses, monkeypatch):
    found = {}

    def plain_descent(model, config):  # moves by the very gradient it is given; Adam's steps would hide its length
        found["weights"] = model.finetune_parameters()
        found["before"] = [weight.detach().clone() for weight in found["weights"]]
        return torch.optim.SGD([{"params": found["weights"], "factor": 1.0}], lr=1.0)

    monkeypatch.setattr(reward, "make_optimizer", plain_descent)
    settings = dict(epochs=1, batch_size=40, holdout_fraction=0.0, learning_rate=1.0, max_grad_norm=0.01)
    run = make_run(rated_responses(comparisons=40), **settings)
    train_reward(run)
    moved = [(new.detach() - old).flatten() for old, new in zip(found["before"], found["weights"], strict=True)]
    assert run.result["metrics"]["grad_norm"] > 0.02  # measured before clipping
    assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=1e-3)


def test_the_first_step_already_knows_the_raters_habits(make_run, rated_responses):
    ties = [replace(item, strength=0) for item in rated_responses(comparisons=60)]
    run = make_run([*ties[2:], *rated_responses(comparisons=2)], epochs=1, batch_size=60, holdout_fraction=0.0)
    train_reward(run)
    # 58 of 60 are ties: hardly a surprise to one who knows it. Seven verdicts equally common would cost log 7 = 1.95.
    assert run.result["metrics"]["comparison_loss"] < 0.6


def test_equal_seeds_give_equal_metrics_and_other_seeds_others_rule_44(make_run, rated_responses):
    records = rated_responses(comparisons=30)
    logs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = make_run(records, name=name, seed=seed, epochs=1)
        train_reward(run)
        logs.append(json.dumps(metrics_of(run), sort_keys=True))
    assert logs[0] == logs[1] != logs[2]


def test_the_learning_rate_falls_linearly_to_zero_rule_29(make_run, rated_responses):
    run = make_run(rated_responses(comparisons=40), epochs=1, batch_size=9, holdout_fraction=0.0, learning_rate=0.01)
    train_reward(run)
    rates = [metrics["learning_rate"] for metrics in metrics_of(run).values()]
    assert rates == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])


def test_the_loss_of_a_mixed_batch_is_the_mean_over_verdicts_by_weight(make_palm, rated_responses):
    model = reward.RewardModel(make_palm(), dropout=0.0, num_binned_output=5)
    compared = Comparison("p", (1, 5), (101, 2), (121, 2), strength=1, weight=3.0)
    scored = ScoredResponse("p", (1, 5), (101, 102, 2), 5, weight=1.0)
    both = feedback_loss(model, [compared, scored]).loss
    one, other = feedback_loss(model, [compared]).loss, feedback_loss(model, [scored]).loss
    assert_close(both, (3 * one + other) / 4)


def test_holdout_measures_by_hand(make_palm, monkeypatch):
    model = reward.RewardModel(make_palm(), num_binned_output=5)
    values = iter([torch.tensor([2.0, 1.0, 1.0, 2.0, 3.0, 0.0, 4.0, 3.0, 5.0])])
    monkeypatch.setattr(model, "value", lambda outputs: next(values))
    holdout = [
        Comparison("p", (1,), (5,), (6,)),  # 2 > 1: right
        Comparison("p", (1,), (5,), (6,)),  # 1 < 2: wrong
        Comparison("p", (1,), (5,), (6,), strength=0),  # a tie is not counted
        ScoredResponse("p", (1,), (5,), 5),
        ScoredResponse("p", (1,), (5,), 1),
        ScoredResponse("p", (1,), (5,), 3),
    ]
    found = measure_holdout(model, holdout)
    # scores 5, 1, 3 with values 4, 3, 5: pairs (5,1) right, (5,3) wrong, (1,3) right
    assert found == {"holdout_count": 2, "holdout_accuracy": 0.5, "holdout_concordance": pytest.approx(2 / 3)}


def test_scores_spread_over_any_number_of_bins():
    assert [score_to_bin(score, 5) for score in range(1, 6)] == [0, 1, 2, 3, 4]
    assert [score_to_bin(score, 9) for score in range(1, 6)] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("save_interval", [1, 1000])
def test_what_follows_the_last_step_gives_signs_of_life_and_costs_no_step_again(
    make_run, rated_responses, monkeypatch, save_interval
):
    run = make_run(rated_responses(comparisons=70, scores=40), epochs=1, ensemble=2, save_interval=save_interval)
    steps = []

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(reward, "fit_posterior", fail)
    with pytest.raises(MemoryError):
        train_reward(run)
    monkeypatch.undo()
    descend = reward.descend
    monkeypatch.setattr(reward, "descend", lambda *given, **more: steps.append(1) or descend(*given, **more))
    run = RunDirectory(run.path)
    train_reward(run)
    assert steps == []
    events = read_events(run.path / "events.jsonl")[0]
    told = [event for event in events if event.get("phase") == "normalise"]
    saved = [event["step"] for event in events if event["kind"] == "saved"]
    assert len(saved) == len(set(saved)), "no step is saved twice, nor again as the run goes on"
    assert len(told) >= 2 + 3, "once before each fitting, and after each 32 of its records"
