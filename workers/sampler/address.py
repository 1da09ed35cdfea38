"""Where the sampler answers: a socket in the data folder, or ``http://host:port`` where SAMPLER_ADDRESS names one."""

import hashlib
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

LONGEST_SOCKET_PATH = 100  # the system's limit is 107 bytes, on some 103


def sampler_address(address: str, data_dir: Path) -> Path | tuple[str, int]:
    """A socket's path, or host and port.

    Raises:
        ValueError: ``address`` is neither empty, nor ``unix:/path``, nor ``http://host:port``.
    """
    if address.startswith("unix:"):
        return Path(address.removeprefix("unix:"))
    if address:
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"SAMPLER_ADDRESS = {address!r} is neither http://host:port nor unix:/path")
        return parts.hostname, parts.port
    path = data_dir / "sampler.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"steersman-{os.getuid()}-{digest}" / "sampler.sock"
