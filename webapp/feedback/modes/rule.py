"""One answer held against one rule: yes, no or unsure, with the passages that show it.

The rules are asked one at a time, as Glaese et al. 2022 (arXiv 2209.14375) have it. A passage is kept as the places of
its first character and of the one after its last, counted in characters from 0 in the answer whose SHA-256 is kept
beside them.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webapp.errors import ChoiceInvalid, RemarkInvalid
from webapp.feedback.models import Comparison, Presentation
from webapp.feedback.modes.base import VERDICTS, Extras, Judgement, Mode, Step, cleaned

MOST_PASSAGES = 20
LONGEST_QUOTE = 20_000  # characters
WORDS = {
    1: gettext_lazy("keeps to the rule “%(rule)s”"),
    -1: gettext_lazy("breaks the rule “%(rule)s”"),
    0: gettext_lazy("unsure about the rule “%(rule)s”"),
}


class RuleMode(Mode):
    """One key: 1 yes, 2 no, 3 unsure. No reward model learns from it: keeping a rule is not being better."""

    kind = Comparison.Kind.RULE
    texts = "feedback/modes/_rule_texts.html"
    bar = "feedback/modes/_rule_bar.html"
    most_passages = MOST_PASSAGES
    steps = (
        Step("1", gettext_lazy("yes"), gettext_lazy("yes, it keeps to the rule")),
        Step("2", gettext_lazy("no"), gettext_lazy("no, it breaks the rule")),
        Step("3", gettext_lazy("unsure"), gettext_lazy("unsure")),
    )

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        if choice not in VERDICTS:
            raise ChoiceInvalid(choice, _("1 yes, 2 no, 3 unsure"))
        if not extras.evidence and not extras.quote.strip():
            return Judgement(VERDICTS[choice])
        if len(extras.quote) > LONGEST_QUOTE:
            raise RemarkInvalid(
                ngettext(
                    "The passage has %(count)s character: %(most)s at most. Shorten it.",
                    "The passage has %(count)s characters: %(most)s at most. Shorten it.",
                    len(extras.quote),
                )
                % {"count": len(extras.quote), "most": LONGEST_QUOTE}
            )
        sample = presentation.slot.comparison.first
        passages = [passage_of(place, sample.text) for place in extras.evidence]
        if extras.quote.strip():
            passages.append(find(cleaned(extras.quote).strip(), sample.text))
        merged = merge(passages)
        if len(merged) > MOST_PASSAGES:
            raise RemarkInvalid(
                ngettext(
                    "%(count)s passage is marked: %(most)s at most. Clear it.",
                    "%(count)s passages are marked: %(most)s at most. Clear some of them.",
                    len(merged),
                )
                % {"count": len(merged), "most": MOST_PASSAGES}
            )
        return Judgement(VERDICTS[choice], details={"evidence": merged, "text_sha256": sample.text_sha256})

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        return next(key for key, verdict in VERDICTS.items() if verdict == judgement.verdict)

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        return WORDS[judgement.verdict] % {"rule": comparison.rule}

    def told(self, choice: str, extras: Extras) -> str:
        return str(next(step.name for step in self.steps if step.key == choice))


def passage_of(place: str, text: str) -> list[int]:
    """Start and end of a passage such as "12-40". Raises RemarkInvalid where ``text`` has no such passage."""
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", place)
    start, end = (int(found[1]), int(found[2])) if found else (0, 0)
    if not start < end <= len(text):
        raise RemarkInvalid(
            _(
                "The passage %(place)r is none of this answer: it is two numbers such as 12-40, of which "
                "the second is larger than the first and at most %(count)s."
            )
            % {"place": place[:30], "count": len(text)}
        )
    return [start, end]


def find(quote: str, text: str) -> list[int]:
    """Where a copied passage stands, whatever white space it was copied with; the first place if there are several.

    At a cost that grows with the two lengths and not with their product, whatever they hold: both are written with one
    space in place of each run of white space, and ``str.find`` searches in linear time.

    Raises:
        RemarkInvalid: it stands nowhere.
    """
    words = list(re.finditer(r"\S+", text))
    wanted = " ".join(quote.split())
    at = " ".join(word[0] for word in words).find(wanted) if wanted else -1
    if at < 0:
        raise RemarkInvalid(
            _("The passage %(quote)r stands nowhere in the answer: copy it as it is there.") % {"quote": quote[:40]}
        )
    starts = list(accumulate((len(word[0]) + 1 for word in words), initial=0))  # of each word in the text so written

    def place(index: int) -> int:
        number = bisect_right(starts, index, hi=len(words)) - 1
        return words[number].start() + index - starts[number]

    return [place(at), place(at + len(wanted) - 1) + 1]


def merge(passages: Iterable[list[int]]) -> list[list[int]]:
    """The same characters as passages in order, none of which touches another."""
    merged: list[list[int]] = []
    for start, end in sorted(passages):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    return merged
