"""Attention by plain products, whose gradients are made by hand, against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from rlhf_core.modules import attention
from rlhf_core.modules.attention import ParallelBlock, Surroundings
from rlhf_core.modules.rotary import Rotary
from rlhf_core.modules.short_attention import LONGEST, short_attention


def draw(batch, seq, heads, width, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, seq, heads, width), (batch, seq, width), (batch, seq, width))
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]


def plain(query, key, value, scale):
    heads = query.shape[2]
    shared = [one[:, None].expand(-1, heads, -1, -1) for one in (key, value)]
    found = F.scaled_dot_product_attention(query.transpose(1, 2), *shared, is_causal=True, scale=scale)
    return found.transpose(1, 2).flatten(2)


def test_two_tokens_by_hand():
    query, key = torch.tensor([[[[2.0]], [[1.0]]]]), torch.tensor([[[0.0], [3.0]]])
    value = torch.tensor([[[10.0], [20.0]]])
    # the first sees itself alone; the second's logits are 0 and 3 times .5, so its weights 1 : e^1.5
    share = 1 / (1 + 2.718281828**1.5)
    assert_close(short_attention(query, key, value, 0.5), torch.tensor([[[10.0], [20 - 10 * share]]]))


def test_the_gradients_are_those_of_the_function():
    assert torch.autograd.gradcheck(lambda *x: short_attention(*x, 0.7), draw(2, 5, 3, 4, torch.float64))


@pytest.mark.parametrize("seq", [1, 2, 33])
def test_values_and_gradients_are_those_of_the_kernel(seq):
    results = []
    for function in (short_attention, plain):
        given = draw(3, seq, 4, 16, torch.float32)
        out = function(*given, 0.25)
        out.square().mean().backward()
        results.append([out, *(one.grad for one in given)])
    for found, wanted in zip(*results, strict=True):
        assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("seq", "dropout", "causal"), [(LONGEST + 1, 0.0, True), (8, 0.5, True), (8, 0.0, False)])
def test_long_sequences_dropout_and_sight_of_all_are_left_to_the_kernel(monkeypatch, seq, dropout, causal):
    asked = []
    monkeypatch.setattr(attention, "short_attention", lambda query, *rest: asked.append(1) or query.flatten(2))
    shape = dict(dim=8, dim_head=4, heads=2, ff_mult=1, ff_dropout=0.0, qk_rmsnorm=False)
    block = ParallelBlock(attn_dropout=dropout, **shape)
    block(torch.randn(1, seq, 8), Surroundings(Rotary(4, 2, 512)(torch.arange(seq), seq), is_causal=causal))
    assert not asked
    block.eval()(torch.randn(1, 8, 8), Surroundings(Rotary(4, 2, 512)(torch.arange(8), 8), is_causal=True))
    assert asked
