"""The key/value cache: preallocated, written in place, rows of different lengths that come and go."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Attention reads every row up to a common extent, what a row doesn't hold being masked. The extent grows by this many
# tokens at once: vectorised sums over it then take the same order whatever the longest neighbour is (measured: equal
# to the last bit up to 192 tokens; by steps of 1 or 8 it was not).
EXTENT_STEP = 16


class KeyValueCache:
    """Keys and values of the tokens that each row has read so far.

    Rows 0 to ``count - 1`` are in use. The tensors are never shrunk, so rows leave and join without new memory.

    Args:
        rows: rows that there is room for.
        capacity: tokens a row can hold; rounded up.
        depth: blocks of the model.
        dim_head: width of the one shared key or value head.

    Attributes:
        keys, values: one (rows, capacity, dim_head) tensor a block; keys are kept turned to their positions.
        mask: (rows, 1, capacity) that is added to attention logits: 0 where a row holds a token, else -inf.
        positions: (rows,) int64, tokens held, which is the position of the next one.
        slots: (rows,) int64, the place of the next token in ``keys`` seen as (rows * capacity, dim_head).
        lengths: tokens held by each row in use, as Python numbers, so that no device has to be asked.
    """

    def __init__(
        self,
        rows: int,
        capacity: int,
        depth: int,
        dim_head: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.rows = rows
        self.capacity = round_up(capacity)
        shape = (rows, self.capacity, dim_head)
        # Zeros, not empty memory: what a mask hides must still be finite, since 0 times NaN is NaN.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(depth)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(depth)]
        self.flat_keys = [keys.view(-1, dim_head) for keys in self.keys]
        self.flat_values = [values.view(-1, dim_head) for values in self.values]
        self.mask = torch.full((rows, 1, self.capacity), float("-inf"), device=device, dtype=dtype)
        self.starts = torch.arange(rows, device=device) * self.capacity
        self.positions = torch.zeros(rows, dtype=torch.long, device=device)
        self.slots = self.starts.clone()
        self.lengths: list[int] = []

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def extent(self) -> int:
        """Up to where attention must read once every row has one more token."""
        return round_up(max(self.lengths) + 1)

    def occupy(self, places: Sequence[int], lengths: Sequence[int]) -> None:
        """Let rows at ``places`` hold so many tokens, whose keys and values are written apart.

        What they held before is forgotten; rows before them that were free then hold nothing yet.

        Raises:
            ValueError: a row has no room for them.
        """
        for place, length in zip(places, lengths, strict=True):
            if length > self.capacity or place >= self.rows:
                raise ValueError(f"row {place} with {length} tokens does not fit {self.rows} rows of {self.capacity}")
            self.lengths += [0] * (place + 1 - len(self.lengths))
            self.lengths[place] = length
            self.mask[place, :, :length] = 0.0
            self.mask[place, :, length:] = float("-inf")
            self.positions[place] = length
            self.slots[place] = place * self.capacity + length

    def write(self, block: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store ``key`` and ``value`` (tokens, dim_head) at ``slots`` (tokens,)."""
        self.flat_keys[block].index_copy_(0, slots, key)
        self.flat_values[block].index_copy_(0, slots, value)

    def show_next(self) -> None:
        """Let every row see the token that is about to be written at its slot.

        Raises:
            ValueError: a row is full.
        """
        if max(self.lengths) >= self.capacity:
            raise ValueError(f"a row of {self.capacity} tokens is full")
        self.mask.view(-1).index_fill_(0, self.slots[: self.count], 0.0)

    def advance(self) -> None:
        """Every row has one more token."""
        self.positions[: self.count] += 1
        self.slots[: self.count] += 1
        self.lengths = [length + 1 for length in self.lengths]

    def copy(self, source: int, place: int) -> None:
        """Let the row at ``place`` hold what the one at ``source`` holds."""
        length = self.lengths[source]
        for tensors in (self.keys, self.values):
            for block in tensors:
                block[place, :length] = block[source, :length]
        self.occupy([place], [length])

    def remove(self, place: int) -> None:
        """Let the row at ``place`` leave; the last row takes its place, unless it is that one."""
        last = self.count - 1
        if place != last:
            self.copy(last, place)
        self.lengths.pop()

    def take(self, place: int) -> list[Tensor]:
        """Copies of what a row holds, for ``put``."""
        length = self.lengths[place]
        return [block[place, :length].clone() for tensors in (self.keys, self.values) for block in tensors]

    def put(self, place: int, held: Sequence[Tensor]) -> None:
        """Let the row at ``place`` hold what ``take`` gave."""
        for block, kept in zip((*self.keys, *self.values), held, strict=True):
            block[place, : len(kept)] = kept
        self.occupy([place], [len(held[0])])


def round_up(tokens: int) -> int:
    return -(-tokens // EXTENT_STEP) * EXTENT_STEP
