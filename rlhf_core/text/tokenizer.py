"""Byte-level BPE: any text goes in and comes back unchanged, and no text can spell a special token."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from rlhf_core.durable import write_atomically
from rlhf_core.errors import ConfigError

SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>")


class Tokenizer:
    """Text to token ids and back.

    The special tokens stand in the vocabulary, but nothing merges into them: a text that contains ``<|end|>`` is
    encoded as those seven characters. They are put in by the template alone (``rlhf_core.text.template``).

    Attributes:
        pad, begin, end: ids of the special tokens, all different.
        sha256: of the bytes that ``save`` writes.
    """

    pad, begin, end = range(len(SPECIAL_TOKENS))

    def __init__(self, serialised: str) -> None:
        self.backend = Backend.from_str(serialised)
        for expected, token in enumerate(SPECIAL_TOKENS):
            if self.backend.token_to_id(token) != expected:
                raise ValueError(f"not a tokenizer of ours: {token} has not the id {expected}")
        self.serialised = self.backend.to_str()
        self.sha256 = hashlib.sha256(self.serialised.encode()).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from ``texts`` until the vocabulary has ``vocab_size`` entries (or no pair comes twice).

        Raises:
            ConfigError: there is no room for the special tokens and the 256 bytes.
        """
        smallest = len(SPECIAL_TOKENS) + 256
        if vocab_size < smallest:
            raise ConfigError("vocab_size", vocab_size, f"at least {smallest}: the 256 bytes and the special tokens")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        content = json.loads(backend.to_str())
        content["added_tokens"] = []  # what is listed here would be recognised inside texts
        return cls(json.dumps(content))

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return list(self.backend.encode(text).ids)

    def encode_many(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of each text, worked out in parallel."""
        return (list(encoding.ids) for encoding in self.backend.encode_batch(list(texts)))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` without the special ones; bytes that are no UTF-8 become the replacement character."""
        return str(self.backend.decode([int(id_) for id_ in ids if id_ >= len(SPECIAL_TOKENS)]))

    def save(self, path: Path | str) -> None:
        """Write ``tokenizer.json``."""
        write_atomically(Path(path), self.serialised.encode())

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read what ``save`` wrote.

        Raises:
            ConfigError: it is no tokenizer of ours.
        """
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except Exception as error:  # the backend raises bare exceptions
            if isinstance(error, OSError):
                raise
            raise ConfigError("tokenizer", str(path), f"a tokenizer.json of this library ({error})") from error
