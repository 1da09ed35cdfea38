"""Rotary position embedding, with the xPos decay where attention is causal."""

import math
import sys

import torch
from torch import Tensor, nn

GAMMA = 0.4  # of xPos
FASTEST_DECAY = GAMMA / (1 + GAMMA)  # of the first channel, a scale base of positions


class Rotary(nn.Module):
    """Turns pairs of channels of queries and keys by an angle that grows with the position.

    The tables cover ``heads`` query heads and the one shared key head behind them, so that both are turned at once.
    With xPos, a query at position m is scaled by ``decay ** (m / scale_base)`` and a key at n by its inverse: their
    product fades with the distance m - n, the more so the faster a channel turns. It only makes sense where keys stand
    before queries, hence causal attention only. Scales count from position 0 rather than from the middle of the
    sequence: the same token then has the same key whatever follows it, which a key/value cache needs. In float32 they
    stay finite up to about 70 times ``scale_base`` positions.

    Args:
        dim_head: width of a head, even; all of it is turned.
        heads: number of query heads.
        xpos_scale_base: distance over which xPos fades, or None for plain rotary embedding.

    Source: Su et al. 2021, arXiv 2104.09864; Sun et al. 2022, arXiv 2212.10554 (gamma = 0.4).
    """

    cos: Tensor
    sin: Tensor
    head_kind: Tensor

    def __init__(self, dim_head: int, heads: int, xpos_scale_base: int | None = None) -> None:
        super().__init__()
        self.dim_head = dim_head
        self.xpos_scale_base = xpos_scale_base
        self.register_buffer("head_kind", torch.tensor([0] * heads + [1]), persistent=False)
        self.register_buffer("cos", torch.empty(0, 2, dim_head), persistent=False)
        self.register_buffer("sin", torch.empty(0, 2, dim_head), persistent=False)

    def forward(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """The two tables for ``rotate``.

        Args:
            positions: (...) of int64, all below ``longest``.
            longest: bound that is known without reading the tensor.

        Returns:
            cosines and signed sines, each (..., heads + 1, dim_head).

        Raises:
            ValueError: xPos has no finite scale for so many positions.
        """
        if longest > len(self.cos):
            limit = self.most_positions()
            if longest > limit:
                raise ValueError(
                    f"{longest} positions are more than the {limit} for which xPos with rotary_xpos_scale_base = "
                    f"{self.xpos_scale_base} is finite in {self.cos.dtype}"
                )
            self.grow(min(max(longest, 2 * len(self.cos), 256), limit))
        index = positions[..., None]
        return self.cos[index, self.head_kind], self.sin[index, self.head_kind]

    def most_positions(self) -> int:
        """How many positions there are scales for: those of the channel that fades fastest must not overflow."""
        if self.xpos_scale_base is None:
            return sys.maxsize
        return int(math.log(torch.finfo(self.cos.dtype).max) / -math.log(FASTEST_DECAY) * self.xpos_scale_base)

    def grow(self, length: int) -> None:
        """Make the tables anew for positions 0 to ``length`` - 1, in float32 whatever the model's type."""
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor here would later break training
            half = self.dim_head // 2
            device = self.head_kind.device
            channel = torch.arange(half, device=device, dtype=torch.float32)
            position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
            angles = position * 10_000.0 ** (-channel / half)
            growth = torch.ones_like(angles)
            if self.xpos_scale_base is not None:
                decay = (channel / half + GAMMA) / (1 + GAMMA)
                growth = decay ** (position / self.xpos_scale_base)
            scale = torch.stack((growth, 1 / growth), dim=1)  # (length, query or key, half)
            cos, sin = angles.cos()[:, None] * scale, angles.sin()[:, None] * scale
            self.cos = torch.cat((cos, cos), dim=-1).to(self.cos.dtype)
            self.sin = torch.cat((-sin, sin), dim=-1).to(self.sin.dtype)  # the sign of rotate's swapped half


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn ``x`` (batch, seq, heads + 1, dim_head), whose channel i is paired with channel i + dim_head / 2."""
    cos, sin = tables
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
