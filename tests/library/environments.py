"""Environments of their own for the tests of the library: made in seconds, since what is large is shared."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers"
OURS = Path(sysconfig.get_paths()["purelib"])


def site_packages(environment: Path) -> Path:
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def install(environment: Path, *arguments: str) -> None:
    """pip, by its own configuration, into an environment.

    Raises:
        RuntimeError: it failed; holds what pip said.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
    done = subprocess.run([*command, "install", "--quiet", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip install {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def peer_environment(name: str, requirements: Path) -> Path:
    """The Python of an environment under .venv-peers with these requirements and, behind them, all packages of ours.

    Made once; made anew when the requirements or our own environment are others.

    Raises:
        RuntimeError: pip could not install them.
    """
    PEERS.mkdir(exist_ok=True)
    environment = PEERS / name
    made_from = hashlib.sha256(f"{sys.version} {OURS} {requirements.read_text()}".encode()).hexdigest()
    stamp = environment / "made-from"
    with (PEERS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != made_from:
            shutil.rmtree(environment, ignore_errors=True)
            venv.create(environment, with_pip=False, symlinks=True)
            (site_packages(environment) / "shared.pth").write_text(f"{OURS}\n")
            install(environment, "--no-deps", "--requirement", str(requirements))
            stamp.write_text(made_from)
    return environment / "bin" / "python"


def environment_of_a_wheel(wheel: Path, environment: Path) -> Path:
    """The Python of a fresh environment with a wheel and what its metadata asks for, and nothing else.

    The dependencies are links to the packages that run the tests: a download of torch adds minutes and proves nothing.
    """
    venv.create(environment, with_pip=False, symlinks=True)
    install(environment, "--no-deps", "--no-index", str(wheel))
    (own,) = metadata.distributions(path=[str(site_packages(environment))])
    waiting, linked = [Requirement(one) for one in own.requires or ()], set[str]()
    while waiting:
        requirement = waiting.pop()
        if requirement.name in linked or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        linked.add(requirement.name)
        found = metadata.distribution(requirement.name)
        waiting += [Requirement(one) for one in found.requires or ()]
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = site_packages(environment) / top
            if not link.is_symlink():
                link.symlink_to(OURS / top)
    return environment / "bin" / "python"
