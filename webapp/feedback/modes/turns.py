"""A verdict on each turn of the assistant in a conversation: good, bad or unsure; the answer drawn is the last turn.

A choice names the key for each turn of the assistant, in order: ``1,2,1`` says that the second is bad. A reward model
learns from the last turn alone, since the earlier ones were imported and are no samples of a policy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from rlhf_core.records import Feedback
from webapp.errors import ChoiceInvalid
from webapp.feedback.models import Comparison, Presentation, Rating, TurnVerdict
from webapp.feedback.modes.base import VERDICTS, Extras, Judgement, Mode, Step
from webapp.feedback.modes.single import scored
from webapp.feedback.shown import ShownItem
from webapp.ids import sha256_of
from webapp.projects.models import Project

JUDGED = "judged"  # what the page's button sends; the keys stand in fields of their own
TURN = "turn:"  # begins the names of those fields
WORDS = {1: gettext_lazy("good"), -1: gettext_lazy("bad"), 0: gettext_lazy("unsure")}
SCORES = {1: 4, -1: 1}
"""What the verdict on the last turn is as a score of a single answer: the one with the same word. Unsure is none."""


class TurnsMode(Mode):
    """A key for each turn: 1 good, 2 bad, 3 unsure. The verdict on the last one is the rating's own."""

    kind = Comparison.Kind.TURNS
    texts = "feedback/modes/_turns_texts.html"
    bar = "feedback/modes/_turns_bar.html"
    steps = (
        Step("1", gettext_lazy("good"), gettext_lazy("good")),
        Step("2", gettext_lazy("bad"), gettext_lazy("bad")),
        Step("3", gettext_lazy("unsure"), gettext_lazy("unsure")),
    )

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        count = len(replies_of(presentation.slot.comparison))
        keys = choice.split(",")
        if len(keys) != count or any(key not in VERDICTS for key in keys):
            permitted = ngettext(
                "1 good, 2 bad, 3 unsure, for each turn of the assistant; there is %(count)s",
                "1 good, 2 bad, 3 unsure, for each turn of the assistant; there are %(count)s",
                count,
            )
            raise ChoiceInvalid(choice, permitted % {"count": count})
        verdicts = [VERDICTS[key] for key in keys]
        return Judgement(verdicts[-1], details={"turns": verdicts})

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        key_of = {verdict: key for key, verdict in VERDICTS.items()}
        return ",".join(key_of[verdict] for verdict in judgement.details["turns"])

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        return said_of(judgement.details["turns"])

    def told(self, choice: str, extras: Extras) -> str:
        return said_of([VERDICTS[key] for key in choice.split(",")])

    def page(self, project: Project, item: ShownItem, choice: str | None, extras: Extras) -> Mapping[str, Any]:
        """The turns in order: each with its number where it is the assistant's, and the key pressed before."""
        count = len(item.replies)
        given = (choice or "").split(",") + [""] * count  # where a page is shown again, some may be missing
        said = enumerate((key if key in VERDICTS else "" for key in given[:count]), start=1)
        judged = [(turn, *next(said)) if turn.role == "assistant" else (turn, None, "") for turn in item.turns]
        number, key = next(said)
        return {"earlier": judged, "last": {"number": number, "key": key}, "enter": JUDGED}

    def parts(self, rating: Rating) -> list[TurnVerdict]:
        """A row a turn."""
        texts = replies_of(rating.comparison)
        return [
            TurnVerdict(rating=rating, ordinal=ordinal, verdict=verdict, text_sha256=sha256_of(text))
            for ordinal, (verdict, text) in enumerate(zip(rating.details["turns"], texts, strict=True), start=1)
        ]

    def records(self, rating: Rating, weight: float) -> list[Feedback]:
        """One scored response, the last turn; none where the rater was unsure of it."""
        return [scored(rating, SCORES[rating.verdict], weight)] if rating.verdict in SCORES else []


def replies_of(comparison: Comparison) -> list[str]:
    """The texts that are judged: the assistant's turns in the prompt, then the answer."""
    earlier = [turn["text"] for turn in comparison.prompt.turns if turn["role"] == "assistant"]
    return [*earlier, comparison.first.text]


def said_of(verdicts: Sequence[int]) -> str:
    """The verdicts in words; of one turn alone, the word."""
    if len(verdicts) == 1:
        return str(WORDS[verdicts[0]])
    said = [{"number": number, "verdict": WORDS[verdict]} for number, verdict in enumerate(verdicts, start=1)]
    return ", ".join(_("turn %(number)s %(verdict)s") % one for one in said)
