"""One answer to be written anew: kept as a demonstration of what is wanted."""

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webapp.errors import ChoiceInvalid, RemarkInvalid
from webapp.feedback.models import Comparison, Presentation
from webapp.feedback.modes.base import Extras, Judgement, Mode, cleaned

REWRITTEN = "rewritten"
GOOD = "1"
LONGEST = 20_000  # characters


class RewriteMode(Mode):
    """A text in place of the answer, or that the answer is good as it is. No reward model learns from either.

    A text that was begun before the answer was called good is no demonstration, but is kept beside the verdict as a
    draft: whoever changes the verdict finds it again.
    """

    kind = Comparison.Kind.REWRITE
    texts = "feedback/modes/_rewrite_texts.html"
    bar = "feedback/modes/_rewrite_bar.html"

    def judge(self, choice: str, extras: Extras, presentation: Presentation) -> Judgement:
        if choice not in (GOOD, REWRITTEN):
            raise ChoiceInvalid(choice, _("%(rewritten)r with a text, and 1: good as it is") % {"rewritten": REWRITTEN})
        text = cleaned(extras.text)
        is_same = text.strip() == cleaned(presentation.slot.comparison.first.text).strip()
        if choice == GOOD and (is_same or not text.strip()):  # an answer stands in the form whatever its length
            return Judgement(1)
        if len(text) > LONGEST:
            raise RemarkInvalid(
                ngettext(
                    "The new text has %(count)s character: %(most)s at most. Shorten it.",
                    "The new text has %(count)s characters: %(most)s at most. Shorten it.",
                    len(text),
                )
                % {"count": len(text), "most": LONGEST}
            )
        if choice == GOOD:
            return Judgement(1, details={"draft": text})
        if not text.strip():
            raise RemarkInvalid(_("The new text is empty: write one, or skip the item."))
        if is_same:
            raise RemarkInvalid(_("The text is the answer as it stood: change it, or say that it is good as it is."))
        return Judgement(0, details={"text": text})

    def pressed(self, judgement: Judgement, presentation: Presentation) -> str:
        return GOOD if judgement.verdict else REWRITTEN

    def in_words(self, judgement: Judgement, comparison: Comparison) -> str:
        return _("good as it is") if judgement.verdict else _("rewritten")

    def told(self, choice: str, extras: Extras) -> str:
        if choice == REWRITTEN:
            return _("rewritten")
        return _("good as it is; what you wrote is kept as a draft") if extras.text else _("good as it is")
