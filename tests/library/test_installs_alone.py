"""The library without the studio: what ``pip install .`` brings, and what importing it costs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.environments import ROOT
from tests.library.environments import environment_of_a_wheel
from tests.library.test_readme_snippets import run_snippets

IMPORTLIB = ("importlib", "importlib._bootstrap", "importlib._bootstrap_external", "warnings")
STUDIO = ("django", "celery", "psycopg", "redis", "uvicorn", "webapp", "workers", "demo", "benchmarks")


@pytest.fixture(scope="session")
def alone(tmp_path_factory) -> Path:
    """The Python of an environment that holds our wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(ROOT / "rlhf_core", folder / "source/rlhf_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.fail(f"no wheel was built, for which pip must reach an index with setuptools:\n{built.stderr}")
    (wheel,) = folder.glob("steersman-*.whl")
    return environment_of_a_wheel(wheel, folder / "environment")


def said_by(python: Path, code: str, folder: Path) -> str:
    """What ``code`` prints; run away from the checkout, so that only the environment can answer."""
    return subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_wheel_brings_the_library_without_the_studio(alone, tmp_path):
    code = f"from importlib.util import find_spec; print([name for name in {STUDIO} if find_spec(name)])"
    assert said_by(alone, code, tmp_path) == "[]\n"
    home = said_by(alone, "import rlhf_core; print(rlhf_core.__file__)", tmp_path)
    assert home.startswith(str(alone.parents[1]))


def test_the_wheel_names_all_that_it_needs(alone):
    command = [sys.executable, "-m", "pip", "--python", str(alone), "--disable-pip-version-check", "check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.stdout == "No broken requirements found.\n", checked.stdout


def test_the_seed_readme_runs_in_it(alone, tmp_path):
    found = run_snippets(tmp_path, "small", "1", "2", "3", python=alone, cwd=tmp_path)
    assert found == ["1 1 64", "2 1", "3 64"]


def test_its_command_line_answers(alone, tmp_path):
    done = subprocess.run(
        [alone, "-m", "rlhf_core", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "policy" in done.stdout


def test_every_public_name_loads(alone, tmp_path):
    code = "import rlhf_core; print(*[getattr(rlhf_core, name).__name__ for name in rlhf_core.__all__])"
    names = (
        "ActorCritic Composite Ensemble PaLM RLHFTrainer RewardModel Tokenizer end_reward length_reward pattern_reward "
        "reward_from_function reward_of takes_batches token_reward"
    )
    assert said_by(alone, code, tmp_path) == f"{names}\n"
    assert said_by(alone, "import rlhf_core; print(rlhf_core.__all__ == dir(rlhf_core))", tmp_path) == "True\n"


def test_importing_it_loads_itself_and_the_module_that_loads_others(alone, tmp_path):
    code = "import sys; before = set(sys.modules); import rlhf_core; print(*sorted(set(sys.modules) - before))"
    loaded = set(said_by(alone, code, tmp_path).split())
    assert "rlhf_core" in loaded
    assert loaded <= {"rlhf_core", *IMPORTLIB}
