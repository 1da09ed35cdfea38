"""Low-rank adapters on the query, key, value and output projections."""

import torch
from torch import Tensor, nn


class LoRA(nn.Module):
    """A low-rank addition to a linear map: ``x @ A @ B * alpha / rank``, never multiplied out in training.

    A starts normal with variance 1 / width_in, so that ``x @ A`` keeps the scale of ``x``; B starts at zero, so that a
    new adapter changes nothing.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """

    def __init__(self, width_in: int, width_out: int, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        self.rank = rank
        self.alpha = float(rank if alpha is None else alpha)
        self.A = nn.Parameter(torch.randn(width_in, rank) * width_in**-0.5)
        self.B = nn.Parameter(torch.zeros(rank, width_out))

    def forward(self, x: Tensor) -> Tensor:  # (..., width_in) -> (..., width_out)
        return (x @ self.A) @ self.up

    @property
    def up(self) -> Tensor:
        """(rank, width_out): B times alpha / rank."""
        return self.B if self.alpha == self.rank else self.B * (self.alpha / self.rank)

    @torch.no_grad()
    def weight_change(self) -> Tensor:
        """(width_out, width_in): what merging adds to the weight of an ``nn.Linear``."""
        return (self.A @ self.B).T * (self.alpha / self.rank)

    def get_extra_state(self) -> Tensor:
        """Alpha travels with the weights; as a tensor, so that safetensors can hold it."""
        return torch.tensor(self.alpha)

    def set_extra_state(self, state: Tensor) -> None:
        self.alpha = float(state)


class BlockLoRA(nn.Module):
    """The four adapters of one block: queries, the shared key and value, and the attention's output."""

    def __init__(self, dim: int, heads: int, dim_head: int, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        self.q = LoRA(dim, heads * dim_head, rank, alpha)
        self.k = LoRA(dim, dim_head, rank, alpha)
        self.v = LoRA(dim, dim_head, rank, alpha)
        self.o = LoRA(heads * dim_head, dim, rank, alpha)

    def side_by_side(self) -> tuple[Tensor, Tensor]:
        """The adapters of queries, key and value as one: (dim, 3 rank) and (3 rank, their widths together)."""
        parts = (self.q, self.k, self.v)
        return torch.cat([lora.A for lora in parts], dim=1), torch.block_diag(*(lora.up for lora in parts))
