"""The one way in which weights are moved: by a finite gradient of limited length."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from rlhf_core.distributed import ALONE, Group
from rlhf_core.errors import TrainingDiverged
from rlhf_core.training.sharding import is_spread, whole


def descend(
    optimizer: torch.optim.Optimizer,
    losses: Tensor | Iterable[Tensor],
    parameters: Iterable[nn.Parameter],
    max_norm: float,
    what: str,
    *,
    is_vetoed: Callable[[], bool] | None = None,
    group: Group = ALONE,
) -> float:
    """One optimiser step with the gradient of a loss scaled down to ``max_norm``; returns its norm before.

    Args:
        losses: the loss, or its parts, whose sum it is: an iterator that makes each when it is asked for lets the
            activations of one part go before those of the next are made.
        parameters: all that ``optimizer`` moves; their norm is taken together.
        what: names the step in the error.
        is_vetoed: asked when the gradient is there; True leaves weights and optimiser as they are. All processes of
            ``group`` must answer alike.
        group: each of its processes gives the parts of the loss that its rows make; all take the same step.

    Raises:
        TrainingDiverged: loss or gradient is not finite. The step is not taken, since one such gradient would leave
            neither weights nor the optimiser's moments usable.
    """
    optimizer.zero_grad(set_to_none=True)
    parameters = list(parameters)
    are_spread = any(map(is_spread, parameters))  # then all processes have to go backward, whatever comes of it
    value, norm = 0.0, math.nan
    for loss in [losses] if isinstance(losses, Tensor) else losses:
        value += float(loss.detach())
        if not math.isfinite(value) and not are_spread:
            break
        loss.backward()
    value = group.sum_gradients(parameters, value)
    if math.isfinite(value):
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = whole(nn.utils.get_total_norm(gradients))
        nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
        norm = float(total)
    if not math.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise TrainingDiverged(
            f"{what}: the loss is {value} and its gradient's norm {norm}, so the step was not taken; "
            "try a lower learning rate"
        )
    if is_vetoed is None or not is_vetoed():
        optimizer.step()
    return norm
