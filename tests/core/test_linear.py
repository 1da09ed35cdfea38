"""The maps whose gradients are made by hand, against what autograd makes of the plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf_core.modules.linear import (
    PRODUCTS_FOR_ONEDNN,
    ROWS_FOR_ONEDNN,
    adapted_linear,
    gated_feed_forward,
    linear,
    weight_gradient,
)


def plain_feed_forward(x, weight_in, weight_out):
    hidden, gate = F.linear(x, weight_in).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * hidden, weight_out)


def plain_adapted(x, weight, down, up):
    return F.linear(x, weight) + x @ down @ up


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_the_gradients_are_those_of_the_function():
    x, weight_in, weight_out = random(2, 3, 4), random(10, 4, seed=1), random(4, 5, seed=2)
    assert torch.autograd.gradcheck(linear, (x, weight_in))
    assert torch.autograd.gradcheck(gated_feed_forward, (x, weight_in, weight_out))
    assert torch.autograd.gradcheck(adapted_linear, (x, weight_in, random(4, 2, seed=3), random(2, 10, seed=4)))


@pytest.mark.parametrize("rows", [1, ROWS_FOR_ONEDNN // 2, ROWS_FOR_ONEDNN])  # times 2: on both sides of the border
@pytest.mark.parametrize("frozen", [(), (0,), (1, 2), (1,), (2, 3)])
@pytest.mark.parametrize(
    ("function", "plain", "shapes"),
    [
        (gated_feed_forward, plain_feed_forward, [(64, 16), (16, 32)]),
        (adapted_linear, plain_adapted, [(64, 16), (16, 3), (3, 64)]),
    ],
)
def test_values_and_gradients_are_the_plain_ones(rows, frozen, function, plain, shapes):
    found, expected = [], []
    for results, one in ((found, function), (expected, plain)):
        given = [random(*shape, dtype=torch.float32) for shape in ((2, rows, 16), *shapes)]
        for number in {*frozen} & {*range(len(given))}:
            given[number].requires_grad_(False)
        out = one(*given)
        out.square().mean().backward()
        results += [out, *(tensor.grad for tensor in given)]
    assert [value is None for value in found] == [value is None for value in expected]
    for value, wanted in zip(found, expected, strict=True):
        if value is not None:
            assert_close(value, wanted, rtol=1e-4, atol=1e-5)


class Called(TorchDispatchMode):
    """Notes the names of the operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("width_out", "width_in"), [(8, 128), (128, 8)])
@pytest.mark.parametrize("is_enough", [True, False])
def test_many_rows_are_summed_by_onednn_however_few_the_entries(width_out, width_in, is_enough):
    rows = PRODUCTS_FOR_ONEDNN // (width_out * width_in) - (not is_enough)
    grad, x = (random(rows, width, seed=width).detach() for width in (width_out, width_in))
    with Called() as called:
        found = weight_gradient(grad.float().view(1, rows, -1), x.float().view(1, rows, -1))
    is_reached = any(name.startswith("mkldnn") for name in called.names)
    assert is_reached == (is_enough and torch.backends.mkldnn.is_available())
    assert_close(found.double(), grad.T @ x, rtol=1e-4, atol=1e-3)


def test_dropout_leaves_out_that_share_of_the_products():
    torch.manual_seed(0)
    x, weight_in = torch.ones(1, 1), torch.ones(2000, 1)
    sums = gated_feed_forward(x, weight_in, torch.ones(1, 1000), dropout=0.25)
    assert_close(sums, F.silu(torch.ones(1, 1)) * 1000, rtol=0.1, atol=0.0)
    assert not torch.equal(sums, gated_feed_forward(x, weight_in, torch.ones(1, 1000)))


def test_autocast_computes_in_its_own_type():
    x, weight_in, weight_out = (random(*shape, dtype=torch.float32) for shape in ((4, 16), (64, 16), (16, 32)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = gated_feed_forward(x, weight_in, weight_out)
        adapted = adapted_linear(x, weight_in, torch.ones(16, 2), torch.ones(2, 64))
    assert out.dtype == adapted.dtype == torch.bfloat16
    out.float().sum().backward()
    assert weight_in.grad.dtype == torch.float32
