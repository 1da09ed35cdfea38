"""What every rating mode can do, and the verdict that it makes of what a rater sent."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from rlhf_core.records import Feedback
from webapp.errors import RemarkInvalid
from webapp.feedback.models import Comparison, Presentation, Rating, TurnVerdict
from webapp.feedback.shown import ShownItem
from webapp.projects.models import Project

VERDICTS = {"1": 1, "2": -1, "3": 0}
"""Of a yes, a no and an unsure: the verdict by its key."""

REASON_LENGTH = 2000  # characters


@dataclass(frozen=True, slots=True)
class Extras:
    """What a rater may send beside the choice: flags of the project's list, a reason, and what the mode asks for.

    Attributes:
        text: an answer rewritten; or one begun, and kept as a draft of an answer that is good as it is.
        scores: of each of the project's axes, 1 to 5; any may be missing.
        evidence: passages of the answer, each as "12-40": the first character, from 0, and the one after the last.
        quote: a passage copied from the answer.
    """

    flags: tuple[str, ...] = ()
    reason: str = ""
    text: str = ""
    scores: Mapping[str, str | int] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    quote: str = ""

    @classmethod
    def of(cls, rating: Rating, axes: Sequence[str] = ()) -> "Extras":
        """What a stored rating has, the scores in the order of the project's ``axes``."""
        details = rating.details
        evidence = tuple(f"{start}-{end}" for start, end in details.get("evidence", []))
        text = details.get("text", "") or details.get("draft", "")
        return cls(tuple(rating.flags), rating.reason, text, in_order(details.get("axes", {}), axes), evidence)

    def remarks(self, permitted: Sequence[str]) -> dict[str, Any]:
        """Flags and reason as they are stored: the flags in the order of ``permitted``, each once.

        Raises:
            RemarkInvalid: a flag that is not among ``permitted``, or a reason that is too long.
        """
        unknown = [flag for flag in self.flags if flag not in permitted]
        if unknown:
            have = ", ".join(permitted) or _("this project has none")
            raise RemarkInvalid(
                _("There is no flag %(flag)r here (%(have)s). Load the page again.")
                % {"flag": unknown[0][:40], "have": have}
            )
        reason = cleaned(self.reason).strip()
        if len(reason) > REASON_LENGTH:
            raise RemarkInvalid(
                ngettext(
                    "The reason has %(count)s character: %(most)s at most. Shorten it.",
                    "The reason has %(count)s characters: %(most)s at most. Shorten it.",
                    len(reason),
                )
                % {"count": len(reason), "most": REASON_LENGTH}
            )
        return {"flags": [flag for flag in permitted if flag in self.flags], "reason": reason}


NOTHING_MORE = Extras()


def in_order(scores: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """The scores in the order of ``axes``, which a stored rating does not keep; of axes given up since, at the end."""
    return {name: scores[name] for name in (*axes, *scores) if name in scores}


def cleaned(text: str) -> str:
    """A text as a database can hold it, with the line ends that it was written with before a form sent it."""
    return text.replace("\r\n", "\n").replace("\0", "\ufffd")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict as it is stored: about samples, whatever stood where. Equal ones say the same."""

    verdict: int = 0
    both_bad: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    flags: Sequence[str] = ()
    reason: str = ""

    @classmethod
    def of(cls, rating: Rating, axes: Sequence[str] = ()) -> "Judgement":
        """What a stored rating says, scores in the order of the project's ``axes``."""
        details = rating.details
        if "axes" in details:
            details = {**details, "axes": in_order(details["axes"], axes)}
        return cls(rating.verdict, rating.both_bad, details, rating.flags, rating.reason)


@dataclass(frozen=True, slots=True)
class Step:
    """One button of the verdict bar: the key that presses it, the word on it, its name for a screen reader."""

    key: str
    word: str | Promise
    name: str | Promise


class Mode(ABC):
    """One way to rate. ``kind`` is that of the items; ``texts`` and ``bar`` are the templates of a page.

    A choice is what a rater says, as text and in the order shown: the key that was pressed, or what stands for several.
    """

    kind: ClassVar[str]
    texts: ClassVar[str] = "feedback/_texts.html"
    bar: ClassVar[str] = "feedback/_steps.html"
    steps: ClassVar[tuple[Step, ...]] = ()

    @abstractmethod
    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        """The verdict that ``choice`` means of the samples shown, with what else belongs to it.

        Raises:
            ChoiceInvalid: this kind of item has no such choice.
            RemarkInvalid: what belongs to it cannot be kept as it was sent.
        """

    @abstractmethod
    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        """The choice behind a stored verdict; undoes ``judge``."""

    @abstractmethod
    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        """A verdict in words about the samples in their stored order, for admins."""

    @abstractmethod
    def told(self, choice: str, extras: Extras) -> str:
        """A choice, and what belongs to it, in the words of the page, for who made it."""

    def page(self, project: Project, item: ShownItem, choice: str | None, extras: Extras) -> Mapping[str, Any]:
        """What the page takes beside ``item``, judged before as ``choice`` or not at all."""
        return {}

    def parts(self, rating: Rating) -> list[TurnVerdict]:
        """The rows that belong to a new rating, to be written with it."""
        return []

    def records(self, rating: Rating, weight: float) -> list[Feedback]:
        """What a reward model learns from a rating whose samples were loaded; nothing, unless the mode says so."""
        return []
