"""``./manage.py up --check`` on an empty folder: from nothing to the first pair that a rater can judge, and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = {"postgres", "broker", "migrate", "static", "demo", "web", "workers", "first_pair", "total"}


def check(data):
    kept = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "BROKER_URL")}
    return subprocess.run(
        [sys.executable, "manage.py", "up", "--check"],
        cwd=ROOT,
        env={**kept, "STEERSMAN_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.slow
def test_an_empty_folder_comes_to_a_rateable_pair_and_the_second_start_makes_nothing_again(tmp_path):
    data = tmp_path / "steersman"
    first = check(data)
    assert first.returncode == 0, first.stderr[-4000:]
    told = json.loads(first.stdout)  # one line, and nothing else, on the standard output
    assert told["ok"] is True
    assert set(told["seconds"]) == STEPS
    assert "Imported" in first.stderr
    assert "Traceback" not in first.stderr
    assert not (data / "processes.json").exists()
    assert not (data / "postgres" / "data" / "postmaster.pid").exists()

    second = check(data)
    assert second.returncode == 0, second.stderr[-4000:]
    assert set(json.loads(second.stdout)["seconds"]) == STEPS
    assert "collectstatic" not in second.stderr
    assert "Imported" not in second.stderr


def test_check_fails_with_the_cause_in_its_line_when_something_can_not_start(tmp_path):
    data = tmp_path / "steersman"
    data.mkdir()
    (data / "postgres").write_text("in the way")
    found = check(data)
    assert found.returncode == 1
    told = json.loads(found.stdout)
    assert told["ok"] is False
    assert "postgres" in told["error"]
    assert not (data / "processes.json").exists()
