import json
import math

import pytest
import torch

from rlhf_core import RLHFTrainer, takes_batches
from rlhf_core.checkpoint import read_checkpoint
from rlhf_core.cli import main
from rlhf_core.ensembles import combine_scores, disagreement
from rlhf_core.errors import ConfigError, FunctionError
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import write_prompts
from rlhf_core.rewards import (
    Composite,
    Ensemble,
    checked,
    end_reward,
    length_reward,
    pattern_reward,
    reward_from_function,
    reward_of,
    token_reward,
)
from rlhf_core.training.run_directory import RunDirectory, read_events

TINY = dict(num_episodes=1, max_timesteps=8, update_timesteps=8, max_batch_size=8, max_seq_len=12)


def fixed(*values):
    return lambda prompts, responses: torch.tensor(values)


def test_a_function_reads_the_texts_without_special_tokens(tiny_tokenizer):
    read = []

    def length(prompt, response):
        read.append((prompt, response))
        return len(response)

    encode = tiny_tokenizer.encode
    prompts, responses = [[1, *encode("a film")]] * 2, [[*encode(" was"), 2], [*encode(" is dull")]]
    assert reward_from_function(length, tiny_tokenizer)(prompts, responses).tolist() == [4.0, 8.0]
    assert read == [("a film", " was"), ("a film", " is dull")]


def test_a_function_of_lists_is_called_once(tiny_tokenizer):
    calls = []

    @takes_batches
    def lengths(prompts, responses):
        calls.append(len(responses))
        return [len(response) for response in responses]

    reward = reward_from_function(lengths, tiny_tokenizer)
    assert reward([[1]] * 3, [[100], [100, 101], [100, 101, 2]]).tolist() == [1.0, 2.0, 2.0]
    assert calls == [3]


def test_rules_by_hand(tiny_tokenizer):
    encode = tiny_tokenizer.encode
    rows = [[*encode("good, good"), 2], encode("bad"), [2]]
    prompts = [[1]] * 3
    assert pattern_reward("go+d", tiny_tokenizer)(prompts, rows).tolist() == [2.0, 0.0, 0.0]
    wanted, banned = {encode("g")[0]}, {encode("d")[0]}
    assert token_reward(wanted, banned)(prompts, rows).tolist() == [0.0, -1.0, 0.0]  # two g, two d; one d
    assert token_reward(wanted)(prompts, rows).tolist() == [2.0, 0.0, 0.0]
    assert token_reward(banned=banned, once=True)(prompts, rows).tolist() == [-1.0, -1.0, 0.0]
    assert length_reward(3, 4)(prompts, rows).tolist() == [-7.0, 0.0, -2.0]  # 11, 3 and 1 tokens
    assert end_reward(2)(prompts, rows).tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda tokenizer: pattern_reward("(", tokenizer), "pattern = '\\(' is not permitted: a regular expression"),
        (lambda tokenizer: token_reward(), "wanted = .* some token ids"),
        (lambda tokenizer: token_reward([3, 4], [4, 5]), r"banned = \[4\] .* not wanted as well"),
        (lambda tokenizer: length_reward(5, 4), "longest = 4 .* at least shortest, which is 5"),
        (lambda tokenizer: Composite({}), "parts = .* one reward at least"),
        (lambda tokenizer: Composite({"a": end_reward(2)}, {"b": 1.0}), "weights = 'b' .* of the parts: a"),
        (lambda tokenizer: Composite({"a": end_reward(2)}, {"a": math.nan}), r"weights\['a'\] = nan"),
        (lambda tokenizer: Ensemble([end_reward(2)]), "members = 1 .* at least 2"),
        (
            lambda tokenizer: Ensemble([end_reward(2)] * 2, "median"),  # type: ignore[arg-type]
            "ensemble_scoring = 'median' .* one of mean, worst",
        ),
        (lambda tokenizer: Ensemble([end_reward(2)] * 2, "worst", -1.0), "ensemble_penalty = -1.0 .* at least 0"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_name(tiny_tokenizer, make, said):
    with pytest.raises(ConfigError, match=said):
        make(tiny_tokenizer)


def test_a_composite_weighs_its_parts_and_tells_them():
    reward = Composite({"helpful": fixed(1.0, 2.0), "length": fixed(4.0, 0.0)}, {"length": -0.5})
    assert reward([[1]] * 2, [[5]] * 2).tolist() == [-1.0, 2.0]
    assert reward.latest == {"helpful": 1.5, "length": 2.0}
    assert {name: part.tolist() for name, part in reward.values([[1]] * 2, [[5]] * 2).items()} == {
        "helpful": [1.0, 2.0],
        "length": [4.0, 0.0],
    }


def test_a_reward_model_can_go_on_learning_after_it_was_asked(make_palm):
    model = RewardModel(make_palm(), num_binned_output=5)
    learning = len(model.finetune_parameters())
    assert not reward_of(model, 2)([[1, 5]], [[10, 2]]).requires_grad
    assert len(model.finetune_parameters()) == learning > 0


def test_an_ensembles_scores_by_hand():
    members = torch.tensor([[1.0, 5.0], [3.0, 5.0]])  # variances 1 and 0
    assert combine_scores(members, "mean", 1.0).tolist() == [2.0, 5.0]
    assert combine_scores(members, "worst", 1.0).tolist() == [1.0, 5.0]
    assert combine_scores(members, "mean-variance", 0.5).tolist() == [1.5, 5.0]
    assert disagreement(members).tolist() == [1.0, 0.0]
    ensemble = Ensemble([fixed(1.0, 5.0), fixed(3.0, 5.0)], "mean-variance", 2.0)
    assert ensemble([[1]] * 2, [[5]] * 2).tolist() == [0.0, 5.0]
    assert ensemble.uncertainty([[1]] * 2, [[5]] * 2).tolist() == [1.0, 0.0]


def test_score_and_uncertainty_come_of_one_pass_of_each_member(make_palm):
    asked = []

    def member(*values):
        return lambda prompts, responses: asked.append(1) or torch.tensor(values)

    both = Ensemble([member(1.0, 5.0), member(3.0, 5.0)], "mean").score_with_uncertainty([[1]] * 2, [[5]] * 2)
    assert [one.tolist() for one in both] == [[2.0, 5.0], [1.0, 0.0]]
    assert len(asked) == 2

    model = RewardModel(make_palm(), num_binned_output=5, ensemble=3)
    model.reward_mean.copy_(torch.tensor([0.0, 1.0, -1.0]))  # untrained members are alike: told apart by hand
    model.combined_std.fill_(2.0)
    reward, read = reward_of(model, 2), ([[1, 5], [1]], [[10, 2], [11, 12, 2]])
    apart = reward(*read), reward.uncertainty(*read)
    passes = []
    model.palm.register_forward_hook(lambda *_: passes.append(1))
    torch.testing.assert_close(reward.score_with_uncertainty(*read), apart)
    assert len(passes) == 3, "the trunk is read once a member"
    assert reward_of(RewardModel(make_palm()), 2).score_with_uncertainty(*read)[1] is None


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (fixed(1.0), r"the reward 'mine': the reward gave the shape \(1,\) for 2 responses; 2 finite numbers"),
        (lambda prompts, responses: torch.zeros(2, 1), r"gave the shape \(2, 1\)"),
        (fixed(0.0, math.nan), r"gives nan for 1 of 2 responses, .* row 1, which begins with the tokens \[7, 8\]"),
        (lambda prompts, responses: [1.0], "the reward 'mine': the reward gave 1 scores for 2 responses"),
        (lambda prompts, responses: 1 / 0, "fails at 2 responses: ZeroDivisionError"),
    ],
)
def test_what_no_reward_may_give_is_refused_with_cause_and_row(reward, said):
    for asked in (checked(reward, "mine"), Composite({"mine": reward})):
        with pytest.raises(FunctionError, match=said):
            asked([[1], [1]], [[5], [7, 8]])


# In training


@pytest.fixture
def prompts():
    return torch.randint(100, 150, (4, 4), generator=torch.Generator().manual_seed(0))


def trainer(palm, prompts, **scored):
    return RLHFTrainer(palm=palm, prompt_token_ids=prompts, actor_lr=1e-2, **scored)


def test_a_trainer_takes_a_function_of_texts(make_palm, prompts, tiny_tokenizer):
    def letters(prompt, response):
        assert isinstance(prompt, str)
        return sum(letter.isalpha() for letter in response)

    found = trainer(make_palm(), prompts, reward_function=letters, tokenizer=tiny_tokenizer)
    history = found.train(**TINY).history
    assert 0 < history[0]["score"] < 8
    answer = found.generate(12, prompt=prompts[0], num_samples=16)
    assert letters("", tiny_tokenizer.decode(answer[4:].tolist())) > history[0]["score"]  # the best of 16


def test_a_trainer_takes_a_composite_of_a_model_and_a_rule_and_tells_its_parts(make_palm, prompts):
    palm = make_palm()
    model = reward_of(RewardModel(palm, num_binned_output=5), None)
    reward = Composite({"model": model, "long": length_reward(100, 200)}, {"long": 0.01})
    history = trainer(palm, prompts, reward=reward).train(**TINY).history
    assert history[0]["score_long"] == -92.0  # 8 tokens each
    assert history[0]["score"] == pytest.approx(history[0]["score_model"] - 0.92, abs=1e-5)


def test_a_trainer_wants_one_reward_and_a_tokenizer_for_texts(make_palm, prompts):
    palm = make_palm()
    for scored in ({}, {"reward": end_reward(2), "reward_function": max}):
        with pytest.raises(ValueError, match="exactly one of reward_model, reward and reward_function"):
            trainer(palm, prompts, **scored)
    with pytest.raises(ValueError, match="a reward_function reads texts: give tokenizer"):
        trainer(palm, prompts, reward_function=lambda prompt, response: 1.0)


def test_a_trainer_stops_at_a_reward_that_is_no_number(make_palm, prompts):
    broken = trainer(make_palm(), prompts, reward=lambda prompts, responses: torch.full((len(prompts),), math.nan))
    with pytest.raises(FunctionError, match="gives nan for 8 of 8 responses, the first of them row 0"):
        broken.train(**TINY)


POLICY = ["--rollout-batch-size", "8", "--minibatch-size", "8", "--max-new-tokens", "6", "--lora-rank", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch, some_prompts):
    """A folder with prompts and a module of rewards; the test stands in it."""
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path / "prompts.jsonl", some_prompts)
    (tmp_path / "rewards_for_tests.py").write_text(
        "def length(prompt, response):\n    return len(response)\n\n"
        "def flat(prompt, response):\n    return 1\n\n"
        "def broken(prompt, response):\n    return 1 / 0\n"
    )
    return tmp_path


def improve(policy_path, *more):
    files = ["--policy", str(policy_path), "--prompts", "prompts.jsonl", "--store", "store", "--progress", "none"]
    return main(["policy", "--run-dir", "run", *files, "--updates", "1", *POLICY, *more])


def test_a_function_is_a_reward_on_the_command_line(here, policy_path, reward_model_path, capsys):
    assert improve(policy_path, "--reward", "rewards_for_tests:length") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"]["score"] > 1.0  # the mean of some letters, no model's score
    meta = read_checkpoint(here / "store" / result["outputs"][0]["id"])[0]["meta"]
    assert (meta["reward"], meta["reward_model"]) == ("rewards_for_tests:length", None)

    files = ["--policy", result["outputs"][0]["path"], "--parent", str(policy_path), "--held-out", "prompts.jsonl"]
    drawn = ["--max-new-tokens", "6", "--progress", "none", "--reward", "rewards_for_tests:length"]
    assert main(["evaluate", "--run-dir", "alone", *files, *drawn]) == 0
    alone = json.loads((here / "alone/samples.jsonl").read_text().splitlines()[0])
    assert alone["reward"] == len(alone["text"])
    assert main(["evaluate", "--run-dir", "both", *files, *drawn, "--reward-model", str(reward_model_path)]) == 0
    both = json.loads((here / "both/samples.jsonl").read_text().splitlines()[0])
    assert both["text"] == alone["text"]
    assert 0 <= both["reward"] - alone["reward"] <= 4  # an unnormalised score of five bins comes on top


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rewards_for_tests:gone", "has no 'gone'"),
        ("nowhere_at_all:length", "no module 'nowhere_at_all' to take the reward from"),
        ("length", "not of the form module:function"),
    ],
)
def test_a_reward_that_is_none_is_refused_before_anything_is_made(here, policy_path, capsys, name, said):
    assert improve(policy_path, "--reward", name) == 2
    assert said in capsys.readouterr().err
    assert not (here / "run").exists()


def test_a_policy_run_needs_a_reward(here, policy_path, capsys):
    assert improve(policy_path) == 2
    assert "given (--reward-model), or else --reward" in capsys.readouterr().err


def test_a_reward_that_fails_ends_the_run_with_2_and_names_the_text(here, policy_path):
    assert improve(policy_path, "--reward", "rewards_for_tests:broken") == 2
    error = json.loads((here / "run/error.json").read_text())
    assert error["error"] == "FunctionError"
    assert "(row 0): ZeroDivisionError" in error["message"]


def test_a_reward_that_tells_nothing_apart_is_told_in_the_log(here, policy_path):
    assert improve(policy_path, "--reward", "rewards_for_tests:flat") == 0
    events = read_events(RunDirectory(here / "run").path / "events.jsonl")[0]
    told = [event["message"] for event in events if event["kind"] == "log"]
    assert ["gives 1 to all 8 responses of its first batch" in line for line in told] == [True]
