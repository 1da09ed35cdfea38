"""Where the embedded servers of a data folder answer: one small JSON file that only its owner may read.

The ``up`` supervisor writes it, the settings of every other process read it. Nothing here imports Django, because the
settings import this module.
"""

import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

ENDPOINTS = "endpoints.json"


def read_endpoints(data_dir: Path) -> dict[str, Any]:
    """What was written last; an empty dict where nothing was, or where the file is not ours to read."""
    try:
        found = json.loads((data_dir / ENDPOINTS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_endpoints(data_dir: Path, **values: Any) -> None:
    """Merge ``values`` into the file; a value of None removes its key."""
    merged = {**read_endpoints(data_dir), **values}
    text = json.dumps({key: value for key, value in merged.items() if value is not None}, indent=1)
    write_private(data_dir / ENDPOINTS, text + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` in one step by a file with mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    beside.replace(path)


def secret_in(path: Path, *, length: int = 64) -> str:
    """The secret kept in ``path``, made on the first call (``length`` is in characters of a URL-safe alphabet)."""
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        found = ""
    if not found:
        write_private_once(path, secrets.token_urlsafe(length)[:length])
        found = path.read_text().strip()
    return found


def write_private_once(path: Path, text: str) -> None:
    """Write ``path`` unless another process has; whoever comes first wins, and the file is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_private(beside, text + "\n")
    try:
        os.link(beside, path)
    except FileExistsError:
        if not path.read_text().strip():  # an empty file left by an editor or a full disk
            beside.replace(path)
            return
    beside.unlink()


def free_port(preferred: int | None = None) -> int:
    """``preferred`` where that is free on the loopback interface, else a port that the system chooses.

    Another process may take it before it is used: whoever starts a server on it looks whether the server got it, and
    asks again if not. A socket that is ours to keep comes from ``listening.listen`` instead.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred or 0))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Any, *, seconds: float, pause_seconds: float = 0.05) -> bool:
    """Call ``ready()`` until it is true or ``seconds`` are over; says whether it came true."""
    end = time.monotonic() + seconds
    while True:
        if ready():
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(pause_seconds)
