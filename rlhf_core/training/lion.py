"""Lion: steps of one size, in the direction that two averages of the gradient agree on."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlhf_core.errors import ConfigError


class Lion(Optimizer):
    """Sign momentum with decoupled weight decay.

    Each step moves a weight by the learning rate against the sign of ``b1 * average + (1 - b1) * gradient``, and then
    takes the gradient into the average by ``b2``. Learning rates are a third to a tenth of AdamW's.

    Args:
        params: what it moves.
        lr: size of every step.
        betas: (b1, b2), each at least 0 and below 1.
        weight_decay: share of the weight, times ``lr``, taken off a step.

    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms", algorithm 2,
        https://arxiv.org/abs/2302.06675
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError("betas", betas, "two numbers, each at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a closure is called first, with gradients on, for its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                direction = torch.lerp(parameter.grad, state["average"], first).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                state["average"].lerp_(parameter.grad, 1 - second)
        return loss
