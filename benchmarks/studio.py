"""A whole studio in a temporary folder, started by ``manage.py up`` and stopped at the end, for the benchmarks."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_SECONDS = 180


@contextmanager
def studio() -> Iterator[str]:
    """Start everything, point Django of this process at it, and yield the address of the pages."""
    with tempfile.TemporaryDirectory(prefix="steersman-bench-") as folder:
        data = Path(folder) / "data"
        os.environ["STEERSMAN_DATA"] = str(data)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
        log = (Path(folder) / "up.log").open("w+")
        up = subprocess.Popen([sys.executable, ROOT / "manage.py", "up"], cwd=ROOT, stdout=log, stderr=log)
        try:
            url = wait_for_address(up, data, Path(log.name))
            import django

            django.setup()
            yield url
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(timeout=150)
            log.close()


def wait_for_address(up: subprocess.Popen[bytes], data: Path, log: Path) -> str:
    """The address, once "everything runs" stands in the log."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and up.poll() is None:
        if "everything runs" in log.read_text():
            return str(json.loads((data / "endpoints.json").read_text())["web_url"])
        time.sleep(0.2)
    raise RuntimeError(f"the studio did not start:\n{log.read_text()[-2000:]}")
