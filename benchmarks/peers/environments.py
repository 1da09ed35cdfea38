"""The environments of the peers, in ``.venv-peers``: ``python -m benchmarks.peers.environments [names]``.

An environment sees what the one that runs this has behind what it has itself, so torch is there once, and whatever pip
finds fitting is shared.
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"
SHARED = Path(sysconfig.get_paths()["purelib"])
NAMES = tuple(sorted(file.stem for file in HERE.glob("*.txt")))


def peer_environment(name: str) -> Path:
    """The Python of a peer's environment; makes it, if the pinned packages or our own environment are others by now.

    Raises:
        RuntimeError: pip could not install them; holds what pip said.
    """
    ENVIRONMENTS.mkdir(exist_ok=True)
    environment, requirements = ENVIRONMENTS / name, HERE / f"{name}.txt"
    made_from = hashlib.sha256(f"{sys.version} {SHARED} {requirements.read_text()}".encode()).hexdigest()
    stamp = environment / "made-from"
    with (ENVIRONMENTS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != made_from:
            shutil.rmtree(environment, ignore_errors=True)
            venv.create(environment, with_pip=False, symlinks=True)
            (site_packages(environment) / "shared.pth").write_text(f"{SHARED}\n")
            install(environment, "--requirement", str(requirements))
            stamp.write_text(made_from)
    return environment / "bin/python"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"{', '.join(NAMES)}; all, unless some are named")
    names = parser.parse_args().names
    if unknown := sorted({*names} - {*NAMES}):
        parser.error(f"there is no {unknown[0]}; there are {', '.join(NAMES)}")
    for name in names or NAMES:
        print(f"Making .venv-peers/{name}", flush=True)
        peer_environment(name)


if __name__ == "__main__":
    main()
