"""Checkpoints: a folder named by its content, whole or absent, without pickle.

``<store>/<id>/`` holds ``model.safetensors``, ``tokenizer.json`` and, written last, ``manifest.json``, whose SHA-256 is
the id. The manifest carries the shape of the model, the hash of the prompt template, size and SHA-256 of each file, and
free ``meta``. Equal content gives an equal id, so saving twice stores once.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rlhf_core.config import ModelConfig, settings_from_dict, settings_to_dict
from rlhf_core.durable import UnfinishedFolder, canonical_json, remove_unfinished, sha256
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.store import FILES, FORMAT, checkpoint_path, is_identity, read_checkpoint, remove_checkpoint, verify
from rlhf_core.training.state import pack_tensors, unpack_tensors

if TYPE_CHECKING:
    from rlhf_core.modules.palm import PaLM
    from rlhf_core.modules.reward_model import RewardModel
    from rlhf_core.text.tokenizer import Tokenizer

__all__ = ["FILES", "FORMAT", "CheckpointRef", "checkpoint_path", "is_identity", "load_policy", "load_reward_model"]
__all__ += ["read_checkpoint", "remove_checkpoint", "save_policy", "save_reward_model", "verify"]
STORAGE = {"float32": torch.float32, "float16": torch.float16}
Kind = Literal["policy", "reward_model"]
Storage = Literal["float32", "float16"]


@dataclass(frozen=True)
class CheckpointRef:
    """Where a checkpoint is: ``path`` is ``<store>/<id>``."""

    id: str
    path: Path
    kind: Kind


def save_policy(
    store: Path | str,
    palm: "PaLM",
    tokenizer: "Tokenizer",
    meta: Mapping[str, Any],
    *,
    finetune_scope: str | None = None,
    dtype: Storage = "float32",
) -> CheckpointRef:
    """Store a policy as plain weights, the adapters of ``finetune_scope`` merged in; ``palm`` itself is not changed.

    Args:
        meta: free JSON: parents, dataset, run, curve.
        dtype: "float16" halves the file; loading gives float32 again.

    Raises:
        CheckpointError: ``palm`` has adapters and ``finetune_scope`` does not say which to merge.
    """
    state = merged_weights(palm, finetune_scope)
    return save(store, "policy", palm.config, None, state, tokenizer, meta, dtype)


def load_policy(path: Path | str, device: torch.device | str = "cpu") -> "tuple[PaLM, Tokenizer, dict[str, Any]]":
    """The policy, its tokenizer and its manifest, verified, in eval mode.

    Raises:
        CheckpointError: it is missing, torn, altered, or no policy.
    """
    from rlhf_core.modules.palm import PaLM

    manifest, state, tokenizer = load(Path(path), "policy")
    palm = PaLM.from_config(model_shape(manifest, path))
    fill(palm, state, path)
    return palm.to(device).eval(), tokenizer, manifest


def save_reward_model(
    store: Path | str,
    reward_model: "RewardModel",
    tokenizer: "Tokenizer",
    meta: Mapping[str, Any],
    *,
    dtype: Storage = "float32",
) -> CheckpointRef:
    """Store a reward model whole: trunk, adapters, segment embeddings, head and normalisation.

    ``reward_model.head_config`` is the plain dict of keywords with which ``RewardModel(palm, **head_config)`` makes an
    equal one; numbers found in training, such as the normalisation, are buffers and travel with the weights.
    """
    head = dict(reward_model.head_config)
    state = reward_model.state_dict()
    return save(store, "reward_model", reward_model.palm.config, head, state, tokenizer, meta, dtype)


def load_reward_model(
    path: Path | str, device: torch.device | str = "cpu"
) -> "tuple[RewardModel, Tokenizer, dict[str, Any]]":
    """The reward model, its tokenizer and its manifest, verified, in eval mode.

    Raises:
        CheckpointError: it is missing, torn, altered, or no reward model.
    """
    from rlhf_core.modules.palm import PaLM
    from rlhf_core.modules.reward_model import RewardModel

    manifest, state, tokenizer = load(Path(path), "reward_model")
    palm = PaLM.from_config(model_shape(manifest, path))
    try:
        reward_model = RewardModel(palm, **manifest["head"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the manifest's head is none of ours: {error}") from error
    fill(reward_model, state, path)
    return reward_model.to(device).eval(), tokenizer, manifest


def merged_weights(palm: "PaLM", finetune_scope: str | None) -> dict[str, Tensor]:
    """The weights of a PaLM without adapters that answers as this one does under ``finetune_scope``."""
    from rlhf_core.modules.palm import PaLM

    plain = PaLM.from_config(palm.config)
    if finetune_scope is None and set(palm.state_dict()) == set(plain.state_dict()):
        return palm.state_dict()
    if finetune_scope is None:
        raise CheckpointError("the policy has adapters: name the scope to merge, or remove them before saving")
    merged = copy.deepcopy(palm)
    merged.merge_finetune_params(finetune_scope)
    state = merged.state_dict()
    return {name: state[name] for name in plain.state_dict()}


def save(
    store: Path | str,
    kind: Kind,
    model: ModelConfig,
    head: dict[str, Any] | None,
    state: Mapping[str, Tensor],
    tokenizer: "Tokenizer",
    meta: Mapping[str, Any],
    dtype: Storage,
) -> CheckpointRef:
    """Write one checkpoint into the store."""
    from rlhf_core.text.template import TEMPLATE_SHA256

    if dtype not in STORAGE:
        raise ConfigError("dtype", dtype, "one of " + ", ".join(STORAGE))
    stored = {
        name: tensor.to(STORAGE[dtype]) if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds a number that is not finite in {dtype}; such a model is not saved")
    store = Path(store).absolute()
    remove_unfinished(store)
    with UnfinishedFolder(store) as unfinished:
        manifest = canonical_json(
            {
                "format": FORMAT,
                "kind": kind,
                "model": settings_to_dict(model),
                "head": head,
                "dtype": dtype,
                "template_sha256": TEMPLATE_SHA256,
                "tokenizer_sha256": tokenizer.sha256,
                "files": {
                    "model.safetensors": unfinished.write("model.safetensors", pack_tensors(stored)),
                    "tokenizer.json": unfinished.write("tokenizer.json", tokenizer.serialised.encode()),
                },
                "meta": dict(meta),
            }
        )
        ref = CheckpointRef(id=sha256(manifest), path=store / sha256(manifest), kind=kind)
        if ref.path.exists() or ref.path.is_symlink():
            try:
                verify(ref.path)
                return ref
            except CheckpointError:  # a damaged one of this name: the same bytes are at hand, so put them in its place
                ref.path.rename(unfinished.path.with_name(unfinished.path.name + "-damaged"))
        try:
            unfinished.publish(ref.id, manifest)
        except OSError:
            if not ref.path.exists():
                raise
            verify(ref.path)  # another process published the same content in between
    return ref


def load(path: Path, kind: Kind) -> "tuple[dict[str, Any], dict[str, Tensor], Tokenizer]":
    """Manifest, weights in float32 and tokenizer of a verified checkpoint of ``kind``."""
    from rlhf_core.text.template import TEMPLATE_SHA256
    from rlhf_core.text.tokenizer import Tokenizer

    manifest, files = read_checkpoint(path)
    if manifest["kind"] != kind:
        raise CheckpointError(f"{path} is a {manifest['kind']}, not a {kind}")
    if manifest["template_sha256"] != TEMPLATE_SHA256:
        raise CheckpointError(f"{path} was trained with another prompt template than this version's")
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in unpack_tensors(files["model.safetensors"]).items()
    }
    try:
        tokenizer = Tokenizer(files["tokenizer.json"].decode())
    except Exception as error:  # the backend raises bare exceptions
        raise CheckpointError(f"{path}: tokenizer.json is no tokenizer: {error}") from error
    return manifest, state, tokenizer


def model_shape(manifest: Mapping[str, Any], path: Path | str) -> ModelConfig:
    """The shape that a manifest names."""
    try:
        return settings_from_dict(ModelConfig, manifest["model"])
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: the manifest's model has no permitted shape: {error}") from error


def fill(module: torch.nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights that must fit exactly."""
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the manifest's model: {error}") from error
