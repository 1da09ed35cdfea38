"""When a response ends: at an end token, where a text occurs in it, or at its limit."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

FinishReason = Literal["end", "length"]


class Stopping:
    """What ends a response before its limit.

    Args:
        end_ids: tokens that end it; they belong to it.
        strings: texts that end it where they occur in it, prompt left out; the token that completes one is its last.
        decode: tokens to text; needed for ``strings``.

    Raises:
        ValueError: strings without ``decode``, or an empty string.
    """

    def __init__(
        self,
        end_ids: Iterable[int] = (),
        strings: Sequence[str] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        if strings and decode is None:
            raise ValueError("stop strings need decode=, which turns tokens into text: tokenizer.decode")
        if not all(strings):
            raise ValueError("a stop string is empty: it would stop every response at once")
        self.end_ids = frozenset(end_ids)
        self.strings = tuple(strings)
        self.decode = decode
        # A token has a byte at least, so a string just completed lies within so many tokens.
        self.window = max((len(text.encode()) for text in strings), default=0)

    def is_end(self, tokens: Sequence[int]) -> bool:
        """Whether a response ends with the last of ``tokens``."""
        if tokens[-1] in self.end_ids:
            return True
        if self.decode is None or not self.strings:
            return False
        ending = self.decode(tokens[-self.window :])
        return any(text in ending for text in self.strings)

    def cut(self, text: str) -> str:
        """``text`` up to where the first stop string in it begins."""
        begins = [at for at in (text.find(one) for one in self.strings) if at >= 0]
        return text[: min(begins)] if begins else text
