import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.errors import CheckpointError, ConfigError, TrainingDiverged
from rlhf_core.masking import Sequences, join_sequences
from rlhf_core.modules.reward_model import RewardModel


@pytest.fixture
def model(make_palm):
    torch.manual_seed(3)
    model = RewardModel(make_palm(), num_binned_output=5)
    torch.nn.init.normal_(model.response_embedding, std=0.1)
    return model.eval()


def ragged():
    return join_sequences([[1, 5, 6], [1, 7]], [[10, 11, 2], [12, 13, 14, 15, 2]])


def test_a_score_ignores_padding_and_neighbours_rule_34(model):
    sequences = ragged()
    together = model.score(sequences)
    padded = Sequences(torch.nn.functional.pad(sequences.tokens, (0, 9), value=77), *sequences[1:])
    assert_close(model.score(padded), together)
    for row in range(2):
        assert_close(model.score(sequences.rows(torch.tensor([row]))), together[row : row + 1])


def test_a_score_of_an_encoder_that_sees_both_ways_ignores_padding_too(make_palm):
    model = RewardModel(make_palm(causal=False), num_binned_output=5).eval()
    sequences = ragged()
    padded = Sequences(torch.nn.functional.pad(sequences.tokens, (0, 9), value=77), *sequences[1:])
    assert_close(model.score(padded), model.score(sequences))


def test_the_score_is_the_expected_bin_and_always_the_same(model):
    x = torch.randint(0, 259, (2, 8), generator=torch.Generator().manual_seed(0))
    prompt_lengths = torch.tensor([3, 4])
    outputs = model.head(model.pool(x, prompt_lengths=prompt_lengths))
    expected = (outputs.softmax(-1) * torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])).sum(-1)
    found = model(x, prompt_lengths=prompt_lengths)
    assert_close(found, expected)
    assert all(torch.equal(model(x, prompt_lengths=prompt_lengths), found) for _ in range(5))


def test_drawing_a_bin_is_possible_on_request(model):
    x = torch.randint(0, 259, (1, 8)).expand(200, -1)
    drawn = model(x, prompt_lengths=torch.full((200,), 3), sample=True, sample_temperature=1.0)
    assert drawn.dtype == torch.long
    assert len(drawn.unique()) > 1
    assert 0 <= int(drawn.min()) <= int(drawn.max()) <= 4


def test_only_the_response_is_pooled(model):
    x = torch.randint(0, 259, (1, 6), generator=torch.Generator().manual_seed(1))
    embeddings = model.palm(
        x,
        extra_embed=torch.stack([model.prompt_embedding] * 2 + [model.response_embedding] * 4)[None],
        finetune_scope="reward",
        return_only_embedding=True,
    )
    assert_close(model.pool(x, prompt_lengths=torch.tensor([2])), embeddings[:, 2:].mean(1))


def test_prompt_mask_and_prompt_lengths_say_the_same(model):
    x = torch.randint(0, 259, (2, 6))
    mask = torch.tensor([[True, True, False, False, False, False], [True, True, True, False, False, False]])
    assert torch.equal(model(x, prompt_mask=mask), model(x, prompt_lengths=torch.tensor([2, 3])))
    with pytest.raises(ValueError, match="not both"):
        model(x, prompt_mask=mask, prompt_lengths=torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="no response tokens"):
        model(x, prompt_lengths=torch.tensor([6, 2]))
    with pytest.raises(ValueError, match="padding stands on the right"):
        model(x, mask=mask.flip(1), prompt_lengths=torch.tensor([0, 0]))


def test_segment_embeddings_head_and_adapters_learn_and_the_trunk_does_not(make_palm):
    model = RewardModel(make_palm(), num_binned_output=5)
    x = torch.randint(0, 259, (2, 6))
    loss = model(x, prompt_lengths=torch.tensor([2, 3]), labels=torch.tensor([0, 4]))
    loss.backward()
    learning = {id(parameter) for parameter in model.finetune_parameters()}
    for parameter in (model.prompt_embedding, model.response_embedding, model.head.weight):
        assert id(parameter) in learning
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in model.palm.palm_parameters())


def test_the_head_starts_with_variance_one_over_width_plus_one_and_no_bias_rule_25(make_palm):
    weight = RewardModel(make_palm(dim=512), num_binned_output=50).head.weight
    assert float(weight.detach().var()) == pytest.approx(1 / 513, rel=0.05)
    assert not RewardModel(make_palm(), num_binned_output=5).head.bias.any()
    assert RewardModel(make_palm()).head.bias is None


def test_a_scalar_head_learns_numbers(make_palm):
    model = RewardModel(make_palm(), dropout=0.0)
    x = torch.randint(0, 259, (2, 6))
    score = model(x, prompt_lengths=torch.tensor([2, 3]))
    labels = torch.tensor([1.0, -1.0])
    assert_close(model(x, prompt_lengths=torch.tensor([2, 3]), labels=labels), (score - labels).square().mean())


def test_the_policy_it_was_made_from_is_not_changed_and_its_scopes_are_left_out(make_palm):
    palm = make_palm()
    palm.add_finetune_params("actor")
    before = {name: tensor.clone() for name, tensor in palm.state_dict().items()}
    first, second = RewardModel(palm, num_binned_output=5), RewardModel(palm, num_binned_output=5)
    assert list(first.palm.lora) == list(second.palm.lora) == ["reward"]
    after = palm.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in palm.parameters())


def test_scores_that_are_not_finite_are_no_normalisation_rule_42(model):
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match="not finite"):
        model.normalise(ragged())


def test_normalised_scores_have_mean_0_and_deviation_1_and_survive_a_new_process_rules_35_and_37(
    model, make_palm, tmp_path
):
    for parameter in model.palm.finetune_parameters("reward"):
        torch.nn.init.normal_(parameter, std=0.2)
    generator = torch.Generator().manual_seed(0)
    responses = torch.randint(0, 259, (64, 7), generator=generator).tolist()
    sequences = join_sequences([[1, 2, 3]] * 64, responses)
    model.normalise(sequences)
    scores = model.score(sequences)
    assert_close(scores.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    assert_close(scores.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    model.save(tmp_path / "reward.safetensors")
    script = f"""
import torch
from rlhf_core import PaLM, RewardModel
palm = PaLM(dim=32, num_tokens=259, depth=2, heads=2, dim_head=16, ff_mult=2)
model = RewardModel(palm, num_binned_output=5).eval()
model.load({str(tmp_path / "reward.safetensors")!r})
x = torch.tensor({[[1, 2, 3, *response] for response in responses[:4]]})
print(model(x, prompt_lengths=torch.full((4,), 3)).tolist())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert_close(torch.tensor(eval(found)), scores[:4])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(num_binned_output=2.5), "num_binned_output = 2.5 .* a whole number"),
        (dict(num_binned_output=-1), "num_binned_output = -1"),
        (dict(dropout=1.0), "dropout = 1.0"),
        (dict(lora_r=0), "lora_r = 0"),
        (dict(sample_from_bins=True), "sample_from_bins = True .* without bins"),
        (dict(num_binned_output=5, sample_temperature=0.0), "sample_temperature = 0.0"),
    ],
)
def test_an_argument_outside_its_range_is_refused_by_name(make_palm, arguments, words):
    with pytest.raises(ConfigError, match=words):
        RewardModel(make_palm(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(labels=torch.tensor([0, 5])), r"whole numbers from 0 to 4, not \[0, 5\]"),
        (dict(labels=torch.tensor([0.5, 1.0])), "whole numbers from 0 to 4"),
        (dict(labels=torch.tensor([0])), r"labels must be \(2,\)"),
        (dict(mask=torch.ones(2, 5).bool()), "mask must have the shape of x"),
        (dict(prompt_mask=torch.ones(6).bool()), "prompt_mask must have the shape of x"),
    ],
)
def test_what_does_not_go_with_the_tokens_is_refused(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        model(torch.randint(0, 259, (2, 6)), **arguments)


@pytest.mark.parametrize(
    "changes",
    [dict(use_lora=False), dict(lora_r=4), dict(reward_lora_scope="other"), dict(num_binned_output=0), dict(base=64)],
)
def test_a_file_of_another_head_or_adapters_is_refused_and_not_half_used(model, make_palm, tmp_path, changes):
    model.save(tmp_path / "reward.safetensors")
    base = changes.pop("base", 512)
    other = RewardModel(make_palm(rotary_xpos_scale_base=base), **{"num_binned_output": 5, **changes})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="no reward model that fits"):
        other.load(tmp_path / "reward.safetensors")
    assert other.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("causal", [True, False])
def test_a_loaded_model_sees_as_far_as_the_saved_one(make_palm, tmp_path, causal):
    saved = RewardModel(make_palm(causal=causal), num_binned_output=5).eval()
    saved.save(tmp_path / "reward.safetensors")
    loaded = RewardModel(make_palm(1, causal=not causal), num_binned_output=5).eval()
    loaded.load(tmp_path / "reward.safetensors")  # the README of the seed library loads one into the other
    assert loaded.palm.config == saved.palm.config
    assert_close(loaded.score(ragged()), saved.score(ragged()))


def test_a_file_that_does_not_fit_is_refused(model, make_palm, tmp_path):
    model.save(tmp_path / "reward.safetensors")
    with pytest.raises(CheckpointError, match="no reward model that fits"):
        RewardModel(make_palm(dim=64), num_binned_output=5).load(tmp_path / "reward.safetensors")
    with pytest.raises(CheckpointError, match="no readable file of weights"):
        model.load(tmp_path / "missing.safetensors")
