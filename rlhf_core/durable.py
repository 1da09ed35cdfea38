"""Files and folders that are either whole or absent after a crash; standard library only.

The order is always the same: write beside, sync the bytes, rename within one folder, sync the folder. A rename without
the first sync can leave an empty file after a power cut; without the second it can be forgotten altogether.

``STEERSMAN_FAILPOINT=name`` kills the process with SIGKILL at the named point, so that a test can stand where a power
cut would: before-blob, after-blob, before-manifest, after-manifest, before-rename, after-rename.
``STEERSMAN_FAILPOINT=name:3`` does so at the third passing.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAILPOINTS = ("before-blob", "after-blob", "before-manifest", "after-manifest", "before-rename", "after-rename")
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # a file is not there; other OSErrors may pass
UNFINISHED_PREFIX = ".writing-"
UNFINISHED_LIFETIME_SECONDS = 24 * 3600.0
passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here, as by a power cut, if ``STEERSMAN_FAILPOINT`` asks for it."""
    wanted, _, count = os.environ.get("STEERSMAN_FAILPOINT", "").partition(":")
    if wanted == name:
        passed[name] += 1
        if passed[name] >= int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, or None where there is none."""
    return file_sha256(path) if path.is_file() else None


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and a fixed layout: equal values give equal bytes.

    Raises:
        ValueError: a number is not finite.
    """
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until its bytes are on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` in one step: a reader sees the old bytes or the new ones, never a part."""
    beside = path.with_name(f"{UNFINISHED_PREFIX}{os.getpid()}-{path.name}")
    try:
        write_synced(beside, data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


class UnfinishedFolder:
    """A folder under construction beside its final place; leaving the block without ``publish`` removes it.

    ``with UnfinishedFolder(parent) as folder: folder.write("blob", data); folder.publish("name", manifest)``
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.path = parent / f"{UNFINISHED_PREFIX}{os.getpid()}-{time.time_ns()}"

    def __enter__(self) -> "UnfinishedFolder":
        self.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def write(self, name: str, data: bytes) -> dict[str, Any]:
        """Write one file; returns its SHA-256 and size for the manifest."""
        failpoint("before-blob")
        write_synced(self.path / name, data)
        failpoint("after-blob")
        return {"sha256": sha256(data), "size": len(data)}

    def publish(self, name: str, manifest: bytes) -> Path:
        """Write the manifest last, then rename the folder to ``name``."""
        failpoint("before-manifest")
        write_synced(self.path / "manifest.json", manifest)
        failpoint("after-manifest")
        sync_folder(self.path)
        final = self.parent / name
        failpoint("before-rename")
        self.path.rename(final)
        failpoint("after-rename")
        sync_folder(self.parent)
        return final


def read_verified(folder: Path, files: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of a manifest's files, each of the size and SHA-256 that the manifest names.

    Raises:
        ValueError: a name leaves the folder, or a file is missing, a link, or altered; the message says which.
    """
    found = {}
    for name, expected in files.items():
        path = folder / name
        if name != os.path.basename(name) or name.startswith("."):
            raise ValueError(f"{name!r} is not a plain file name")
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{name} is missing or not a regular file")
        data = path.read_bytes()
        if len(data) != expected["size"]:
            raise ValueError(f"{name} has {len(data)} bytes, the manifest says {expected['size']}")
        if sha256(data) != expected["sha256"]:
            raise ValueError(f"{name} was altered: its SHA-256 is not the manifest's")
        found[name] = data
    return found


def remove_unfinished(parent: Path, older_than_seconds: float = UNFINISHED_LIFETIME_SECONDS) -> None:
    """Remove what killed writers left behind, once it is old enough that no writer can still be at it."""
    for path in parent.glob(f"{UNFINISHED_PREFIX}*"):
        if time.time() - path.lstat().st_mtime >= older_than_seconds:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
