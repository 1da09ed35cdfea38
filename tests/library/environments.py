"""An environment of its own for a wheel: made in seconds, since what is large is shared."""

import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.peers.environments import SHARED, install, site_packages


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
                link.symlink_to(SHARED / top)
    return environment / "bin" / "python"
