"""The PaLM block: multi-query attention and a SwiGLU feed-forward side by side, behind one norm and one projection."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from rlhf_core.modules.linear import adapted_linear, gated_feed_forward, linear
from rlhf_core.modules.lora import BlockLoRA
from rlhf_core.modules.rotary import rotate
from rlhf_core.modules.short_attention import short_attention, suits_short_attention

QK_NORM_SCALE = 8.0  # attention logits are this times the cosine of query and key


class LayerNorm(nn.Module):
    """Layer norm without bias; the gain is stored as its offset from 1, so that a decayed gain returns to 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain_offset = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gain_offset + 1)


@dataclass(slots=True)
class Surroundings:
    """What all blocks share in one forward pass, worked out once.

    Attributes:
        tables: rotary tables of the tokens.
        is_causal: let the kernel do the causal masking.
        mask: (batch, 1, 1, keys) bool, True where a key counts; None where all do.
    """

    tables: tuple[Tensor, Tensor]
    is_causal: bool
    mask: Tensor | None = None


class ParallelBlock(nn.Module):
    """``x + attention(norm(x)) + feed_forward(norm(x))``, with one fused input projection.

    All query heads share one key and one value head (Shazeer 2019, arXiv 1911.02150); the feed-forward part is SwiGLU
    (Shazeer 2020, arXiv 2002.05202); the parallel form is PaLM's (Chowdhery et al. 2022, arXiv 2204.02311).

    With ``qk_rmsnorm`` queries and keys are brought to norm sqrt(dim_head) and get a learned gain; the attention scale
    is then 8 / dim_head, so that the logits are 8 times a cosine before the gains move (Henry et al. 2020,
    arXiv 2010.04245).
    """

    def __init__(
        self,
        *,
        dim: int,
        dim_head: int,
        heads: int,
        ff_mult: int,
        attn_dropout: float,
        ff_dropout: float,
        qk_rmsnorm: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        self.attn_dropout = attn_dropout
        self.ff_dropout = ff_dropout
        self.scale = QK_NORM_SCALE / dim_head if qk_rmsnorm else dim_head**-0.5
        inner = ff_mult * dim
        self.widths = [heads * dim_head + dim_head, dim_head, 2 * inner]  # queries and key, value, feed-forward
        self.norm = LayerNorm(dim)
        self.project_in = nn.Linear(dim, sum(self.widths), bias=False)
        self.attention_out = nn.Linear(heads * dim_head, dim, bias=False)
        self.feed_forward_out = nn.Linear(inner, dim, bias=False)
        # One gain a channel of every query head and of the key head; flat, so that weight decay knows it as no matrix.
        self.qk_gain = nn.Parameter(torch.ones((heads + 1) * dim_head)) if qk_rmsnorm else None

    def forward(
        self,
        x: Tensor,
        around: Surroundings,
        lora: BlockLoRA | None = None,
        places: Tensor | None = None,
        fed: Tensor | None = None,
    ) -> Tensor:
        """(batch, seq, dim) -> (batch, seq, dim). Decoding has its own form of this: ``BlockWeights``.

        With ``places`` (n,), each row * seq + column, what comes out stands at those places alone, (n, dim): all others
        are keys and values to them and nothing more. ``fed`` (batch, seq, dim) is what the feed-forward part gives, if
        that is known.
        """
        normed = self.norm(x)
        into_attention = self.split_project_in()[0]
        if lora is None:
            projected = linear(normed, into_attention)
        else:
            projected = adapted_linear(normed, into_attention, *lora.side_by_side())
        query_key, value = projected.split(self.widths[:2], dim=-1)
        query_key = rearrange(query_key, "b n (h d) -> b n h d", d=self.dim_head)
        if self.qk_gain is not None:
            query_key = F.rms_norm(query_key, (self.dim_head,)) * rearrange(
                self.qk_gain, "(h d) -> h d", d=self.dim_head
            )
        query_key = rotate(query_key, around.tables)
        query, key = query_key[:, :, :-1], query_key[:, :, -1]
        attended = self.attend(query, key, value, around)
        if places is not None:
            x, normed, attended = (one.flatten(0, 1).index_select(0, places) for one in (x, normed, attended))
            fed = None if fed is None else fed.flatten(0, 1).index_select(0, places)
        if lora is None:
            out = linear(attended, self.attention_out.weight)
        else:
            out = adapted_linear(attended, self.attention_out.weight, lora.o.A, lora.o.up)
        return x + out + (self.feed(normed) if fed is None else fed)

    def feed(self, normed: Tensor) -> Tensor:
        """(..., dim) -> (..., dim): the feed-forward part alone."""
        dropout = self.ff_dropout if self.training else 0.0
        return gated_feed_forward(normed, self.split_project_in()[1], self.feed_forward_out.weight, dropout)

    def split_project_in(self) -> tuple[Tensor, Tensor]:
        """The weights that lead into attention and into the feed-forward part.

        The weight is split, not what it gives: the backward pass then joins two small gradients, no large ones.
        """
        into_attention, into_feed_forward = self.project_in.weight.split([sum(self.widths[:2]), self.widths[2]])
        return into_attention, into_feed_forward

    def attend(self, query: Tensor, key: Tensor, value: Tensor, around: Surroundings) -> Tensor:
        """(batch, seq, heads, dim_head) queries, (batch, seq, dim_head) keys and values -> (batch, seq, inner)."""
        dropout = self.attn_dropout if self.training else 0.0
        if around.is_causal and around.mask is None and not dropout and suits_short_attention(query):
            return short_attention(query, key, value, self.scale)
        out = F.scaled_dot_product_attention(
            rearrange(query, "b n h d -> b h n d"),
            key[:, None].expand(-1, self.heads, -1, -1),
            value[:, None].expand(-1, self.heads, -1, -1),
            around.mask,
            dropout,
            around.is_causal,
            scale=self.scale,
        )
        return rearrange(out, "b h n d -> b n (h d)")
