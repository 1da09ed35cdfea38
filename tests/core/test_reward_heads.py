"""The kinds of heads, the two ways of pooling, and ensembles over one trunk."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.checkpoint import load_reward_model, save_reward_model
from rlhf_core.config import RewardConfig
from rlhf_core.errors import CheckpointError, ConfigError, DatasetError, TrainingDiverged
from rlhf_core.masking import Sequences, join_sequences
from rlhf_core.modules.reward_head import RewardHead, rising, spaced
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, ScoredResponse, write_feedback
from rlhf_core.rewards import reward_of
from rlhf_core.training import reward
from rlhf_core.training.feedback import bootstrap_by_prompt
from rlhf_core.training.reward import feedback_loss, make_optimizer, train_reward
from rlhf_core.training.reward_measures import calibrate, calibration_of, holdout_values
from rlhf_core.training.run_directory import RunDirectory

HEADS = {"binned": 5, "ordinal": 5, "scalar": 0, "pairwise": 0}


PROMPTS, RESPONSES = [[1, 5, 6], [1, 7], [1, 9]], [[10, 11, 2], [12, 13, 14, 15, 2], [16, 2]]


def ragged():
    return join_sequences(PROMPTS, RESPONSES)


def stirred(palm, **settings):
    """A reward model whose adapters and segments are no longer zero, each member's its own."""
    torch.manual_seed(7)
    model = RewardModel(palm, **settings).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "embedding" in name or name == "head.weight":
                parameter.normal_(std=0.2)
    return model


# Heads


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_learns_which_response_is_better_by_how_much(make_palm, kind):
    model = RewardModel(make_palm(), dropout=0.0, num_binned_output=HEADS[kind], head=kind)
    optimizer = make_optimizer(model, RewardConfig(learning_rate=2e-2))
    verdicts = [
        Comparison("p", (1, 5), (101, 102, 2), (121, 122, 2), strength=3),
        Comparison("p", (1, 5), (101, 121, 2), (122, 102, 2), strength=0),
    ]
    first = feedback_loss(model, verdicts)
    for _ in range(30):
        optimizer.zero_grad()
        feedback_loss(model, verdicts).loss.backward()
        optimizer.step()
    last = feedback_loss(model, verdicts)
    assert last.metrics["loss"] < 0.5 * first.metrics["loss"]
    assert last.metrics["accuracy"] == 1.0
    values = model.value(
        model.head_outputs(join_sequences([[1, 5]] * 4, [[101, 102, 2], [121, 122, 2], [101, 121, 2], [122, 102, 2]]))
    )
    apart = (values[0, 0] - values[0, 1], (values[0, 2] - values[0, 3]).abs())
    assert apart[0] > 2 * apart[1]  # much better against a tie


@pytest.mark.parametrize("kind", ["binned", "ordinal", "scalar"])
def test_every_head_but_the_pairwise_learns_ratings(make_palm, kind):
    model = RewardModel(make_palm(), dropout=0.0, num_binned_output=HEADS[kind], head=kind)
    optimizer = make_optimizer(model, RewardConfig(learning_rate=2e-2))
    ratings = [ScoredResponse("p", (1, 5), (100 + 10 * score, 2), score) for score in range(1, 6)]
    for _ in range(60):
        optimizer.zero_grad()
        feedback_loss(model, ratings).loss.backward()
        optimizer.step()
    values = model.value(
        model.head_outputs(join_sequences([[1, 5]] * 5, [list(one.response_tokens) for one in ratings]))
    )
    assert values[0].diff().min() > 0.1  # in the order of the ratings


def test_what_a_head_may_not_be_is_refused_by_name(make_palm):
    for settings, said in (
        (dict(head="ordinal"), "num_binned_output = 0 .* at least 2 with a ordinal head"),
        (dict(head="pairwise", num_binned_output=5), "num_binned_output = 5 .* 0 or 1 with a pairwise head"),
        (dict(head="linear"), "head = 'linear' .* one of binned, ordinal, scalar, pairwise"),
        (dict(pooling="max"), "pooling = 'max' .* one of mean, last"),
        (dict(ensemble=0), "ensemble = 0 .* at least 1"),
        (dict(ensemble_members="trunks"), "ensemble_members = 'trunks' .* one of adapters, heads"),
        (dict(ensemble=2, use_lora=False), "ensemble_members = 'adapters' .* where the trunk itself learns"),
        (dict(ensemble_scoring="median"), "ensemble_scoring = 'median'"),
        (dict(head="ordinal", num_binned_output=5, sample_from_bins=True), "sample_from_bins = True"),
    ):
        with pytest.raises(ConfigError, match=said):
            RewardModel(make_palm(), **settings)
    with pytest.raises(ConfigError, match="ensemble_members = 'adapters' .* heads, where lora_rank is 0"):
        RewardConfig(ensemble=3, lora_rank=0)


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        ("ordinal", [0, 5], r"whole numbers from 0 to 4, not \[0, 5\]"),
        ("ordinal", [0.5, 1.0], "whole numbers from 0 to 4"),
        ("scalar", [math.nan, 1.0], "finite numbers"),
        ("pairwise", [0, 1], "a pairwise head learns from comparisons alone"),
    ],
)
def test_labels_that_a_head_cannot_learn_are_refused(make_palm, kind, labels, said):
    model = RewardModel(make_palm(), num_binned_output=HEADS[kind], head=kind)
    with pytest.raises(ValueError, match=said):
        model(torch.randint(0, 259, (2, 6)), labels=torch.tensor(labels))


def test_thresholds_stay_in_order_and_start_at_the_habits():
    thresholds = torch.tensor([-2.0, -0.5, 0.0, 3.0])
    assert_close(rising(spaced(thresholds)), thresholds)
    head = RewardHead(4, "ordinal", 3, members=2)
    head.start_from_habits(torch.tensor([0, 0, 2, 2, 2]))
    assert_close(rising(head.thresholds), torch.logit(torch.tensor([3 / 8, 4 / 8])).expand(2, -1))
    value = torch.zeros(1, 1)
    for label, share in enumerate((3 / 8, 1 / 8, 4 / 8)):
        assert head.rating_loss(value, torch.tensor([label]), member=1).item() == pytest.approx(
            -math.log(share), abs=1e-5
        )


def test_the_last_token_is_pooled_on_request_whatever_the_padding(make_palm):
    model = stirred(make_palm(), num_binned_output=5, pooling="last")
    sequences = ragged()
    embeddings = model.palm(
        sequences.tokens[:1, :6],
        extra_embed=torch.stack([model.prompt_embedding] * 3 + [model.response_embedding] * 3)[None],
        finetune_scope="reward",
        return_only_embedding=True,
    )
    found = model.pool(sequences.tokens, prompt_lengths=sequences.prompt_lengths, lengths=sequences.lengths)
    assert_close(found[:1], embeddings[:, 5])
    padded = Sequences(torch.nn.functional.pad(sequences.tokens, (0, 9), value=77), *sequences[1:])
    assert_close(model.score(padded), model.score(sequences))


def test_a_model_that_tells_nothing_apart_cannot_be_normalised(make_palm):
    model = RewardModel(make_palm(), head="scalar")
    with torch.no_grad():
        model.head.weight.zero_()
    with pytest.raises(TrainingDiverged, match="gives all 3 reference responses the same score, 0: it tells nothing"):
        model.normalise(ragged())


# Ensembles


@pytest.fixture(params=["adapters", "heads"])
def ensemble(request, make_palm):
    return stirred(make_palm(), num_binned_output=5, ensemble=3, ensemble_members=request.param)


def test_members_differ_and_their_scores_become_one(ensemble):
    ensemble.double()  # the values of heads on one trunk lie close together, and what is close is divided by its spread
    sequences = ragged()
    ensemble.normalise(sequences)
    members = ensemble.member_scores(sequences)
    assert members.shape == (3, 3)
    alone = join_sequences(PROMPTS[:1], RESPONSES[:1])
    assert_close(ensemble.member_scores(alone), members[:, :1])  # whatever stands beside it
    assert_close(members.mean(1), torch.zeros_like(members[:, 0]), atol=1e-5, rtol=0)
    assert_close(members.std(1, correction=0), torch.ones_like(members[:, 0]), atol=1e-4, rtol=0)
    assert not torch.allclose(members[0], members[1], atol=1e-2)
    for scoring, by_hand in (
        ("mean", members.mean(0)),
        ("worst", members.min(0).values),
        ("mean-variance", members.mean(0) - 0.5 * members.var(0, correction=0)),
    ):
        ensemble.ensemble_scoring, ensemble.ensemble_penalty = scoring, 0.5
        ensemble.normalise(sequences)
        score, spread = ensemble.score(sequences), by_hand.std(correction=0)
        assert_close(score, (by_hand - by_hand.mean()) / spread, atol=1e-4, rtol=1e-4)
        assert_close(ensemble.uncertainty(sequences), members.std(0, correction=0) / spread, atol=1e-4, rtol=1e-4)
        assert_close(
            ensemble(sequences.tokens, prompt_lengths=sequences.prompt_lengths, lengths=sequences.lengths), score
        )


def test_one_model_alone_is_certain(make_palm):
    assert stirred(make_palm(), num_binned_output=5).uncertainty(ragged()).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("kind", "passes"), [("adapters", 3), ("heads", 1)])
def test_the_trunk_is_read_once_an_adapter_or_once_for_all_heads(make_palm, kind, passes):
    model = stirred(make_palm(), num_binned_output=5, ensemble=3, ensemble_members=kind)
    calls = []
    model.palm.register_forward_hook(lambda *_: calls.append(1))
    model.score(ragged())
    assert len(calls) == passes


def test_a_kind_of_verdict_that_no_member_drew_has_no_loss(make_palm):
    model = RewardModel(make_palm(), dropout=0.0, num_binned_output=5, ensemble=2)
    batch = [ScoredResponse("p", (1, 5), (101, 2), 5), Comparison("q", (1, 6), (101, 2), (121, 2))]
    found = feedback_loss(model, batch, torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    assert "score_loss" not in found.metrics
    assert all(map(math.isfinite, found.metrics.values()))
    nothing = feedback_loss(model, batch, torch.zeros(2, 2))
    assert "comparison_loss" not in nothing.metrics
    assert nothing.metrics["loss"] == 0.0


def test_members_learn_from_their_own_share_alone(make_palm):
    model = RewardModel(make_palm(), dropout=0.0, num_binned_output=5, ensemble=2)
    batch = [
        ScoredResponse("p", (1, 5), (101, 2), 5),
        Comparison("q", (1, 6), (101, 2), (121, 2)),
        ScoredResponse("r", (1, 7), (101, 103, 2), 1),
    ]
    shares = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 1.0]])
    both = feedback_loss(model, batch, shares)
    both.loss.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    # The first member: 2 comparisons of 3 verdicts; the second: the two ratings of the 3.
    alone = RewardModel(make_palm(), dropout=0.0, num_binned_output=5)
    alone.load_state_dict(
        {
            name: part_of(model, name, tensor, 0)
            for name, tensor in model.state_dict().items()
            if not name.startswith(("palm.lora.reward_2", "combined"))
        }
    )
    one = feedback_loss(alone, [batch[1]]).loss
    (one * 2 / 3).backward()
    own = {name: parameter.grad for name, parameter in alone.named_parameters() if parameter.grad is not None}
    for name in ("palm.lora.reward.0.q.B", "prompt_embedding", "head.weight", "comparison_log_scale", "step_biases"):
        found = part_of(model, name, gradients[name], 0)
        assert_close(found, own[name], atol=1e-6, rtol=1e-4)
    assert float(gradients["palm.lora.reward_2.0.q.B"].abs().sum()) > 0
    second = feedback_loss(model, batch, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]))
    assert both.loss.item() == pytest.approx(one.item() * 2 / 3 + second.loss.item(), rel=1e-5)


def part_of(model, name, tensor, member):
    """One member's part of a tensor of an ensemble."""
    if name.startswith("palm."):
        return tensor
    if name.startswith("head."):
        return tensor.view(model.members, -1, *tensor.shape[1:])[member]
    return tensor[member]


def test_prompts_are_drawn_anew_for_each_member():
    records = [Comparison(f"p{number // 2}", (1, number // 2), (7, 2), (8, 2)) for number in range(400)]
    shares = bootstrap_by_prompt(records, 4, seed=0)
    assert shares.shape == (4, 400)
    assert torch.equal(shares[:, ::2], shares[:, 1::2])  # both records of a prompt alike
    assert shares.sum(1).tolist() == [400.0] * 4
    seen = (shares > 0).float().mean(1)
    assert 0.55 < float(seen.min()) <= float(seen.max()) < 0.71  # 63 % on average
    assert not torch.equal(shares[0], shares[1])
    assert torch.equal(shares, bootstrap_by_prompt(records, 4, seed=0))
    assert not torch.equal(shares, bootstrap_by_prompt(records, 4, seed=1))


def test_an_ensemble_is_one_checkpoint_and_one_file(ensemble, make_palm, tiny_tokenizer, tmp_path):
    ensemble.ensemble_scoring = ensemble.head_config["ensemble_scoring"] = "worst"
    sequences = ragged()
    ensemble.normalise(sequences)
    expected = ensemble.score(sequences), ensemble.uncertainty(sequences)
    stored = save_reward_model(tmp_path / "store", ensemble, tiny_tokenizer, {})
    loaded, _, _ = load_reward_model(stored.path)
    assert_close((loaded.score(sequences), loaded.uncertainty(sequences)), expected)
    after_the_end = [[*response, 9] for response in RESPONSES]
    assert_close(reward_of(loaded, 2)(PROMPTS, after_the_end), expected[0])  # what PPO asks

    ensemble.save(tmp_path / "ensemble.safetensors")
    again = RewardModel(make_palm(3), **ensemble.head_config).eval()
    again.load(tmp_path / "ensemble.safetensors")
    assert_close(again.score(sequences), expected[0])
    for changes in (dict(ensemble=2), dict(ensemble=1), dict(pooling="last"), dict(ensemble_scoring="mean")):
        other = RewardModel(make_palm(), **{**ensemble.head_config, **changes})
        with pytest.raises(CheckpointError, match="no reward model that fits"):
            other.load(tmp_path / "ensemble.safetensors")


def test_files_and_checkpoints_from_before_there_were_heads_to_choose_load(make_palm, tiny_tokenizer, tmp_path):
    model = stirred(make_palm(), num_binned_output=5)
    expected = model.score(ragged())
    new = ("head", "pooling", "ensemble", "ensemble_members", "ensemble_scoring", "ensemble_penalty")
    head_config = dict(model.head_config)
    model.head_config = {name: value for name, value in head_config.items() if name not in new}
    model.save(tmp_path / "old.safetensors")
    again = RewardModel(make_palm(1), num_binned_output=5).eval()
    again.load(tmp_path / "old.safetensors")
    assert_close(again.score(ragged()), expected)
    stored = save_reward_model(tmp_path / "store", model, tiny_tokenizer, {})
    assert_close(load_reward_model(stored.path)[0].score(ragged()), expected)
    assert set(model.state_dict()) == {
        name
        for name in model.state_dict()
        if name.startswith("palm.")
        or name in ("prompt_embedding", "response_embedding", "head.weight", "head.bias")
        or name in ("comparison_log_scale", "step_biases", "reward_mean", "reward_std")
    }


# Calibration


def test_calibration_by_hand():
    # .9 and .8 sure, one right, one wrong: in bins [.9, 1] and [.8, .9); .55 twice, both right, in [.5, .6).
    found = calibrate([0.9, 0.2, 0.55, 0.55], bins=5)
    assert found["count"] == 4
    assert found["error"] == pytest.approx((0.1 + 0.8 + 2 * 0.45) / 4)
    assert [(one["low"], one["count"], one["right"]) for one in found["bins"]] == [
        (0.5, 2, 1.0),
        (pytest.approx(0.8), 1, 0.0),
        (pytest.approx(0.9), 1, 1.0),
    ]
    assert calibrate([0.5])["bins"][0]["right"] == 0.5
    assert calibrate([1.0])["bins"][0]["high"] == 1.0


def test_the_probability_of_a_verdict_leaves_ties_out_and_adds_steps_up(make_palm):
    model = RewardModel(make_palm(), num_binned_output=5)
    with torch.no_grad():
        model.step_biases.copy_(torch.tensor([5.0, 0.0, -30.0, -30.0]))  # ties are common, the one step is not
    first, second = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    # one step alone: P = e^z / (e^z + e^-z) with z = 1
    assert_close(model.preference_probability(first, second), torch.tensor([1 / (1 + math.exp(-2)), 0.5]))


def test_calibration_looks_at_comparisons_that_are_no_ties(make_palm):
    model = stirred(make_palm(), num_binned_output=5)
    holdout = [
        ScoredResponse("p", (1, 5), (101, 2), 5),
        Comparison("q", (1, 6), (101, 2), (121, 2), strength=0),
        Comparison("q", (1, 6), (101, 102, 2), (121, 2), strength=1),
    ]
    values = holdout_values(model, holdout)
    found = calibration_of(model, holdout, values)
    assert found is not None
    chance = float(model.preference_probability(values[:, 3:4], values[:, 4:5]))
    assert found["count"] == 1
    assert found["bins"][0]["sure"] == pytest.approx(max(chance, 1 - chance))
    assert calibration_of(model, holdout[:2], values) is None


# Runs


@pytest.fixture
def make_run(tmp_path, policy_path):
    def make(records, name, **settings):
        write_feedback(tmp_path / f"{name}.jsonl", records)
        return RunDirectory.create(
            tmp_path / name,
            kind="reward",
            config=RewardConfig(**{**dict(epochs=2, learning_rate=2e-2), **settings}),
            store=tmp_path / "store",
            policy=policy_path,
            feedback=tmp_path / f"{name}.jsonl",
        )

    return make


@pytest.mark.parametrize(
    "settings",
    [
        dict(head="ordinal", pooling="last"),
        dict(head="scalar"),
        dict(ensemble=3, ensemble_scoring="worst", lora_rank=2),
        dict(ensemble=2, ensemble_bootstrap=True, lora_rank=2),
        dict(ensemble=3, ensemble_members="heads", head="ordinal", lora_rank=0),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_run_trains_what_its_settings_ask_for_and_reports_calibration(make_run, rated_responses, settings):
    run = make_run(rated_responses(comparisons=60, scores=30), "run", holdout_fraction=0.3, **settings)
    train_reward(run)
    model, _, manifest = load_reward_model(run.result["outputs"][0]["path"])
    assert {name: model.head_config[name] for name in settings if name in model.head_config} == {
        name: value for name, value in settings.items() if name in model.head_config
    }
    calibration = run.result["report"]["calibration"]
    assert calibration["count"] == run.result["metrics"]["holdout_count"]
    assert calibration["error"] == run.result["metrics"]["holdout_calibration_error"]
    assert manifest["meta"]["metrics"]["holdout_calibration_error"] == calibration["error"]
    assert json.loads(json.dumps(manifest["meta"]["reference_mean"])) == model.reward_mean.tolist()
    assert (float(model.uncertainty(ragged()).max()) > 0) == (model.members > 1)
    assert (model.head_covariance is not None) == (model.reference_slopes is not None) == (model.members > 1)


def test_members_differ_by_their_prompts_only_on_request(make_run, rated_responses, monkeypatch):
    asked = []

    def drawn(records, members, seed):
        asked.append((len(records), members, seed))
        return bootstrap_by_prompt(records, members, seed)

    monkeypatch.setattr(reward, "bootstrap_by_prompt", drawn)
    records = rated_responses(comparisons=30)
    for name, settings in (("one", {}), ("alike", {"ensemble": 2}), ("drawn", {"ensemble": 2})):
        train_reward(make_run(records, name, epochs=1, seed=5, ensemble_bootstrap=name != "alike", **settings))
    assert [(members, seed) for _, members, seed in asked] == [(2, 5)]


def test_a_pairwise_run_refuses_ratings_and_trains_on_comparisons(make_run, rated_responses):
    with pytest.raises(DatasetError, match="found 20 ratings of 1 to 5, and head = 'pairwise' .* choose the head"):
        train_reward(make_run(rated_responses(comparisons=40, scores=20), "mixed", head="pairwise"))
    run = make_run(rated_responses(comparisons=40), "pairs", head="pairwise")
    train_reward(run)
    assert load_reward_model(run.result["outputs"][0]["path"])[0].head.kind == "pairwise"
