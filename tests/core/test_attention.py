import math

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.modules.attention import LayerNorm, ParallelBlock, Surroundings
from rlhf_core.modules.rotary import Rotary, rotate


def make_block(**changes) -> ParallelBlock:
    torch.manual_seed(0)
    shape = {"dim": 8, "dim_head": 4, "heads": 2, "ff_mult": 2, "attn_dropout": 0.0, "ff_dropout": 0.0}
    return ParallelBlock(**{**shape, "qk_rmsnorm": False, **changes})


def by_hand(block: ParallelBlock, x: torch.Tensor, tables, visible: torch.Tensor) -> torch.Tensor:
    """The block as its equations say, with explicit attention weights; ``visible`` is (queries, keys)."""
    batch, seq, _ = x.shape
    inner = block.heads * block.dim_head
    normed = torch.nn.functional.layer_norm(x, x.shape[-1:]) * (1 + block.norm.gain_offset)
    projected = normed @ block.project_in.weight.T
    query, key, value, hidden, gate = projected.split(
        [inner, block.dim_head, block.dim_head, block.widths[2] // 2, block.widths[2] // 2], dim=-1
    )
    heads = torch.cat((query.view(batch, seq, block.heads, -1), key.view(batch, seq, 1, -1)), dim=2)
    if block.qk_gain is not None:
        heads = heads / heads.pow(2).mean(-1, keepdim=True).sqrt() * block.qk_gain.view(block.heads + 1, -1)
    heads = rotate(heads, tables)
    out = torch.zeros(batch, seq, block.heads, block.dim_head)
    for head in range(block.heads):
        logits = heads[:, :, head] @ heads[:, :, -1].transpose(1, 2) * block.scale
        out[:, :, head] = logits.masked_fill(~visible, -math.inf).softmax(-1) @ value
    attended = out.reshape(batch, seq, inner) @ block.attention_out.weight.T
    fed = (gate * gate.sigmoid() * hidden) @ block.feed_forward_out.weight.T
    return x + attended + fed


@pytest.mark.parametrize("qk_rmsnorm", [False, True])
def test_the_block_follows_its_equations(qk_rmsnorm):
    block = make_block(qk_rmsnorm=qk_rmsnorm)
    tables = Rotary(4, 2, 512)(torch.arange(5), 5)
    x = torch.randn(3, 5, 8)
    found = block(x, Surroundings(tables, is_causal=True))
    assert_close(found, by_hand(block, x, tables, torch.ones(5, 5).tril().bool()), atol=1e-5, rtol=1e-5)


def test_with_qk_norm_the_logits_are_eight_times_a_cosine():
    block = make_block(qk_rmsnorm=True, dim_head=16)
    query = torch.nn.functional.rms_norm(torch.randn(16), (16,))
    assert float(query @ query) * block.scale == pytest.approx(8.0, rel=1e-4)
    assert make_block(dim_head=16).scale == 16**-0.5


def test_the_gain_of_a_norm_is_stored_as_its_offset_from_one():
    norm = LayerNorm(4)
    assert_close(norm.gain_offset, torch.zeros(4), check_dtype=False)
    assert_close(norm(torch.tensor([1.0, 1.0, 3.0, 3.0])), torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=1e-4, rtol=1e-4)
    assert len(list(norm.parameters())) == 1


def test_dropout_acts_in_training_only():
    block = make_block(attn_dropout=0.5, ff_dropout=0.5)
    around = Surroundings(Rotary(4, 2)(torch.arange(6), 6), is_causal=True)
    x = torch.randn(1, 6, 8)
    block.eval()
    assert_close(block(x, around), block(x, around), atol=0, rtol=0)
    block.train()
    assert not torch.equal(block(x, around), block(x, around))
