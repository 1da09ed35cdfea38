"""Linear maps and the gated feed-forward part, as training wants them: fewer passes over memory, less of it kept.

Both are made by hand for autograd, so a gradient of their gradient is not to be had.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS_FOR_ONEDNN = 128  # below, its reordering of the weight costs more than its kernel gains
PRODUCTS_FOR_ONEDNN = 2**21  # multiplications of a weight's gradient, below which the same holds


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """(..., width_in) times (width_out, width_in) -> (..., width_out), outside of autograd.

    On a CPU PyTorch asks MKL; oneDNN's float32 kernel was 8 to 15 % faster on an AMD EPYC and as fast elsewhere.
    """
    if suits_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return F.linear(x, weight)


def multiply_onto(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``total`` (..., width_out) + ``multiply(x, weight)``, as a new tensor, outside of autograd."""
    if suits_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise.binary(x, total, weight, None, "add")
    return total + F.linear(x, weight)


def suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return x.numel() >= ROWS_FOR_ONEDNN * x.shape[-1] and is_for_onednn(x, weight)


def is_for_onednn(x: Tensor, other: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == other.dtype == torch.float32 and torch.backends.mkldnn.is_available()


class Linear(torch.autograd.Function):
    """``multiply`` with its gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        return multiply(grad, weight.T) if needs_x else None, weight_gradient(grad, x) if needs_weight else None


class AdaptedLinear(torch.autograd.Function):
    """``Linear`` and a low-rank addition to it; every product is added to the one before while it is made."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        lowered = multiply(x, down.T)
        ctx.save_for_backward(x, weight, down, up, lowered)
        return multiply_onto(multiply(x, weight), lowered, up.T)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight, down, up, lowered = ctx.saved_tensors
        needs_x, needs_weight, needs_down, needs_up = ctx.needs_input_grad
        grad_lowered = multiply(grad, up)
        return (
            multiply_onto(multiply(grad, weight.T), grad_lowered, down) if needs_x else None,
            weight_gradient(grad, x) if needs_weight else None,
            weight_gradient(grad_lowered, x).T if needs_down else None,
            weight_gradient(lowered, grad) if needs_up else None,
        )


class GatedFeedForward(torch.autograd.Function):
    """SwiGLU between two linear maps; keeps the output of the first alone, not the gated product."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight_in: Tensor, weight_out: Tensor) -> Tensor:
        projected = multiply(x, weight_in)
        ctx.save_for_backward(x, projected, weight_in, weight_out)
        hidden, gate = projected.chunk(2, dim=-1)
        return multiply(F.silu(gate).mul_(hidden), weight_out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, projected, weight_in, weight_out = ctx.saved_tensors
        needs_x, needs_in, needs_out = ctx.needs_input_grad
        hidden, gate = projected.chunk(2, dim=-1)
        opened = F.silu(gate)
        grad_out = weight_gradient(grad, opened * hidden) if needs_out else None
        if not (needs_x or needs_in):
            return None, None, grad_out
        grad_product = multiply(grad, weight_out.T)
        grad_projected = torch.empty_like(projected)
        grad_hidden, grad_gate = grad_projected.chunk(2, dim=-1)
        torch.mul(grad_product, opened, out=grad_hidden)
        del opened
        torch.ops.aten.silu_backward.grad_input(grad_product.mul_(hidden), gate, grad_input=grad_gate)
        del grad_product
        grad_in = weight_gradient(grad_projected, x) if needs_in else None
        return multiply(grad_projected, weight_in.T) if needs_x else None, grad_in, grad_out


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(..., width_out) and (..., width_in) -> (width_out, width_in): a sum over all rows.

    oneDNN's kernel took half to three quarters of MKL's time for it on an AMD EPYC, few entries or many.
    """
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    if grad.numel() * x.shape[-1] >= PRODUCTS_FOR_ONEDNN and is_for_onednn(grad, x):
        return torch.ops.mkldnn._linear_pointwise(grad.T, x.T, None, "none", [], "")
    return grad.T @ x


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """(..., width_in) times (width_out, width_in) -> (..., width_out)."""
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight)
    return Linear.apply(x, weight)


def adapted_linear(x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """(..., width_in) -> (..., width_out): ``linear``, and ``x @ down @ up`` beside it.

    Args:
        weight: (width_out, width_in).
        down: (width_in, rank).
        up: (rank, width_out).

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight) + (x @ down) @ up
    return AdaptedLinear.apply(x, weight, down, up)


def gated_feed_forward(x: Tensor, weight_in: Tensor, weight_out: Tensor, dropout: float = 0.0) -> Tensor:
    """(..., dim) -> (..., dim): ``silu(gate) * hidden`` between two linear maps.

    Args:
        weight_in: (2 inner, dim), the hidden part first, then its gate.
        weight_out: (dim, inner).
        dropout: of the product.

    Source: Shazeer 2020, https://arxiv.org/abs/2002.05202
    """
    if not dropout and not torch.is_autocast_enabled(x.device.type):
        return GatedFeedForward.apply(x, weight_in, weight_out)
    hidden, gate = linear(x, weight_in).chunk(2, dim=-1)
    return linear(F.dropout(F.silu(gate) * hidden, dropout), weight_out)
