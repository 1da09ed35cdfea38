"""Checkpoints as files: names, verification and removal, for whoever must not load torch; standard library only.

``rlhf_core/checkpoint.py`` says what is in the files, and saves and loads them.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rlhf_core.durable import UnfinishedFolder, read_verified, sha256
from rlhf_core.errors import CheckpointError

FORMAT = 1
FILES = ("model.safetensors", "tokenizer.json")


def verify(path: Path | str) -> dict[str, Any]:
    """Check every byte of a checkpoint against its manifest and its name; returns the manifest, with its "id".

    Raises:
        CheckpointError: it is missing, torn or altered.
    """
    return read_checkpoint(Path(path))[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest (with its "id" added) and the bytes of the files, all verified."""
    folder = Path(os.path.abspath(path))
    manifest_path = folder / "manifest.json"
    if folder.is_symlink() or manifest_path.is_symlink() or not manifest_path.is_file():
        raise CheckpointError(f"{path} is no checkpoint: it has no manifest.json of its own")
    data = manifest_path.read_bytes()
    identity = sha256(data)
    if is_identity(folder.name) and folder.name != identity:
        raise CheckpointError(f"{path}: the manifest was altered, its SHA-256 is not the folder's name")
    try:
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {manifest['format']!r}; this version reads {FORMAT}")
        if sorted(manifest["files"]) != sorted(FILES):
            raise CheckpointError(f"{path} names the files {sorted(manifest['files'])}, not {sorted(FILES)}")
        files = read_verified(folder, manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return {**manifest, "id": identity}, files


def is_identity(name: str) -> bool:
    """Whether a name is a SHA-256 in hexadecimal."""
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def checkpoint_path(store: Path | str, identity: str) -> Path:
    """The folder of a checkpoint of a store.

    Raises:
        CheckpointError: ``identity`` is no SHA-256, so it might lead out of the store.
    """
    if not is_identity(identity):
        raise CheckpointError(f"{identity!r} is no checkpoint id")
    return Path(store).absolute() / identity


def remove_checkpoint(store: Path | str, identity: str) -> None:
    """Remove a checkpoint; a crash in between leaves nothing that could pass for one."""
    path = checkpoint_path(store, identity)
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def copy_checkpoint(source: Path | str, store: Path | str) -> str:
    """Put a verified copy of the checkpoint in folder ``source`` into a store; returns its id. Twice does no harm.

    Raises:
        CheckpointError: the source is missing, torn or altered.
    """
    manifest, files = read_checkpoint(Path(source))
    target = checkpoint_path(store, manifest["id"])
    if target.exists():
        try:
            verify(target)
            return str(manifest["id"])
        except CheckpointError:  # a damaged one of this name: the same bytes are at hand
            shutil.rmtree(target)
    with UnfinishedFolder(target.parent) as unfinished:
        for name, data in files.items():
            unfinished.write(name, data)
        unfinished.publish(target.name, (Path(source) / "manifest.json").read_bytes())
    return str(manifest["id"])
