"""Documents on disk, read as streams, and their tokens in a memory-mapped file."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from rlhf_core.durable import file_sha256, write_atomically
from rlhf_core.errors import DatasetError
from rlhf_core.text.template import frame_document
from rlhf_core.text.tokenizer import Tokenizer

HELD_OUT_PERCENT = 2
DOCUMENTS_A_BATCH = 1000
CHARACTERS_A_BATCH = 4_000_000
REPEATED, TRAIN, VALIDATION = range(3)
Part = Literal["train", "validation"]
Item = TypeVar("Item")


class Corpus:
    """The documents of text files, each text once, split into training and validation.

    In a ``.jsonl`` file each line is an object with a ``text``; in any other, blank lines stand between documents. The
    files are read as streams, twice or more: in memory are one document at a time, and some fifty bytes for each while
    the parts are told apart (measured: 25 MiB for 520,000 documents).

    Args:
        paths: the files, in order.

    Raises:
        DatasetError: a file cannot be read, a line is malformed, or there are fewer than two documents.
    """

    def __init__(self, paths: Sequence[Path | str]) -> None:
        self.paths = [Path(path) for path in paths]
        digests = np.fromiter((digest(text) for text in stream_documents(self.paths)), dtype=np.uint64)
        self.places = split(digests)

    def count(self, part: Part) -> int:
        """How many documents a part has."""
        return int((self.places == place_of(part)).sum())

    def documents(self, part: Part) -> Iterator[str]:
        """The documents of a part, in the order of the files.

        Raises:
            DatasetError: the files have changed since they were first read.
        """
        wanted = place_of(part)
        try:
            for text, place in zip(stream_documents(self.paths), self.places, strict=True):
                if place == wanted:
                    yield text
        except ValueError as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError("the text files changed while they were being read") from error


def place_of(part: Part) -> int:
    return {"train": TRAIN, "validation": VALIDATION}[part]


def split(digests: np.ndarray) -> np.ndarray:
    """Where each document belongs: (documents,) REPEATED, TRAIN or VALIDATION.

    A document's own hash decides, so no shuffling or addition can move it; among very few, the last one is held out if
    the hashes chose none.

    Args:
        digests: (documents,) uint64, as ``digest`` gives them.

    Raises:
        DatasetError: there are fewer than two different documents.
    """
    if not len(digests):
        raise DatasetError("there is no text to train on")
    first = np.unique(digests, return_index=True)[1]
    if len(first) < 2:
        raise DatasetError("one document alone cannot be split into training and validation")
    held_out = digests[first] % 100 < HELD_OUT_PERCENT
    if held_out.all() or not held_out.any():
        held_out = first == first.max()
    places = np.full(len(digests), REPEATED, dtype=np.uint8)
    places[first] = np.where(held_out, VALIDATION, TRAIN)
    return places


def digest(text: str) -> int:
    """The first 64 bits of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def is_held_out(document: str) -> bool:
    """Whether a document belongs to validation."""
    return digest(document) % 100 < HELD_OUT_PERCENT


# Reading


def stream_documents(paths: Iterable[Path]) -> Iterator[str]:
    """The documents of text files in order, stripped; empty ones are left out.

    Raises:
        DatasetError: names the file, and the line where one is malformed.
    """
    for path in paths:
        try:
            with path.open("rb") as file:
                lines = decoded_lines(path.name, file)
                texts = texts_of_json(path.name, lines) if path.suffix == ".jsonl" else paragraphs(lines)
                yield from (text.strip() for text in texts if text.strip())
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}") from error


def decoded_lines(name: str, file: Iterable[bytes]) -> Iterator[str]:
    """The lines of a file, each with ``\\n`` at its end; a byte-order mark is dropped."""
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(f"{name}, line {number}: no UTF-8 ({error})") from error
        yield text.replace("\r\n", "\n")


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """What stands between blank lines."""
    gathered: list[str] = []
    for line in lines:
        if line == "\n":
            yield "".join(gathered)
            gathered = []
        else:
            gathered.append(line)
    yield "".join(gathered)


def texts_of_json(name: str, lines: Iterable[str]) -> Iterator[str]:
    """The ``text`` of each line."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield text_field(json_object(name, number, line), "text", f"{name}, line {number}")


def json_object(name: str, number: int, line: str) -> dict[str, Any]:
    """The JSON object of one line.

    Raises:
        DatasetError: it holds none.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{name}, line {number}: no JSON ({error})") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{name}, line {number}: no JSON object")
    return found


def text_field(fields: dict[str, Any], field: str, where: str) -> str:
    """A field that must be text.

    Raises:
        DatasetError: it is missing, no text, or holds half a character, which no file can keep.
    """
    if field not in fields:
        raise DatasetError(f'{where}: no "{field}"; there are {", ".join(fields) or "no fields at all"}')
    text = fields[field]
    if not isinstance(text, str):
        raise DatasetError(f'{where}: "{field}" is {text!r:.40}, no text')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f'{where}: "{field}" holds half a character ({error.reason})') from error
    return text


# Tokens


@dataclass(frozen=True)
class TokenFile:
    """Tokens of documents in one flat file, each ``begin, text, end``.

    Attributes:
        dtype: "uint16" where the vocabulary fits, else "uint32".
        tokens, documents, characters: how many; characters are those of the texts alone.
        sha256: of the file, which ``open`` checks.
    """

    dtype: str
    tokens: int
    documents: int
    characters: int
    tokenizer_sha256: str
    sha256: str

    @classmethod
    def write(
        cls,
        path: Path,
        documents: Iterable[str],
        tokenizer: Tokenizer,
        *,
        shuffle_seed: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> "TokenFile":
        """Encode ``documents`` into ``path``; its description stands beside it, written last.

        Args:
            shuffle_seed: the order of the documents, corpora being often sorted by label or source; None keeps theirs.
            on_batch: called with the number of documents done so far, a batch at a time.
        """
        dtype = dtype_for(tokenizer)
        lengths, characters = array("Q"), 0
        with path.open("wb") as file:
            for batch in batches(documents, len):
                for ids in tokenizer.encode_many(batch):
                    file.write(np.array(frame_document(tokenizer, ids), dtype=dtype).tobytes())
                    lengths.append(len(ids) + 2)
                characters += sum(map(len, batch))
                if on_batch is not None:
                    on_batch(len(lengths))
        if shuffle_seed is not None:
            shuffle_rows(path, dtype, np.array(lengths, dtype=np.int64), shuffle_seed)
        described = cls(dtype, sum(lengths), len(lengths), characters, tokenizer.sha256, file_sha256(path))
        write_atomically(path.with_suffix(".json"), json.dumps(asdict(described)).encode())
        return described

    @classmethod
    def describe(cls, path: Path) -> "TokenFile | None":
        """The description beside ``path``, or None where the file was never finished, or by another version."""
        beside = path.with_suffix(".json")
        try:
            return cls(**json.loads(beside.read_bytes()))
        except (FileNotFoundError, TypeError):
            return None

    def open(self, path: Path) -> np.ndarray:
        """The tokens, mapped and read-only.

        Raises:
            DatasetError: the file is missing, was cut short or altered.
        """
        check_file(path, self.sha256)
        return np.memmap(path, dtype=self.dtype, mode="r", shape=(self.tokens,))


def dtype_for(tokenizer: Tokenizer) -> str:
    """The smallest type that holds every token."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def batches(items: Iterable[Item], size_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """``items`` in lists of ``DOCUMENTS_A_BATCH`` or ``CHARACTERS_A_BATCH``, whichever is reached first."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += size_of(item)
        if len(batch) >= DOCUMENTS_A_BATCH or characters >= CHARACTERS_A_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def shuffle_rows(path: Path, dtype: str, lengths: np.ndarray, seed: int) -> None:
    """Put the rows of a flat file into an order drawn from ``seed``; on disk alone, whatever their size."""
    tokens = np.memmap(path, dtype=dtype, mode="r", shape=(int(lengths.sum()),))
    ends = lengths.cumsum()
    beside = path.with_suffix(".shuffled")
    with beside.open("wb") as file:
        for row in np.random.default_rng(seed).permutation(len(lengths)):
            file.write(tokens[ends[row] - lengths[row] : ends[row]].tobytes())
    beside.replace(path)


def check_file(path: Path, sha256: str) -> None:
    """Refuse a file of prepared data that isn't what was written.

    Raises:
        DatasetError: it is missing, was cut short or altered.
    """
    if not path.is_file() or file_sha256(path) != sha256:
        raise DatasetError(f"{path} is missing, cut short or altered; remove {path.parent} to have it made again")
