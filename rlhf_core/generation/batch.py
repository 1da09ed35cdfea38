"""Lists of tokens as right-padded tensors with lengths; padding is told by the lengths alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

PADDING = 0  # what fills the tail; no code may ask whether a token equals it


def pad_tokens(
    rows: Sequence[Sequence[int]], device: torch.device | str | None = None, *, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """Rows of tokens -> (batch, longest) int64 padded on the right, and (batch,) int64 lengths.

    Args:
        multiple: the longest row is padded too, to a multiple of so many tokens.
    """
    lengths = [len(row) for row in rows]
    longest = -(-max(lengths, default=0) // multiple) * multiple
    padded = torch.tensor([[*row, *[PADDING] * (longest - len(row))] for row in rows], dtype=torch.long)
    return padded.view(len(rows), longest).to(device), torch.tensor(lengths, device=device)


def check_tokens(rows: Sequence[Sequence[int]], num_tokens: int) -> None:
    """Refuse an empty row or a token outside the vocabulary.

    Raises:
        ValueError: names the row and the token.
    """
    for number, row in enumerate(rows):
        if not len(row):
            raise ValueError(f"row {number} has no tokens; a prompt begins with at least one")
        lowest, highest = min(row), max(row)
        if lowest < 0 or highest >= num_tokens:
            token = lowest if lowest < 0 else highest
            raise ValueError(f"row {number} holds token {token}; the vocabulary is 0 to {num_tokens - 1}")
