"""The key/value cache: preallocated, written in place, rows of different lengths."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of the tokens that each row has read so far.

    ``PaLM.forward(x, cache=cache)`` puts the n tokens of row i at positions ``lengths[i]`` to ``lengths[i] + n - 1``
    and lets them attend to all before them in their row. It leaves ``lengths`` alone: the caller adds to it how many of
    the n tokens were real. What was written beyond that is never attended to and is overwritten by the next tokens.

    Args:
        batch: rows.
        capacity: tokens a row can hold.
        depth: blocks of the model.
        dim_head: width of the one shared key or value head.

    Attributes:
        keys, values: one (batch, capacity, dim_head) tensor a block; keys are kept turned to their positions.
        lengths: (batch,) int64, tokens held by each row.
        extent: upper bound of ``lengths`` that is known without reading a device.
    """

    def __init__(
        self,
        batch: int,
        capacity: int,
        depth: int,
        dim_head: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.capacity = capacity
        # Zeros, not empty memory: what a mask hides must still be finite, since 0 times NaN is NaN.
        self.keys = [torch.zeros(batch, capacity, dim_head, device=device, dtype=dtype) for _ in range(depth)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.extent = 0

    @property
    def batch(self) -> int:
        return len(self.lengths)

    def reserve(self, count: int) -> Tensor:
        """Positions (batch, count) of the next ``count`` tokens; ``extent`` then covers them.

        Raises:
            ValueError: a row has no room for them.
        """
        if self.extent + count > self.capacity:
            self.extent = int(self.lengths.max())
            if self.extent + count > self.capacity:
                raise ValueError(f"{self.extent} + {count} tokens do not fit a cache of {self.capacity}")
        self.extent += count
        if count == 1:
            return self.lengths[:, None]
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def write(self, block: int, slots: tuple[Tensor, Tensor], key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``key`` and ``value`` (batch, count, dim_head) in ``slots`` (rows and positions, as index pair).

        Returns:
            all keys and all values of the block up to ``extent``, each (batch, extent, dim_head), as views.
        """
        keys, values = self.keys[block], self.values[block]
        keys[slots] = key
        values[slots] = value
        return keys[:, : self.extent], values[:, : self.extent]

    def select(self, rows: Tensor) -> None:
        """Keep only ``rows``, (kept,) int64 indices in the order wanted; a row may be taken more than once.

        Works within the memory already held while there are no more rows than before.
        """
        self.lengths = self.lengths[rows]
        self.extent = int(self.lengths.max()) if len(rows) else 0
        for tensors in (self.keys, self.values):
            for block, old in enumerate(tensors):
                held = old[rows, : self.extent]
                new = old[: len(rows)] if len(rows) <= len(old) else old.new_zeros(len(rows), *old.shape[1:])
                new[:, : self.extent] = held
                tensors[block] = new
