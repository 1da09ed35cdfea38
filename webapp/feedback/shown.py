"""All of an item that a rater may see."""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from django.utils.translation import gettext as _

from webapp.projects.conversations import SPEAKERS


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn of a conversation."""

    role: str
    text: str

    @property
    def speaker(self) -> str:
        """Who speaks, in the language of the page."""
        return _(SPEAKERS[self.role])


@dataclass(frozen=True, slots=True)
class ShownItem:
    """All of an item that a rater may see: nothing here tells which policy wrote what, or when."""

    kind: str  # the rating mode
    question: str
    prompt_label: str
    prompt_text: str
    answers: tuple[str, ...]  # as they stand: two of a pair, A and B
    token: UUID
    guideline_version: int | None
    rule: str = ""  # that the answer is held against
    turns: tuple[ShownTurn, ...] = ()  # of a prompt that is a conversation, which they are instead of its text

    @property
    def about(self) -> str:
        """By what the page knows an item again that was handed back and is shown under another token: what is read."""
        earlier = (turn.text for turn in self.turns)
        read = (self.kind, self.rule, self.prompt_text, *earlier, *sorted(self.answers))
        return hashlib.sha256("\0".join(read).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def lead(self) -> int:
        """How many characters of white space begin the first answer; the page leaves them out."""
        return len(self.answers[0]) - len(self.answers[0].lstrip())

    @property
    def left_text(self) -> str:
        return self.answers[0]

    @property
    def right_text(self) -> str | None:
        """None: a single answer."""
        return self.answers[1] if len(self.answers) > 1 else None

    @property
    def asked(self) -> str:
        """What the answers answer: the last turn of a conversation, or the prompt as it is."""
        return self.turns[-1].text if self.turns else self.prompt_text

    @property
    def replies(self) -> tuple[str, ...]:
        """The turns of the assistant, the first answer as the last of them."""
        return (*(turn.text for turn in self.turns if turn.role == "assistant"), self.answers[0])
