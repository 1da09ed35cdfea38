"""The one way in which weights are moved: by a finite gradient of limited length."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rlhf_core.errors import TrainingDiverged


def descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Iterable[nn.Parameter], max_norm: float, what: str
) -> float:
    """One optimiser step with the gradient of ``loss`` scaled down to ``max_norm``; returns its norm before.

    Args:
        parameters: all that ``optimizer`` moves; their norm is taken together.
        what: names the step in the error.

    Raises:
        TrainingDiverged: loss or gradient is not finite. The step is not taken, since one such gradient would leave
            neither weights nor the optimiser's moments usable.
    """
    optimizer.zero_grad(set_to_none=True)
    value, norm = float(loss.detach()), math.nan
    if math.isfinite(value):
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if not math.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise TrainingDiverged(
            f"{what}: the loss is {value} and its gradient's norm {norm}, so the step was not taken; "
            "try a lower learning rate"
        )
    optimizer.step()
    return norm
