"""What simpler language models reach on the same tokens: Kneser-Ney n-grams, to stand beside the policy's figure."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """Counts of one length of n-gram; keys are token ids packed into one integer each, sorted.

    Attributes:
        keys, counts: the n-grams and how often they came; below the highest order, in how many left contexts.
        contexts, totals, kinds: their first n - 1 tokens, the sum of the counts after these, and how many different
            tokens followed.
        discount: taken off each count and given to the shorter context.
    """

    keys: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray
    discount: float


class KneserNey:
    """An interpolated Kneser-Ney model with one discount an order.

    The highest order counts occurrences, the lower ones count left contexts, and the lowest one is mixed with the
    uniform distribution, so that every token has a probability.

    Args:
        tokens: flat run of ids below ``vocab_size``.
        order: longest n-gram; 1 gives a unigram model (of occurrences).

    Raises:
        ValueError: n-grams of that order don't fit 63 bits.

    Source: Chen and Goodman 1998, "An empirical study of smoothing techniques", section 2.7; discounts n1 / (n1 + 2 n2)
    """

    def __init__(self, tokens: np.ndarray, order: int, vocab_size: int) -> None:
        self.bits = max(1, (vocab_size - 1).bit_length())
        if order * self.bits > 63:
            raise ValueError(f"{order}-grams of a vocabulary of {vocab_size} need more than 63 bits")
        self.vocab_size = vocab_size
        self.orders: list[Order] = []
        keys, counts = np.unique(pack(tokens, order, self.bits), return_counts=True)
        for length in range(order, 0, -1):
            self.orders.insert(0, self.count(keys, counts))
            # An n-gram seen after m different tokens counts m in the order below: each is one longer key.
            keys, counts = np.unique(keys & ((1 << self.bits * (length - 1)) - 1), return_counts=True)

    def count(self, keys: np.ndarray, counts: np.ndarray) -> Order:
        """What one order needs to know."""
        contexts, starts = np.unique(keys >> self.bits, return_index=True)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once else 0.5
        kinds = np.diff(np.append(starts, len(keys)))
        return Order(keys, counts, contexts, np.add.reduceat(counts, starts), kinds, discount)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Probability of each token but the first, given those before it."""
        found = np.full(len(tokens) - 1, 1 / self.vocab_size)
        for length, order in enumerate(self.orders, start=1):
            # Tokens too near the start for this length keep the shorter context's probability.
            first = max(0, length - 2)
            keys = pack(tokens, length, self.bits)[1 if length == 1 else 0 :]
            counts = look_up(order.keys, order.counts, keys)
            totals = look_up(order.contexts, order.totals, keys >> self.bits)
            kinds = look_up(order.contexts, order.kinds, keys >> self.bits)
            seen = totals > 0
            shorter = found[first:]
            mixed = np.maximum(counts - order.discount, 0.0) + order.discount * kinds * shorter
            found[first:] = np.where(seen, mixed / np.maximum(totals, 1), shorter)
        return found

    def bits_per_character(self, tokens: np.ndarray, characters: int) -> float:
        """Bits of all tokens but the first, shared out over the characters."""
        return float(-np.log2(self.probabilities(tokens)).sum() / characters)


def pack(tokens: np.ndarray, length: int, bits: int) -> np.ndarray:
    """The n-grams of that length, in order, one integer each; the first token stands in the highest bits."""
    wide = tokens.astype(np.int64)
    keys = np.zeros(len(tokens) - length + 1, dtype=np.int64)
    for place in range(length):
        keys = keys << bits | wide[place : len(tokens) - length + 1 + place]
    return keys


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none; ``keys`` are sorted."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
