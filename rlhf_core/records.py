"""What crosses from stored feedback to tensors: small frozen records, one JSON line each; standard library only."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf_core.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as text; ``prompt_id`` is any stable name of it."""

    prompt_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with the response that is wanted, both as text.

    ``is_cut``: the response was cut off, so its last token is not its end and nobody shall learn to stop there.
    """

    prompt: str
    response: str
    is_cut: bool = False


def demonstration_to_line(record: Demonstration) -> str:
    """One JSON line, keys sorted, so that equal records give equal bytes and a dataset can be hashed."""
    return json.dumps(asdict(record), sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """One response with a score from 1 (worst) to 5 (best)."""

    prompt_id: str
    prompt_tokens: tuple[int, ...]
    response_tokens: tuple[int, ...]
    score: int
    weight: float = 1.0
    rating_id: str = ""

    def __post_init__(self) -> None:
        if type(self.score) is not int or not 1 <= self.score <= 5:
            raise DatasetError(f"rating {self.rating_id!r}: score {self.score!r} is not one of 1 to 5")
        check_common(self, self.prompt_tokens, self.response_tokens)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt.

    ``strength`` says how much better ``chosen`` is: 3 much, 2 clearly, 1 slightly, 0 a tie (the order then means
    nothing).
    """

    prompt_id: str
    prompt_tokens: tuple[int, ...]
    chosen_tokens: tuple[int, ...]
    rejected_tokens: tuple[int, ...]
    strength: int = 2
    weight: float = 1.0
    rating_id: str = ""

    def __post_init__(self) -> None:
        if type(self.strength) is not int or not 0 <= self.strength <= 3:
            raise DatasetError(f"rating {self.rating_id!r}: strength {self.strength!r} is not one of 0 to 3")
        check_common(self, self.prompt_tokens, self.chosen_tokens, self.rejected_tokens)


Feedback = ScoredResponse | Comparison
KINDS: dict[str, type[ScoredResponse] | type[Comparison]] = {"score": ScoredResponse, "comparison": Comparison}


def check_common(record: Feedback, *token_lists: tuple[int, ...]) -> None:
    """Refuse ids that are no text, a weight that is not positive and finite, and tokens that are no whole numbers."""
    name = f"rating {record.rating_id!r}"
    if not isinstance(record.rating_id, str) or not isinstance(record.prompt_id, str):
        raise DatasetError(f"{name}: rating_id and prompt_id must be text; the prompt's is {record.prompt_id!r}")
    if type(record.weight) not in (int, float) or not 0.0 < record.weight < float("inf"):
        raise DatasetError(f"{name}: weight {record.weight!r} is not a positive number")
    for tokens in token_lists:
        if not tokens:
            raise DatasetError(f"{name}: a prompt or response has no tokens")
        for token in tokens:
            if type(token) is not int or token < 0:
                raise DatasetError(f"{name}: token {token!r} is not a whole number from 0")


def feedback_to_line(record: Feedback) -> str:
    """One JSON line, keys sorted, so that equal records give equal bytes and a dataset can be hashed."""
    kind = "score" if isinstance(record, ScoredResponse) else "comparison"
    return json.dumps({"kind": kind, **asdict(record)}, sort_keys=True, separators=(",", ":"))


def feedback_from_line(line: str, number: int) -> Feedback:
    """The record of one JSON line; ``number`` (counted from 1) is named in the error."""
    try:
        fields: dict[str, Any] = json.loads(line)
        record_type = KINDS[fields.pop("kind")]
        for name, value in fields.items():
            if name.endswith("_tokens"):
                fields[name] = tuple(value)
        return record_type(**fields)
    except (DatasetError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"line {number}: {error}") from error


def write_feedback(path: Path, records: Iterable[Feedback]) -> None:
    """Write one JSON line a record."""
    path.write_text("".join(feedback_to_line(record) + "\n" for record in records), encoding="utf-8")


def read_feedback(path: Path) -> list[Feedback]:
    """Read what ``write_feedback`` wrote; blank lines are passed over."""
    return [feedback_from_line(line, number) for number, line in numbered_lines(path)]


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write one JSON line a prompt."""
    path.write_text("".join(json.dumps(asdict(prompt), sort_keys=True) + "\n" for prompt in prompts), encoding="utf-8")


def read_prompts(path: Path) -> list[Prompt]:
    """Read what ``write_prompts`` wrote.

    Raises:
        DatasetError: a line is no JSON object with a ``prompt_id`` and a non-empty ``text``.
    """
    prompts = []
    for number, line in numbered_lines(path):
        try:
            prompt = Prompt(**json.loads(line))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{path.name}, line {number}: {error}") from error
        if not isinstance(prompt.prompt_id, str):
            raise DatasetError(f"{path.name}, line {number}: prompt_id {prompt.prompt_id!r} is no text")
        if not isinstance(prompt.text, str) or not prompt.text.strip():
            raise DatasetError(f"{path.name}, line {number}: the prompt is empty")
        prompts.append(prompt)
    return prompts


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a file with their numbers, counted from 1.

    Raises:
        DatasetError: a line is not UTF-8.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, line.decode()
                except UnicodeDecodeError as error:
                    raise DatasetError(f"{path.name}, line {number}: no UTF-8 ({error})") from error
