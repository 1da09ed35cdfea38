"""Trains runs one after the other with the processes that a launcher started; what the tests of several processes run.

    torchrun --nproc-per-node 2 several_processes.py KIND RUN-DIR ["stop" or "kill"] …

Process 0 keeps every gradient that an optimiser sees, beside the run: ``gradients.safetensors``. "stop" sends the last
process SIGTERM at its third step, "kill" SIGKILL.
"""

import os
import signal
import sys
from pathlib import Path

import safetensors.torch
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rlhf_core.cli import train
from rlhf_core.distributed import Group, open_group
from rlhf_core.training import reward
from rlhf_core.training.sharding import whole

SIGNALS = {"stop": signal.SIGTERM, "kill": signal.SIGKILL}
SIGNAL_STEP = 3
reward.DROPOUT = 0.0  # each process draws its own masks


def gradients_of_a_run(kind: str, folder: Path, group: Group | None = None, event: str = "") -> tuple[int, dict]:
    """Train a run; returns its exit code and each step's gradients by (step, parameter)."""
    group = Group() if group is None else group
    seen: dict[str, torch.Tensor] = {}
    steps = 0

    def keep(optimizer, *_) -> None:
        nonlocal steps
        steps += 1
        parameters = [parameter for part in optimizer.param_groups for parameter in part["params"]]
        for number, parameter in enumerate(parameters):
            if parameter.grad is not None:
                seen[f"{steps:03d}.{number}"] = whole(parameter.grad).clone()
        if event and steps == SIGNAL_STEP and group.rank == group.size - 1:
            os.kill(os.getpid(), SIGNALS[event])

    hook = register_optimizer_step_pre_hook(keep)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return train(folder, kind, group=group), seen
    finally:
        hook.remove()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    group = open_group()
    code = 0
    while arguments:
        kind, folder, *arguments = arguments
        event = arguments.pop(0) if arguments and arguments[0] in SIGNALS else ""
        code, seen = gradients_of_a_run(kind, Path(folder), group, event)
        if group.is_first:
            safetensors.torch.save_file(seen, Path(folder) / "gradients.safetensors")
    group.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
