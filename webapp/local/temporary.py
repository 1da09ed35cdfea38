"""A whole studio in a temporary folder, started by ``manage.py up``; for simulations and benchmarks."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from webapp.local.endpoints import read_endpoints
from webapp.local.process import LocalServiceError

MANAGE = Path(__file__).parents[2] / "manage.py"
START_SECONDS = 300.0
STOP_SECONDS = 150.0
OF_ITS_OWN = {
    "DATABASE_URL": "",
    "BROKER_URL": "",
    "SECRET_KEY": "",
    "SAMPLER_ADDRESS": "",
    "PUBLIC_URL": "",
    "HEARTBEAT_FILE": "",
    "ALLOWED_HOSTS": "localhost,127.0.0.1",
    "USE_HTTPS": "false",
}


@dataclass(frozen=True, slots=True)
class TemporaryStudio:
    """Where a temporary studio answers and keeps its data."""

    url: str
    data: Path
    database_url: str
    broker_url: str


def environment_of(data: Path) -> dict[str, str]:
    """What a studio with its data in ``data``, which touches no other, is started with over the caller's environment.

    Each name is set, were it to nothing: one that is missing would come from ``.env``. So is each ``NAME_FILE``, which
    would win over ``NAME``.
    """
    own = {**OF_ITS_OWN, "STEERSMAN_DATA": str(data)}
    return own | {f"{name}_FILE": "" for name in own}


@contextmanager
def temporary_studio() -> Iterator[TemporaryStudio]:
    """Start a studio with the demo project; at the end, however it comes, stop it and remove its folder.

    Raises:
        LocalServiceError: it did not start; the message has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="steersman-studio-") as folder:
        data, log = Path(folder) / "data", Path(folder) / "up.log"
        with log.open("wb") as file:
            up = subprocess.Popen(
                [sys.executable, MANAGE, "up"],
                env={**os.environ, **environment_of(data)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C reaches it once, by us
            )
        try:
            wait_until_it_runs(up, log)
            found = read_endpoints(data)
            yield TemporaryStudio(found["web_url"], data, found["database_url"], found["broker_url"])
        finally:
            stop(up)


def wait_until_it_runs(up: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while "everything runs" not in log.read_text(errors="replace"):
        if up.poll() is not None or time.monotonic() > end:
            raise LocalServiceError(f"the temporary studio did not start. Its log ends:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def stop(up: subprocess.Popen[bytes]) -> None:
    """Ask it to stop and wait; another Ctrl-C meanwhile is passed on, and means: at once."""
    up.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while True:
        try:
            up.wait(timeout=max(0.1, end - time.monotonic()))
            return
        except KeyboardInterrupt:
            up.send_signal(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            up.kill()
