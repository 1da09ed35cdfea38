import math

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.modules.rotary import Rotary, rotate


def turned(rotary: Rotary, vector: torch.Tensor, position: int, head: int) -> torch.Tensor:
    """``vector`` (dim_head,) as the given head (-1 is the key) at a position."""
    heads = len(rotary.head_kind)
    x = vector.expand(1, 1, heads, -1)
    return rotate(x, rotary(torch.tensor([position]), position + 1))[0, 0, head]


def test_a_pair_of_channels_turns_by_its_angle():
    rotary = Rotary(dim_head=4, heads=1)
    found = turned(rotary, torch.tensor([1.0, 0.0, 0.0, 1.0]), position=3, head=0)
    # Channel 0 pairs with 2 and turns by 3 radians; channel 1 pairs with 3 and turns by 3 / 10000 ** (1 / 2) = 0.03.
    expected = torch.tensor([math.cos(3), -math.sin(0.03), math.sin(3), math.cos(0.03)])
    assert_close(found, expected)


def test_position_zero_changes_nothing():
    vector = torch.randn(8)
    assert_close(turned(Rotary(8, 2, 512), vector, 0, 0), vector)


def test_only_the_distance_between_query_and_key_matters():
    rotary = Rotary(dim_head=8, heads=2, xpos_scale_base=16)
    query, key = torch.randn(8), torch.randn(8)
    near = turned(rotary, query, 7, 0) @ turned(rotary, key, 4, -1)
    far = turned(rotary, query, 300, 1) @ turned(rotary, key, 297, -1)
    assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_xpos_fades_a_pair_by_its_decay_to_the_distance():
    rotary = Rotary(dim_head=2, heads=1, xpos_scale_base=10)
    vector = torch.tensor([1.0, 0.0])
    plain = math.cos(5)
    # One pair of channels: decay (0 + 0.4) / 1.4, distance 5, scale base 10.
    faded = plain * (0.4 / 1.4) ** (5 / 10)
    assert float(turned(rotary, vector, 9, 0) @ turned(rotary, vector, 4, -1)) == pytest.approx(faded, rel=1e-5)


def test_without_xpos_the_length_of_a_vector_stays():
    vector = torch.randn(16)
    assert_close(turned(Rotary(16, 1), vector, 1000, 0).norm(), vector.norm())


def test_tables_made_while_sampling_serve_training_afterwards():
    rotary = Rotary(dim_head=4, heads=1)
    with torch.inference_mode():
        rotary(torch.arange(5), 5)
    x = torch.randn(1, 5, 2, 4, requires_grad=True)
    rotate(x, rotary(torch.arange(5), 5)).sum().backward()
    assert x.grad is not None


def test_growing_the_tables_keeps_what_they_held():
    rotary = Rotary(dim_head=8, heads=1, xpos_scale_base=512)
    before = rotary(torch.arange(10), 10)
    rotary(torch.arange(5000), 5000)
    assert_close(rotary(torch.arange(10), 10), before)


def test_more_positions_than_have_finite_scales_are_refused():
    rotary = Rotary(dim_head=8, heads=1, xpos_scale_base=2)
    limit = rotary.most_positions()
    assert limit == 141  # 2 * log(3.4e38) / log(3.5)
    tables = rotary(torch.arange(limit), limit)
    assert all(torch.isfinite(table).all() for table in tables)
    with pytest.raises(ValueError, match="142 positions are more than the 141 .* rotary_xpos_scale_base = 2"):
        rotary(torch.arange(limit + 1), limit + 1)
    assert Rotary(dim_head=8, heads=1).most_positions() > 1e9
