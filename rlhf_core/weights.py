"""Weights in one file: safetensors with a digest of their own, whole or absent, read all or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from rlhf_core.durable import write_atomically
from rlhf_core.errors import CheckpointError

ZIP_START = b"PK\x03\x04"  # torch.save writes a zip archive
SHOWN = 4  # names that an error lists of each kind


def save_weights(path: str | Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is to be said of them (JSON) to one safetensors file.

    Whatever the file's name, it is safetensors; after a crash it is whole or absent.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in about.items()}
    write_atomically(Path(path), pack(tensors, {**metadata, "sha256": digest(tensors)}))


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is said of the tensors, and the tensors, on the CPU.

    Told by its content, not its name: a safetensors file, by ``save_weights`` or anyone, or a state dict by
    ``torch.save``, of which nothing but tensors is read (``weights_only``) and nothing is said.

    Raises:
        CheckpointError: the file is missing, torn, altered since it was written, or holds no plain state dict.
    """
    try:
        with Path(path).open("rb") as file:
            is_archive = file.read(4) == ZIP_START
        if is_archive:
            return {}, read_archive(path)
        with safe_open(str(path), framework="pt") as opened:
            about = {name: said for name, said in (opened.metadata() or {}).items() if name != "format"}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        written = about.pop("sha256", None)
        if written is not None and written != digest(tensors):
            raise ValueError("it was altered since it was written: the digest of its weights is another")
        return {name: json.loads(said) for name, said in about.items()} if written else {}, tensors
    except Exception as error:  # safetensors and torch raise kinds of their own, and a torn file may fail anywhere
        raise CheckpointError(f"{path} is no readable file of weights: {error}") from error


def read_archive(path: str | Path) -> dict[str, Tensor]:
    """The state dict that ``torch.save`` wrote.

    Raises:
        ValueError: it holds anything but tensors by name.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words would explain how to run the code in the file
        raise ValueError("it is torn, or holds more than a state dict of tensors, which is not unpickled") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError("it holds no plain state dict: save module.state_dict() alone")
    return dict(state)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_fit(module: nn.Module, state: Mapping[str, Tensor], optional: Mapping[str, torch.Size] | None = None) -> None:
    """Refuse a state that would not load whole, before any of it is loaded.

    Args:
        optional: shapes of what the state may hold, all of it or none, whether or not the module has it now.

    Raises:
        ValueError: names or shapes differ from the module's; says which.
    """
    optional = optional or {}
    expected = {name: tensor.shape for name, tensor in module.state_dict().items() if name not in optional}
    check_same({**expected, **(optional if optional.keys() & state.keys() else {})}, state)


def check_same(expected: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where names or shapes differ from the expected ones."""
    lacking, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    other = [
        f"{name} {tuple(tensor.shape)} where {tuple(expected[name])} is expected"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name]
    ]
    wrong = [
        f"{words} {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for words, names in (("it lacks", lacking), ("it holds in addition", extra), ("it has", other))
        if names
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
