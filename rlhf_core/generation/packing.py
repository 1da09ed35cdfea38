"""Weights as decoding multiplies by them: packed for a few rows where that was measured to pay, else as they are.

A decoding step multiplies a handful of rows by every weight. PyTorch hands that to a library that is made for large
matrices; oneDNN with a weight that was brought into its own order beforehand is two to five times as fast at 2 to 32
rows, and no slower at thousands. It also sums each row in the same order however many rows there are, which the other
doesn't: a response then has the same log-probabilities to the last bit alone and in company.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

PACKED_FOR_ROWS = (
    32  # what oneDNN is told; from 4 to 256 its order, and so its speed at any number of rows, is the same
)
PACK_FROM = 2**16  # entries; below, the 12 us that a packed call costs beyond the multiplying were more than its gain
STEADY_WIDTH = 1024  # oneDNN splits the sum over wider inputs, but only for a single row; two rows take no longer
PAYS_BELOW = 0.8  # packed must take less than this share of the plain time


class Matrix(Protocol):
    """A weight (out, in) that rows are multiplied by."""

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out)."""

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """(rows, out) ``residual`` + (rows, in) times the weight, as a new tensor."""


class PlainMatrix:
    """A weight in PyTorch's own layout."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        return torch.addmm(residual, x, self.weight.t())


class PackedMatrix:
    """A copy of a weight in the order that oneDNN multiplies fastest by. float32 on a CPU, without gradients."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_FOR_ROWS)
        self.splits_single_rows = weight.shape[1] > STEADY_WIDTH

    def __call__(self, x: Tensor) -> Tensor:
        if self.splits_single_rows and len(x) == 1:
            return self(torch.cat((x, x)))[:1]
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return product

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        if self.splits_single_rows and len(x) == 1:
            return residual + self(x)
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, None, "add")
        return total


def matrix_of(weight: Tensor) -> Matrix:
    """The faster form of a float32 weight on a CPU for which ``packing_pays``."""
    return PackedMatrix(weight) if weight.numel() >= PACK_FROM else PlainMatrix(weight)


def can_pack(weight: Tensor) -> bool:
    """Whether weights like this one are packed: float32 on a CPU where it was measured to pay."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and packing_pays(torch.get_num_threads())


@lru_cache
def packing_pays(threads: int) -> bool:
    """Whether packed weights are faster on this machine: timed once for each number of threads, in some milliseconds.

    One shape decides for all, 8 rows by 512 x 2048. There the times are so far apart (1 to 2.5 here) that the answer,
    and with it the last digits of all that is drawn, doesn't change from one start to the next.
    """
    if not packing_works():
        return False
    with torch.inference_mode():
        weight, x = torch.ones(2048, 512), torch.ones(8, 512)
        return quickest(PackedMatrix(weight), x) < PAYS_BELOW * quickest(PlainMatrix(weight), x)


@lru_cache
def packing_works() -> bool:
    """Whether this build of PyTorch can pack at all."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        with torch.inference_mode():
            PackedMatrix(torch.ones(8, 8))(torch.ones(2, 8))
    except RuntimeError:  # its oneDNN lacks the call
        return False
    return True


def quickest(call: Callable[[Any], Any], x: Tensor, repeats: int = 15) -> float:
    """Seconds of the quickest of several calls: what disturbs a timing only ever makes it longer."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call(x)
        found.append(time.perf_counter() - begun)
    return min(found)
