"""Checkpoints: named by their content, whole or absent, verified before they load, free of pickle."""

import json
import os
import pickletools
import shutil
import subprocess
import sys

import pytest
import torch

from rlhf_core import durable
from rlhf_core.checkpoint import load_policy, load_reward_model, save_policy, save_reward_model, verify
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.masking import join_sequences
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.store import checkpoint_path, remove_checkpoint
from rlhf_core.text.template import TEMPLATE_SHA256
from rlhf_core.text.tokenizer import Tokenizer

TOKENS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 2]])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a film about a film about films"] * 3, 262)


def make_palm(seed: int = 0) -> PaLM:
    torch.manual_seed(seed)
    return PaLM(dim=32, num_tokens=262, depth=2, dim_head=16, heads=2, qk_rmsnorm=True).eval()


def with_adapters(palm: PaLM, *scopes: str) -> PaLM:
    for scope in scopes:
        palm.add_finetune_params(scope, lora_r=4)
        for parameter in palm.finetune_parameters(scope):
            torch.nn.init.normal_(parameter, std=0.2)
    return palm


def test_a_policy_comes_back_bit_for_bit(tmp_path, tokenizer):
    palm = make_palm()
    ref = save_policy(tmp_path, palm, tokenizer, {"run": 7})
    assert ref.path == tmp_path / ref.id
    assert ref.kind == "policy"
    found, words, manifest = load_policy(ref.path)
    assert found.config == palm.config
    assert torch.equal(found(TOKENS), palm(TOKENS))
    assert words.encode("a film") == tokenizer.encode("a film")
    assert manifest["meta"] == {"run": 7}
    assert manifest["id"] == ref.id
    assert manifest["template_sha256"] == TEMPLATE_SHA256
    assert not found.training
    assert verify(ref.path) == manifest


def test_the_name_is_the_content_and_saving_twice_stores_once(tmp_path, tokenizer):
    first = save_policy(tmp_path, make_palm(), tokenizer, {"b": 1, "a": 2})
    written = (first.path / "manifest.json").stat().st_mtime_ns
    assert save_policy(tmp_path, make_palm(), tokenizer, {"a": 2, "b": 1}) == first
    assert (first.path / "manifest.json").stat().st_mtime_ns == written
    assert save_policy(tmp_path, make_palm(), tokenizer, {"a": 3}).id != first.id
    assert save_policy(tmp_path, make_palm(1), tokenizer, {"a": 2, "b": 1}).id != first.id
    assert len(list(tmp_path.iterdir())) == 3


def test_adapters_are_merged_into_the_saved_weights_and_the_policy_is_left_as_it_was(tmp_path, tokenizer):
    palm = with_adapters(make_palm(), "actor", "critic")
    before = {name: tensor.clone() for name, tensor in palm.state_dict().items()}
    ref = save_policy(tmp_path, palm, tokenizer, {}, finetune_scope="actor")
    assert all(torch.equal(tensor, before[name]) for name, tensor in palm.state_dict().items())
    found = load_policy(ref.path)[0]
    assert len(found.lora) == 0
    torch.testing.assert_close(found(TOKENS), palm(TOKENS, finetune_scope="actor"), atol=1e-5, rtol=0)
    assert not torch.allclose(found(TOKENS), palm(TOKENS))


def test_adapters_are_never_dropped_in_silence(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match="name the scope"):
        save_policy(tmp_path, with_adapters(make_palm(), "actor"), tokenizer, {})


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path, tokenizer):
    palm = make_palm()
    full = save_policy(tmp_path, palm, tokenizer, {})
    half = save_policy(tmp_path, palm, tokenizer, {}, dtype="float16")
    sizes = [(ref.path / "model.safetensors").stat().st_size for ref in (full, half)]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    found, _, manifest = load_policy(half.path)
    assert manifest["dtype"] == "float16"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found(TOKENS), palm(TOKENS), atol=1e-2, rtol=1e-2)
    with pytest.raises(ConfigError, match="dtype = 'int8'"):
        save_policy(tmp_path, palm, tokenizer, {}, dtype="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(("bins", "use_lora"), [(5, True), (5, False), (0, True)])
def test_a_reward_model_comes_back_with_head_adapters_and_normalisation(tmp_path, tokenizer, bins, use_lora):
    reward_model = RewardModel(make_palm(), num_binned_output=bins, use_lora=use_lora, lora_r=4).eval()
    for parameter in reward_model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    rows = join_sequences([[1, 40, 50]] * 3, [[60, 2], [70, 80, 2], [90]])
    reward_model.normalise(rows)
    ref = save_reward_model(tmp_path, reward_model, tokenizer, {"dataset": 3})
    assert ref.kind == "reward_model"
    found, _, manifest = load_reward_model(ref.path)
    assert manifest["head"]["num_binned_output"] == bins
    assert torch.equal(found.score(rows), reward_model.score(rows))
    assert found.score(rows).mean().abs() < 1e-5
    script = (
        "import sys; from rlhf_core.checkpoint import load_reward_model; from rlhf_core.masking import join_sequences;"
        "rows = join_sequences([[1, 40, 50]] * 3, [[60, 2], [70, 80, 2], [90]]);"
        "print(load_reward_model(sys.argv[1])[0].score(rows).tolist())"
    )
    if bins and use_lora:  # once is enough for a new process
        elsewhere = subprocess.run([sys.executable, "-c", script, ref.path], capture_output=True, text=True, check=True)
        assert json.loads(elsewhere.stdout) == pytest.approx(reward_model.score(rows).tolist(), abs=1e-6)


def test_one_kind_is_not_taken_for_the_other(tmp_path, tokenizer):
    policy = save_policy(tmp_path, make_palm(), tokenizer, {})
    with pytest.raises(CheckpointError, match="is a policy, not a reward_model"):
        load_reward_model(policy.path)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "cut", "missing", "link"])
def test_a_damaged_checkpoint_is_refused_and_saving_again_repairs_it(tmp_path, tokenizer, file, damage):
    ref = save_policy(tmp_path / "store", make_palm(), tokenizer, {})
    path = ref.path / file
    data = path.read_bytes()
    if damage == "altered":
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "missing":
        path.unlink()
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    for read in (verify, load_policy):
        with pytest.raises(CheckpointError):
            read(ref.path)
    assert save_policy(tmp_path / "store", make_palm(), tokenizer, {}) == ref
    verify(ref.path)


def test_a_checkpoint_may_lie_under_another_name_but_not_under_another_hash(tmp_path, tokenizer):
    ref = save_policy(tmp_path, make_palm(), tokenizer, {})
    shutil.copytree(ref.path, tmp_path / "demo")
    assert verify(tmp_path / "demo")["id"] == ref.id
    shutil.copytree(ref.path, tmp_path / ("0" * 64))
    with pytest.raises(CheckpointError, match="not the folder's name"):
        verify(tmp_path / ("0" * 64))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", ".hidden", "sub/model.safetensors"])
def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path, tokenizer, name):
    ref = save_policy(tmp_path, make_palm(), tokenizer, {})
    folder = tmp_path / "made"
    shutil.copytree(ref.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"].pop("model.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        verify(folder)
    with pytest.raises(ValueError, match="plain file name"):
        durable.read_verified(folder, {name: {"sha256": "", "size": 0}})


def test_a_linked_folder_is_no_checkpoint(tmp_path, tokenizer):
    ref = save_policy(tmp_path, make_palm(), tokenizer, {})
    (tmp_path / "link").symlink_to(ref.path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        verify(tmp_path / "link")


@pytest.mark.parametrize("identity", ["", "..", "../x", "A" * 64, "a" * 63, "a" * 63 + "/"])
def test_an_id_that_is_no_hash_names_no_folder(tmp_path, identity):
    with pytest.raises(CheckpointError, match="no checkpoint id"):
        checkpoint_path(tmp_path, identity)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 2}, "format 2"), ({"template_sha256": "0"}, "template"), ({"files": {}}, "names the files")]
    + [({"model": {"dim": 64}}, "do not fit"), ({"model": {"dim": 0}}, "dim = 0")],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, tokenizer, change, message):
    ref = save_policy(tmp_path, make_palm(), tokenizer, {})
    folder = tmp_path / "made"
    shutil.copytree(ref.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_weights_that_are_not_finite_are_not_saved(tmp_path, tokenizer):
    palm = make_palm()
    with torch.no_grad():
        palm.token_emb.weight[3, 0] = float("nan")
    with pytest.raises(CheckpointError, match="token_emb.weight"):
        save_policy(tmp_path, palm, tokenizer, {})
    with torch.no_grad():
        palm.token_emb.weight[3, 0] = 1e6  # finite, but not in half precision
    with pytest.raises(CheckpointError, match="float16"):
        save_policy(tmp_path, palm, tokenizer, {}, dtype="float16")
    assert list(tmp_path.glob("*")) == []


def test_no_file_of_a_checkpoint_is_pickle(tmp_path, tokenizer):
    ref = save_policy(tmp_path, make_palm(), tokenizer, {})
    assert sorted(path.name for path in ref.path.iterdir()) == ["manifest.json", "model.safetensors", "tokenizer.json"]
    for path in ref.path.iterdir():
        with pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(path.read_bytes()))


def test_a_removed_checkpoint_is_gone(tmp_path, tokenizer):
    ref = save_policy(tmp_path, make_palm(), tokenizer, {})
    remove_checkpoint(tmp_path, ref.id)
    assert list(tmp_path.iterdir()) == []


def test_the_leavings_of_a_killed_writer_are_kept_for_a_day(tmp_path, tokenizer):
    young, old = tmp_path / ".writing-1-1", tmp_path / ".writing-1-2"
    for path in (young, old):
        path.mkdir()
    os.utime(old, (0, 0))
    save_policy(tmp_path, make_palm(), tokenizer, {})
    assert young.is_dir()
    assert not old.exists()
