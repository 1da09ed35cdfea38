"""How far a run is, in whole sentences: a word put into another's sentence has the wrong form in many languages."""

from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

NAMES = {
    "sft": gettext_noop("step"),
    "reward": gettext_noop("step"),
    "policy": gettext_noop("update"),
    "evaluate": gettext_noop("answer"),
}
ALONG = {"step": gettext_noop("by step"), "update": gettext_noop("by update"), "answer": gettext_noop("by answer")}
AT = {
    "step": gettext_noop("step %(step)s of %(total)s"),
    "update": gettext_noop("update %(step)s of %(total)s"),
    "answer": gettext_noop("answer %(step)s of %(total)s"),
}
FAILED = {
    "step": gettext_noop("This run failed at step %(step)s of %(total)s"),
    "update": gettext_noop("This run failed at update %(step)s of %(total)s"),
    "answer": gettext_noop("This run failed at answer %(step)s of %(total)s"),
}
CANCELLED = {
    "step": gettext_noop("Cancelled at step %(step)s of %(total)s."),
    "update": gettext_noop("Cancelled at update %(step)s of %(total)s."),
    "answer": gettext_noop("Cancelled at answer %(step)s of %(total)s."),
}
DONE = {
    "step": gettext_noop("It has done step %(step)s of %(total)s."),
    "update": gettext_noop("It has done update %(step)s of %(total)s."),
    "answer": gettext_noop("It has done answer %(step)s of %(total)s."),
}
NONE_YET = {
    "step": gettext_noop("No numbers yet: the first come with the first step."),
    "update": gettext_noop("No numbers yet: the first come with the first update."),
    "answer": gettext_noop("No numbers yet: the first come with the first answer."),
}
NONE_CAME = {
    "step": gettext_noop("No numbers: the run ended before its first step."),
    "update": gettext_noop("No numbers: the run ended before its first update."),
    "answer": gettext_noop("No numbers: the run ended before its first answer."),
}


@dataclass(frozen=True, slots=True)
class Steps:
    """Where a run stands; each property is in the reader's language. ``total`` None: it has not said."""

    kind: str
    step: int
    total: int | None

    @property
    def name(self) -> str:
        """What it counts, as a word by itself."""
        return _(NAMES[self.kind])

    @property
    def along(self) -> str:
        """What runs along the lower axis of its curves."""
        return _(ALONG[NAMES[self.kind]])

    def say(self, sentences: dict[str, str]) -> str:
        return _(sentences[NAMES[self.kind]]) % {"step": self.step, "total": self.total}

    @property
    def at(self) -> str:
        return self.say(AT)

    @property
    def failed(self) -> str:
        return self.say(FAILED)

    @property
    def cancelled(self) -> str:
        return self.say(CANCELLED)

    @property
    def done(self) -> str:
        return self.say(DONE)

    @property
    def none_yet(self) -> str:
        return self.say(NONE_YET)

    @property
    def none_came(self) -> str:
        return self.say(NONE_CAME)
