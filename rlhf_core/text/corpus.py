"""Documents on disk and their tokens in a memory-mapped file."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from rlhf_core.durable import write_atomically
from rlhf_core.errors import DatasetError
from rlhf_core.text.template import frame_document
from rlhf_core.text.tokenizer import Tokenizer

HELD_OUT_PERCENT = 2
DOCUMENTS_A_BATCH = 1000


def read_documents(paths: Sequence[Path | str]) -> list[str]:
    """The documents of text files, in order and each text once.

    In a ``.jsonl`` file each line is an object with a ``text``; in any other, blank lines stand between documents.

    Raises:
        DatasetError: a file cannot be read, a line is malformed, or there is no document at all.
    """
    documents: dict[str, None] = {}
    for path in map(Path, paths):
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: {error}") from error
        found = lines_of_json(path.name, content) if path.suffix == ".jsonl" else content.split("\n\n")
        documents.update((text.strip(), None) for text in found if text.strip())
    if not documents:
        raise DatasetError("there is no text to train on")
    return list(documents)


def lines_of_json(name: str, content: str) -> Iterator[str]:
    """The ``text`` of each line."""
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f'{name}, line {number}: no JSON object with a "text"') from error
            if not isinstance(text, str):
                raise DatasetError(f"{name}, line {number}: the text is no string")
            yield text


def is_held_out(document: str) -> bool:
    """Whether a document belongs to validation. Its own hash decides, so no shuffling or addition can move it."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8]) % 100 < HELD_OUT_PERCENT


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Training and validation documents; among very few, the last one is held out if its hash chose none.

    Raises:
        DatasetError: there are fewer than two documents.
    """
    if len(documents) < 2:
        raise DatasetError("one document alone cannot be split into training and validation")
    held_out = [document for document in documents if is_held_out(document)]
    if not held_out or len(held_out) == len(documents):
        return list(documents[:-1]), [documents[-1]]
    return [document for document in documents if not is_held_out(document)], held_out


@dataclass(frozen=True)
class TokenFile:
    """Tokens of documents in one flat file, each ``begin, text, end``, in the order given.

    Attributes:
        dtype: "uint16" where the vocabulary fits, else "uint32".
        tokens, documents, characters: how many; characters are those of the texts alone.
    """

    dtype: str
    tokens: int
    documents: int
    characters: int
    tokenizer_sha256: str

    @classmethod
    def write(cls, path: Path, documents: Iterable[str], tokenizer: Tokenizer) -> "TokenFile":
        """Encode ``documents`` into ``path``; its description stands beside it, written last."""
        dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
        tokens = count = characters = 0
        remaining = iter(documents)
        with path.open("wb") as file:
            while batch := list(islice(remaining, DOCUMENTS_A_BATCH)):
                for ids in tokenizer.encode_many(batch):
                    file.write(np.array(frame_document(tokenizer, ids), dtype=dtype).tobytes())
                    tokens += len(ids) + 2
                count += len(batch)
                characters += sum(map(len, batch))
        described = cls(dtype, tokens, count, characters, tokenizer.sha256)
        write_atomically(path.with_suffix(".json"), json.dumps(asdict(described)).encode())
        return described

    @classmethod
    def describe(cls, path: Path) -> "TokenFile | None":
        """The description beside ``path``, or None where it was never finished."""
        beside = path.with_suffix(".json")
        return cls(**json.loads(beside.read_bytes())) if beside.is_file() else None

    def open(self, path: Path) -> np.ndarray:
        """The tokens, mapped and read-only."""
        return np.memmap(path, dtype=self.dtype, mode="r", shape=(self.tokens,))
