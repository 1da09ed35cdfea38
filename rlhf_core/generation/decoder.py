"""The network as decoding runs it: prompts of any lengths without padding, then one token a row, without gradients.

``PaLM.forward`` is for training. Here the same blocks are computed with as few calls as they take, over rows that lie
one behind the other: (tokens, dim), with no place for padding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from rlhf_core.generation.cache import KeyValueCache
from rlhf_core.generation.packing import Matrix, PlainMatrix, can_pack, matrix_of
from rlhf_core.modules.attention import LayerNorm, ParallelBlock
from rlhf_core.modules.lora import BlockLoRA
from rlhf_core.modules.rotary import Rotary, rotate

TOKENS_AT_ONCE = 1024  # of prompts; more in one pass are no faster and take more memory

# (block, its number, queries (tokens, heads, dim_head), keys and values (tokens, dim_head)) -> (tokens, inner)
Attend: TypeAlias = Callable[["BlockWeights", int, Tensor, Tensor, Tensor], Tensor]


class BlockWeights:
    """The weights of one block, for a few rows at a time.

    With ``copy`` they are copies in the form that multiplies fastest, the adapters folded in and the two projections
    back made one; without, they are the block's own, and the adapters are applied beside them.
    """

    def __init__(self, block: ParallelBlock, adapters: BlockLoRA | None, *, copy: bool) -> None:
        self.block = block
        self.heads, self.dim_head, self.scale = block.heads, block.dim_head, block.scale
        self.gain = (block.norm.gain_offset + 1).detach()
        self.qk_gain = None if block.qk_gain is None else block.qk_gain.detach().view(-1, block.dim_head)
        self.widths = block.widths
        self.inner = block.heads * block.dim_head
        self.adapters = None if copy else adapters
        weight_in, weight_out = block.project_in.weight.detach(), block.attention_out.weight.detach()
        self.both_out: Matrix | None = None
        if not copy:
            self.weight_in: Matrix = PlainMatrix(weight_in)
            return
        if adapters is not None:
            changes = [lora.weight_change() for lora in (adapters.q, adapters.k, adapters.v)]
            weight_in = weight_in.clone()
            weight_in[: sum(len(change) for change in changes)] += torch.cat(changes)
            weight_out = weight_out + adapters.o.weight_change()
        self.weight_in = matrix_of(weight_in)
        self.both_out = matrix_of(torch.cat((weight_out, block.feed_forward_out.weight.detach()), dim=1))

    def project_in(self, normed: Tensor) -> Tensor:
        """(tokens, dim) -> (tokens, queries | key | value | hidden | gate)."""
        projected = self.weight_in(normed)
        if self.adapters is not None:
            width = self.inner + 2 * self.dim_head
            lora = self.adapters
            projected[:, :width] += torch.cat((lora.q(normed), lora.k(normed), lora.v(normed)), dim=-1)
        return projected

    def project_out(self, x: Tensor, mixed: Tensor) -> Tensor:
        """``x`` (tokens, dim) plus what the block makes of ``mixed`` (tokens, attended | hidden)."""
        if self.both_out is not None:
            return self.both_out.add_to(x, mixed)
        attended, hidden = mixed[:, : self.inner], mixed[:, self.inner :]
        x = x + self.block.attention_out(attended) + self.block.feed_forward_out(hidden)
        return x if self.adapters is None else x + self.adapters.o(attended)

    def __call__(self, x: Tensor, index: int, tables: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """(tokens, dim) -> (tokens, dim), as ``ParallelBlock.forward`` without dropout."""
        projected = self.project_in(F.layer_norm(x, x.shape[-1:], self.gain))
        query_key, value, feed_forward = projected.split(self.widths, dim=-1)
        query_key = query_key.unflatten(-1, (self.heads + 1, self.dim_head))
        if self.qk_gain is not None:
            query_key = F.rms_norm(query_key, (self.dim_head,)) * self.qk_gain
        query_key = rotate(query_key, tables)
        attended = attend(self, index, query_key[:, :-1], query_key[:, -1], value)
        hidden, gate = feed_forward.chunk(2, dim=-1)
        return self.project_out(x, torch.cat((attended, F.silu(gate) * hidden), dim=-1))


@dataclass(frozen=True)
class Fingerprint:
    """What tells whether weights are still those that were copied.

    PyTorch counts changes in place, but not those that go through ``.data``; so besides the counts, the product of each
    weight with a fixed vector is kept, which reads a weight once, as one row of decoding does.
    """

    marks: tuple[tuple[int, int], ...]
    alphas: tuple[float, ...]
    products: Tensor

    @classmethod
    def of(cls, weights: Sequence[Tensor], adapters: Sequence[BlockLoRA] | None) -> "Fingerprint":
        with torch.inference_mode():
            marks = tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in weights)
            alphas = tuple(lora.alpha for block in adapters or () for lora in (block.q, block.k, block.v, block.o))
            products = [one if one.ndim == 1 else one @ probe(one.shape[1]) for one in weights]
            return cls(marks, alphas, torch.cat(products))

    def matches(self, other: "Fingerprint") -> bool:
        return (self.marks, self.alphas) == (other.marks, other.alphas) and torch.equal(self.products, other.products)


@lru_cache
def probe(size: int) -> Tensor:
    """(size,) numbers without a pattern that weights might share."""
    return torch.arange(size, dtype=torch.float32).cos()


class Decoder:
    """A PaLM, with the adapters of one scope or none, ready to decode.

    Args:
        embedding: (num_tokens, dim), the output matrix too.
        blocks, adapters: of the model; adapters None uses none.
        norm: the last one.
        rotary: the model's.

    Attributes:
        is_packed: the weights were copied for decoding (``packing.can_pack``), and ``is_current`` tells how long the
            copies are good. Otherwise they are the model's own.
    """

    def __init__(
        self,
        embedding: Tensor,
        blocks: Sequence[ParallelBlock],
        norm: LayerNorm,
        adapters: Sequence[BlockLoRA] | None,
        rotary: Rotary,
    ) -> None:
        self.embedding = embedding.detach()
        self.rotary = rotary
        self.is_packed = can_pack(self.embedding)
        with torch.inference_mode():
            self.gain = (norm.gain_offset + 1).detach()
            self.blocks = [
                BlockWeights(block, None if adapters is None else adapters[index], copy=self.is_packed)
                for index, block in enumerate(blocks)
            ]
            self.head = matrix_of(self.embedding) if self.is_packed else PlainMatrix(self.embedding)
        sources = weights_of(embedding, blocks, norm, adapters)
        self.fingerprint = Fingerprint.of(sources, adapters) if self.is_packed else None

    def is_current(
        self,
        embedding: Tensor,
        blocks: Sequence[ParallelBlock],
        norm: LayerNorm,
        adapters: Sequence[BlockLoRA] | None,
    ) -> bool:
        """Whether these weights are those that were copied, unchanged."""
        if self.fingerprint is None or not can_pack(embedding):
            return False
        return self.fingerprint.matches(Fingerprint.of(weights_of(embedding, blocks, norm, adapters), adapters))

    def new_cache(self, rows: int, capacity: int) -> KeyValueCache:
        """An empty cache of so many rows and tokens a row."""
        return KeyValueCache(
            rows, capacity, len(self.blocks), self.blocks[0].dim_head, self.embedding.device, self.embedding.dtype
        )

    @torch.inference_mode()
    def read_prompts(self, prompts: Sequence[Sequence[int]], cache: KeyValueCache, places: Sequence[int]) -> Tensor:
        """Let the rows at ``places`` begin with these prompts, of any lengths; nothing is computed for padding.

        Returns:
            (prompts, num_tokens) logits after each prompt's last token.
        """
        cache.occupy(places, [len(prompt) for prompt in prompts])
        logits = self.embedding.new_empty(len(prompts), len(self.embedding))
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        for part in parts_of(order, [len(prompts[number]) for number in order]):
            hidden = self.read_together(
                [prompts[number] for number in part], cache, [places[number] for number in part]
            )
            logits[torch.tensor(part, device=logits.device)] = self.head(hidden)
        return logits

    def read_together(self, prompts: Sequence[Sequence[int]], cache: KeyValueCache, places: Sequence[int]) -> Tensor:
        """Read prompts, sorted by length, in one pass; returns (prompts, dim) final embeddings of their last tokens."""
        device = self.embedding.device
        lengths = [len(prompt) for prompt in prompts]
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(device)
        slots = cache.starts[torch.tensor(places, device=device)].repeat_interleave(
            torch.tensor(lengths, device=device), output_size=len(tokens)
        )
        slots = slots + positions
        groups = [(length, len(list(same))) for length, same in groupby(lengths)]

        def attend(block: BlockWeights, index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(index, slots, key, value)
            found = []
            begin = 0
            for length, count in groups:
                part = slice(begin, begin + length * count)
                begin = part.stop
                attended = F.scaled_dot_product_attention(
                    rearrange(query[part], "(b n) h d -> b h n d", b=count),
                    rearrange(key[part], "(b n) d -> b 1 n d", b=count).expand(-1, block.heads, -1, -1),
                    rearrange(value[part], "(b n) d -> b 1 n d", b=count).expand(-1, block.heads, -1, -1),
                    is_causal=length > 1,
                    scale=block.scale,
                )
                found.append(rearrange(attended, "b h n d -> (b n) (h d)"))
            return torch.cat(found)

        x = self.run(tokens, self.rotary(positions, lengths[-1]), attend)
        ends = torch.tensor(lengths).cumsum(0).to(device) - 1
        return F.layer_norm(x[ends], x.shape[-1:], self.gain)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Read one more token of every row in use.

        Args:
            tokens: (rows in use,) int64.

        Returns:
            (rows in use, num_tokens) logits after them.

        Raises:
            ValueError: a row is full.
        """
        count, extent = cache.count, cache.extent
        cache.show_next()
        slots, mask = cache.slots[:count], cache.mask[:count, :, :extent]

        def attend(block: BlockWeights, index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(index, slots, key, value)
            keys, values = cache.keys[index][:count, :extent], cache.values[index][:count, :extent]
            logits = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=block.scale)
            return torch.bmm(logits.softmax(dim=-1), values).flatten(1)

        x = self.run(tokens, self.rotary(cache.positions[:count], extent), attend)
        cache.advance()
        return self.head(F.layer_norm(x, x.shape[-1:], self.gain))

    def run(self, tokens: Tensor, tables: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """(tokens,) through all blocks -> (tokens, dim)."""
        x = F.embedding(tokens, self.embedding)
        for index, block in enumerate(self.blocks):
            x = block(x, index, tables, attend)
        return x


def weights_of(
    embedding: Tensor, blocks: Sequence[ParallelBlock], norm: LayerNorm, adapters: Sequence[BlockLoRA] | None
) -> list[Tensor]:
    """All weights that a decoder reads."""
    modules = [norm, *blocks, *(adapters or ())]
    return [embedding, *(weight for module in modules for weight in module.parameters())]


def parts_of(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """``numbers`` in runs of at most ``TOKENS_AT_ONCE`` tokens, one number at least."""
    part: list[int] = []
    tokens = 0
    for number, length in zip(numbers, lengths, strict=True):
        if part and tokens + length > TOKENS_AT_ONCE:
            yield part
            part, tokens = [], 0
        part.append(number)
        tokens += length
    if part:
        yield part
