"""The one shape class of all speed comparisons.

Heads of 64, one key/value head, a gated feed-forward part 4 times as wide as the model, a tied embedding of 4,096
tokens. A Llama of a size has as many weights as our PaLM, to 0.1 %.
"""

from dataclasses import dataclass

VOCABULARY = 4096
DIM_HEAD = 64
FF_MULT = 4


@dataclass(frozen=True, slots=True)
class Shape:
    dim: int
    depth: int

    @property
    def heads(self) -> int:
        return self.dim // DIM_HEAD

    @property
    def weights(self) -> int:
        """Of the matrices: per block the fused projection and the two that lead back; the embedding."""
        inner = FF_MULT * self.dim
        block = self.dim * (self.dim + 2 * DIM_HEAD + 2 * inner) + self.dim * self.dim + inner * self.dim
        return self.depth * block + VOCABULARY * self.dim


SIZES = {"5M": Shape(256, 4), "7M": Shape(256, 6), "25M": Shape(512, 6), "125M": Shape(1024, 8)}
