"""A training function small enough for the tests of the command line: it counts, saves, and ends as it is told to."""

import os
import time
from functools import partial

import torch

from rlhf_core.checkpoint import CheckpointRef
from rlhf_core.errors import DatasetError, TrainingDiverged
from rlhf_core.training.run_directory import RunDirectory


def capture(total: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The whole state."""
    return {"total": total}, {}


def train_counting(run: RunDirectory) -> None:
    """Add up 1 to 5, a state a step; ``run.meta["mood"]`` says how it ends."""
    mood = run.meta.get("mood")
    if mood == "refused":
        raise DatasetError("3 usable ratings, 20 are needed")
    state = run.load_state()
    step, total = (state.step, state.tensors["total"]) if state else (0, torch.zeros(()))
    while step < 5:
        step += 1
        total = total + step
        run.metrics(step, {"loss": 1 / step, "threads": torch.get_num_threads()})
        run.progress(step, 5, "train")
        if mood == "diverged" and step == 3:
            raise TrainingDiverged("the loss of step 3 is nan")
        if mood == "slow":
            time.sleep(0.2)
        if mood == "killed" and step == 3 and state is None:
            os.kill(os.getpid(), 9)
        run.save_or_stop(step, 1, partial(capture, total))
    run.finish([CheckpointRef("0" * 64, run.store / "0", "reward_model")], {"total": float(total)})
