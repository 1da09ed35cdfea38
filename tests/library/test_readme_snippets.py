"""The seed library's README runs here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.environments import ROOT

SCRIPT = Path(__file__).parent / "readme_snippets.py"


def run_snippets(*arguments: str | Path, python: Path | str = sys.executable, **options) -> list[str]:
    done = subprocess.run([python, SCRIPT, *arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_first_two_run_at_the_readmes_own_sizes(tmp_path):
    checkout = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert run_snippets(tmp_path, "full", "1", "2", env=checkout) == ["1 1 2048", "2 1"]
