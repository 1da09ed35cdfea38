"""Demonstrations on disk, read as a stream, and their tokens in a memory-mapped file."""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rlhf_core.durable import file_sha256, write_atomically
from rlhf_core.errors import DatasetError
from rlhf_core.records import Demonstration
from rlhf_core.text.corpus import batches, check_file, decoded_lines, dtype_for, json_object, text_field
from rlhf_core.text.template import frame_prompt, frame_response, split_demonstration
from rlhf_core.text.tokenizer import Tokenizer


def stream_demonstrations(paths: Iterable[Path | str]) -> Iterator[Demonstration]:
    """The demonstrations of JSON-lines files in order; fields other than those of ``Demonstration`` are passed over.

    Raises:
        DatasetError: names file, line and field where one is malformed, or empty.
    """
    for path in map(Path, paths):
        try:
            with path.open("rb") as file:
                for number, line in enumerate(decoded_lines(path.name, file), start=1):
                    if line.strip():
                        where = f"{path.name}, line {number}"
                        fields = json_object(path.name, number, line)
                        texts = {name: text_field(fields, name, where) for name in ("prompt", "response")}
                        for name, text in texts.items():
                            if not text.strip():
                                raise DatasetError(f"{where}: the {name} is empty")
                        is_cut = fields.get("is_cut", False)
                        if not isinstance(is_cut, bool):
                            raise DatasetError(f'{where}: "is_cut" is {is_cut!r:.40}, neither true nor false')
                        yield Demonstration(**texts, is_cut=is_cut)
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}") from error


@dataclass(frozen=True)
class DemonstrationFile:
    """Prompts and responses as tokens in one flat file, and where each begins in another.

    Attributes:
        dtype: of the tokens, "uint16" where the vocabulary fits, else "uint32".
        count, tokens, cut_responses: how many; the last were longer than permitted, or came cut, and have no ``end``.
        source_sha256: names what it was made from, as ``write`` was told.
        sha256, bounds_sha256: of the two files, which ``open`` checks.
    """

    dtype: str
    count: int
    tokens: int
    cut_responses: int
    source_sha256: str
    sha256: str
    bounds_sha256: str

    @classmethod
    def write(
        cls,
        path: Path,
        demonstrations: Iterable[Demonstration],
        tokenizer: Tokenizer,
        *,
        max_prompt_tokens: int,
        max_response_tokens: int,
        source_sha256: str,
        on_batch: Callable[[int], None] | None = None,
    ) -> "DemonstrationFile":
        """Encode ``demonstrations`` into ``path``; its description stands beside it, written last.

        Args:
            on_batch: called with the number of demonstrations done so far, a batch at a time.
        """
        dtype, bounds, cut, position, count = dtype_for(tokenizer), array("Q"), 0, 0, 0
        with path.open("wb") as file:
            for batch in batches(demonstrations, lambda item: len(item.prompt) + len(item.response)):
                pairs = [split_demonstration(item.prompt, item.response) for item in batch]
                prompts = tokenizer.encode_many([prompt for prompt, _ in pairs])
                responses = tokenizer.encode_many([response for _, response in pairs])
                for item, prompt_ids, response_ids in zip(batch, prompts, responses, strict=True):
                    prompt = frame_prompt(tokenizer, prompt_ids, max_prompt_tokens)
                    response = frame_response(tokenizer, response_ids, max_response_tokens, is_cut=item.is_cut)
                    cut += response[-1] != tokenizer.end
                    file.write(np.array([*prompt, *response], dtype=dtype).tobytes())
                    bounds.extend((position, position + len(prompt), position + len(prompt) + len(response)))
                    position += len(prompt) + len(response)
                count += len(batch)
                if on_batch is not None:
                    on_batch(count)
        bounds_path(path).write_bytes(bounds.tobytes())
        described = cls(dtype, count, position, cut, source_sha256, file_sha256(path), file_sha256(bounds_path(path)))
        write_atomically(path.with_suffix(".json"), json.dumps(asdict(described)).encode())
        return described

    @classmethod
    def describe(cls, path: Path) -> "DemonstrationFile | None":
        """The description beside ``path``, or None where the file was never finished, or by another version."""
        try:
            return cls(**json.loads(path.with_suffix(".json").read_bytes()))
        except (FileNotFoundError, TypeError):
            return None

    def open(self, path: Path) -> "EncodedDemonstrations":
        """The demonstrations, mapped and read-only.

        Raises:
            DatasetError: a file is missing, was cut short or altered.
        """
        check_file(path, self.sha256)
        check_file(bounds_path(path), self.bounds_sha256)
        if not self.count:
            return EncodedDemonstrations(np.empty(0, dtype=self.dtype), np.empty((0, 3), dtype=np.uint64))
        tokens = np.memmap(path, dtype=self.dtype, mode="r", shape=(self.tokens,))
        bounds = np.memmap(bounds_path(path), dtype=np.uint64, mode="r", shape=(self.count, 3))
        return EncodedDemonstrations(tokens, bounds)


def bounds_path(path: Path) -> Path:
    return path.with_suffix(".bounds")


@dataclass(frozen=True)
class EncodedDemonstrations:
    """Demonstrations as token ids.

    Attributes:
        tokens: (all,) prompts and responses one after the other.
        bounds: (demonstrations, 3) where each one's prompt begins, its response begins, and its response ends.
    """

    tokens: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds)

    def response_tokens(self, places: Sequence[int] | np.ndarray) -> int:
        """How many tokens the responses of some demonstrations have together."""
        return int((self.bounds[places, 2] - self.bounds[places, 1]).sum())

    def rows(self, places: Sequence[int] | np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and responses of some demonstrations, in the order of ``places``."""
        prompts, responses = [], []
        for place in places:
            begin, middle, end = (int(bound) for bound in self.bounds[place])
            prompts.append(self.tokens[begin:middle].tolist())
            responses.append(self.tokens[middle:end].tolist())
        return prompts, responses
