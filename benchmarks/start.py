"""Seconds to the first pair that can be rated: ``python -m benchmarks.start``; JSON out.

``manage.py up --check`` on an empty data folder, and once more on what it left: goals 120 s and 15 s on two cores, with
the packages installed. The seconds are by step, as the command tells them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from webapp.local.temporary import environment_of

MANAGE = Path(__file__).parents[1] / "manage.py"


def start(data: Path) -> dict[str, Any]:
    """One start; seconds by step.

    Raises:
        RuntimeError: it did not come to a pair; says why.
    """
    environment = {**os.environ, **environment_of(data)}
    command = [sys.executable, str(MANAGE), "up", "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"manage.py up --check ended with {done.returncode}:\n{done.stdout}{done.stderr[-2000:]}")
    seconds: dict[str, Any] = json.loads(done.stdout)["seconds"]
    return seconds


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory(prefix="steersman-start-") as folder:
        data = Path(folder) / "data"
        print(json.dumps({"first": start(data), "second": start(data)}, indent=1))


if __name__ == "__main__":
    main()
