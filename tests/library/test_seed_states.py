"""What palm-rlhf-pytorch 0.8 saved answers here as it did there; that library runs in an environment of its own."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch.testing import assert_close

from benchmarks.peers.environments import peer_environment
from rlhf_core import PaLM, RewardModel
from rlhf_core.errors import CheckpointError

HERE = Path(__file__).parent
PALMS = ["causal", "another-xpos-base", "both-ways", "qk-norm", "qk-norm-both-ways"]
REWARD_MODELS = ["bins", "scalar", "bins-both-ways", "qk-norm-bins"]


@pytest.fixture(scope="session")
def answers(tmp_path_factory) -> Path:
    """The folder in which that library left its models and what they answered."""
    try:
        python = peer_environment("palm")
    except RuntimeError as error:
        pytest.fail(
            f"the environment that these tests compare with can't be made, for which pip must reach an index with "
            f"benchmarks/peers/palm.txt: {error}"
        )
    folder = tmp_path_factory.mktemp("seed")
    subprocess.run([python, HERE / "seed_answers.py", folder], check=True)
    return folder


def arguments_of(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def assert_same(found, expected):
    assert float(expected.abs().max()) > 0.3  # else nearness would say little
    assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("merged", ["", "-merged"])
@pytest.mark.parametrize("name", PALMS)
def test_a_palm_of_the_seed_library_gives_the_same_logits(answers, name, merged):
    arguments, expected = arguments_of(answers, name + merged), load_file(answers / f"{name}{merged}.safetensors")
    fresh = PaLM(**{**arguments, "finetune_scopes": ()})  # takes the scopes in
    fresh.load(answers / f"{name}{merged}.pt")
    prepared = PaLM(**arguments)
    prepared.load_state_dict(torch.load(answers / f"{name}{merged}.pt", weights_only=True))
    for palm in (fresh.eval(), prepared.eval()):
        assert sorted(palm.lora) == sorted(arguments["finetune_scopes"])
        assert_same(palm(expected["tokens"]), expected["base"])
        for scope in arguments["finetune_scopes"]:
            assert_same(palm(expected["tokens"], finetune_scope=scope), expected[scope])


@pytest.mark.parametrize("name", PALMS)
def test_merging_here_gives_what_merging_there_gave(answers, name):
    palm = PaLM(**arguments_of(answers, name)).eval()
    palm.load(answers / f"{name}.pt")
    palm.merge_finetune_params("actor")
    merged = load_file(answers / f"{name}-merged.safetensors")
    assert_same(palm(merged["tokens"]), merged["base"])


@pytest.mark.parametrize("name", ["qk-norm", "qk-norm-both-ways"])
def test_qk_norm_attends_with_the_scale_that_was_meant_on_request(answers, name):  # fault 24
    palm = PaLM(**arguments_of(answers, f"{name}-merged")).eval()
    palm.load(answers / f"{name}-merged.pt", correct_qk_scale=True)
    tokens = load_file(answers / f"{name}-merged.safetensors")["tokens"]
    corrected = load_file(answers / f"{name}-corrected.safetensors")["base"]
    assert_same(palm(tokens), corrected)
    palm.load(answers / f"{name}-merged.pt")
    assert not torch.allclose(palm(tokens), corrected, atol=1e-3)


@pytest.mark.parametrize("name", REWARD_MODELS)
def test_a_reward_model_of_the_seed_library_gives_the_same_predictions(answers, name):
    about, expected = arguments_of(answers, name), load_file(answers / f"{name}.safetensors")
    loaded = RewardModel(PaLM(**about["palm"]), **about["reward_model"])
    loaded.load(answers / f"{name}.pt")
    filled = RewardModel(PaLM(**about["palm"]), **about["reward_model"])
    filled.load_state_dict(torch.load(answers / f"{name}.pt", weights_only=True))
    tokens, prompt_lengths = expected["tokens"], expected["prompt_lengths"]
    for model in (loaded.eval(), filled.eval()):
        for lengths, answer in ((torch.zeros_like(prompt_lengths), "whole"), (prompt_lengths, "response")):
            found = model.head(model.pool(tokens, prompt_lengths=lengths))
            assert_same(found if model.bins > 1 else found[:, 0], expected[answer])


def test_a_reward_models_qk_norm_can_be_corrected_too(answers):
    about, expected = arguments_of(answers, "qk-norm-bins"), load_file(answers / "qk-norm-bins.safetensors")
    scores = []
    for correct in (False, True):
        model = RewardModel(PaLM(**about["palm"]), **about["reward_model"]).eval()
        model.load(answers / "qk-norm-bins.pt", correct_qk_scale=correct)
        scores.append(model(expected["tokens"], prompt_lengths=expected["prompt_lengths"]))
    assert not torch.allclose(*scores, atol=1e-3)


def test_a_state_that_went_through_safetensors_loads_too(answers, tmp_path):
    class Tied(torch.nn.Module):
        """Its names, with the tied matrix once, as safetensors' save_model keeps it."""

        def __init__(self, state):
            super().__init__()
            self.inner = torch.nn.ParameterDict()
            self.state = state

        def state_dict(self, *args, **kwargs):
            return self.state

    state = torch.load(answers / "causal.pt", weights_only=True)
    save_model(Tied(state), str(tmp_path / "palm.safetensors"))
    expected = load_file(answers / "causal.safetensors")
    palm = PaLM(**arguments_of(answers, "causal")).eval()
    palm.load(tmp_path / "palm.safetensors")
    assert_same(palm(expected["tokens"]), expected["base"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(dim=32), "token_emb.weight .61, 48. where .61, 32. is expected"),
        (dict(heads=8, dim_head=8), "heads are 16 wide, not 8"),
        (dict(depth=2), "it holds in addition blocks.2"),
        (dict(qk_rmsnorm=True), "it lacks blocks.0.qk_gain"),
        (dict(finetune_scopes=("judge",)), "it lacks lora.judge"),
    ],
)
def test_a_state_of_another_shape_is_refused_and_changes_nothing(answers, changes, words):
    palm = PaLM(**{**arguments_of(answers, "causal"), "finetune_scopes": (), **changes})
    before = {name: tensor.clone() for name, tensor in palm.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        palm.load(answers / "causal.pt")
    after = palm.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda state: state["to_logits.weight"].add_(1), "output matrix is not its embedding"),
        (lambda state: state["norm.beta"].add_(1), "norm.beta is not zero"),
        (lambda state: state.pop("layers.1.fn.attn_out.weight"), "it lacks blocks.1.attention_out.weight"),
    ],
)
def test_what_cannot_be_said_here_is_refused_by_name(answers, tmp_path, break_it, words):
    state = {name: one.clone() for name, one in torch.load(answers / "causal.pt", weights_only=True).items()}
    break_it(state)
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match=words):
        PaLM(**arguments_of(answers, "causal")).load(tmp_path / "broken.pt")


def test_a_torn_file_or_one_with_code_in_it_is_refused(answers, tmp_path):
    palm = PaLM(**arguments_of(answers, "causal"))
    whole = (answers / "causal.pt").read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[:-300])
    with pytest.raises(CheckpointError, match="it is torn"):
        palm.load(tmp_path / "torn.pt")
    torch.save({"palm": palm, "open": open}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="not unpickled"):
        palm.load(tmp_path / "code.pt")
    torch.save({"model": palm.state_dict()}, tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match="no plain state dict"):
        palm.load(tmp_path / "nested.pt")
