"""The maps whose gradients are made by hand, against what autograd makes of the plain formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from rlhf_core.modules.linear import ROWS_FOR_ONEDNN, gated_feed_forward, linear


def plain_feed_forward(x, weight_in, weight_out):
    hidden, gate = F.linear(x, weight_in).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * hidden, weight_out)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_the_gradients_are_those_of_the_function():
    x, weight_in, weight_out = random(2, 3, 4), random(10, 4, seed=1), random(4, 5, seed=2)
    assert torch.autograd.gradcheck(linear, (x, weight_in))
    assert torch.autograd.gradcheck(gated_feed_forward, (x, weight_in, weight_out))


@pytest.mark.parametrize("rows", [1, ROWS_FOR_ONEDNN // 2, ROWS_FOR_ONEDNN])  # times 2: on both sides of the border
@pytest.mark.parametrize("frozen", ["", "x", "weights"])
def test_values_and_gradients_are_the_plain_ones(rows, frozen):
    found, expected = [], []
    for results, function in ((found, gated_feed_forward), (expected, plain_feed_forward)):
        x, weight_in, weight_out = (
            random(*shape, dtype=torch.float32) for shape in ((2, rows, 16), (64, 16), (16, 32))
        )
        if frozen == "x":
            x.requires_grad_(False)
        elif frozen == "weights":
            weight_in.requires_grad_(False)
            weight_out.requires_grad_(False)
        out = function(x, weight_in, weight_out)
        out.square().mean().backward()
        results += [out, x.grad, weight_in.grad, weight_out.grad]
    assert [value is None for value in found] == [value is None for value in expected]
    for value, wanted in zip(found, expected, strict=True):
        if value is not None:
            assert_close(value, wanted, rtol=1e-4, atol=1e-5)


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
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert weight_in.grad.dtype == torch.float32
