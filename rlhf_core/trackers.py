"""Metrics for TensorBoard and Weights & Biases, through accelerate's trackers; none of them is needed otherwise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rlhf_core.config import settings_to_dict
from rlhf_core.durable import sha256
from rlhf_core.errors import ConfigError

if TYPE_CHECKING:
    from rlhf_core.training.run_directory import RunDirectory

TRACKERS = ("tensorboard", "wandb")


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown, or whose packages aren't there.

    Raises:
        ConfigError: says which, and how to install what is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError("track", name, "one of " + ", ".join(TRACKERS))
        missing = [package for package in ("accelerate", name) if find_spec(package) is None]
        if missing:
            raise ConfigError("track", name, f"installed first, by: pip install {' '.join(missing)}")


@contextmanager
def tracking(
    names: Sequence[str], run: "RunDirectory", project: str
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """A function to call with each event of ``run``, which hands its metrics and samples on; None without ``names``.

    TensorBoard writes into the run directory's ``tensorboard``; a resumed run goes on in the same run of wandb.

    Raises:
        ConfigError: a tracker is unknown or not installed.
    """
    check_trackers(names)
    if not names:
        yield None
        return
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    places = ProjectConfiguration(project_dir=str(run.path), logging_dir=str(run.path / "tensorboard"))
    accelerator = Accelerator(log_with=list(names), project_config=places)
    settings = {name: "none" if value is None else value for name, value in settings_to_dict(run.config).items()}
    identity = sha256(str(run.path).encode())[:16]
    wandb = {"name": run.path.name, "dir": str(run.path), "id": identity, "resume": "allow"}
    accelerator.init_trackers(project, config={"kind": run.kind, **settings}, init_kwargs={"wandb": wandb})

    def hand_on(event: dict[str, Any]) -> None:
        if event["kind"] == "metrics":
            known = {name: value for name, value in event["metrics"].items() if value is not None}
            accelerator.log(known, step=event["step"])
        elif event["kind"] == "sample":
            accelerator.log({"sample": f"{event['prompt']} ▸ {event['response']}"}, step=event["step"])

    try:
        yield hand_on
    finally:
        for tracker in accelerator.trackers:  # not end_training, which would close the group of several processes too
            tracker.finish()
