"""What the rater page sends."""

import re
from collections.abc import Mapping
from typing import Any

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

from webapp.feedback.keys import problems_with
from webapp.feedback.models import Comparison
from webapp.feedback.modes.base import Extras, cleaned
from webapp.feedback.modes.ranking import RANKED
from webapp.feedback.modes.single import AXIS, SCORED
from webapp.feedback.modes.turns import JUDGED, TURN
from webapp.feedback.reports import MAX_WORDS

SKIP_REASONS = [
    ("unclear", gettext_lazy("I cannot tell what is asked")),
    ("expertise", gettext_lazy("It takes knowledge that I lack")),
    ("language", gettext_lazy("I do not read this language")),
    ("disturbing", gettext_lazy("I do not want to read this")),
    ("broken", gettext_lazy("It is not shown properly")),
]
ONE_DAY_MS = 86_400_000
TURN_FIELD = re.compile(rf"{TURN}[0-9]{{1,3}}")
PIECE_BY_PIECE: dict[str, str] = {
    Comparison.Kind.RANKING: RANKED,
    Comparison.Kind.SINGLE: SCORED,
    Comparison.Kind.TURNS: JUDGED,
}
BESIDE = ("reason", "text", "evidence", "quote")  # fields of what is said beside a choice


class ChoiceForm(forms.Form):
    """A verdict as it was pressed, in the order shown; the service turns it into one about samples."""

    submission_id = forms.UUIDField()
    choice = forms.CharField(max_length=20)
    reason = forms.CharField(required=False)  # how long these may be, the modes say, and what to do about it
    text = forms.CharField(required=False, strip=False)
    evidence = forms.CharField(required=False)
    quote = forms.CharField(required=False)
    active_ms = forms.IntegerField(required=False)

    def clean_choice(self) -> str:
        """The key; of a ranking the places, and of turns the key for each, which come in fields of their own."""
        return self.choice_from(self.cleaned_data["choice"])

    def choice_from(self, choice: str) -> str:
        """The choice behind what the button of the form sends."""
        if choice == RANKED:
            return ",".join(self.data.getlist("place")[:6])  # type: ignore[attr-defined]
        if choice == JUDGED:
            said = {int(name.removeprefix(TURN)): self.data[name] for name in self.data if TURN_FIELD.fullmatch(name)}
            return ",".join(said.get(number, "") for number in range(1, max(said, default=0) + 1))
        return str(self.data.get("overall", "")) if choice == SCORED else choice

    def clean(self) -> dict[str, Any]:
        """What stands beside the choice, as one value."""
        found: dict[str, Any] = super().clean() or self.cleaned_data
        return {name: value for name, value in found.items() if name not in BESIDE} | {"extras": self.extras}

    @property
    def extras(self) -> Extras:
        """What was sent beside the choice, valid or not."""
        texts = {name: cleaned(self.data.get(name, "")) for name in ("reason", "text", "quote")}
        return Extras(
            flags=tuple(self.data.getlist("flags")),  # type: ignore[attr-defined]
            scores={name.removeprefix(AXIS): self.data[name] for name in self.data if name.startswith(AXIS)},
            evidence=tuple(self.data.get("evidence", "").split()),
            **texts,
        )

    def begun(self, kind: str) -> str | None:
        """What of such an item's verdict was given piece by piece, valid or not; None: nothing, or one key is all."""
        choice = self.choice_from(PIECE_BY_PIECE[kind]) if kind in PIECE_BY_PIECE else ""
        return choice if choice.strip(",") else None

    @property
    def report_words(self) -> str:
        """What was written to go along with a report."""
        return cleaned(self.data.get("words", ""))

    def unsent(self, begun: Mapping[str, Any], *, is_saved_below: bool) -> list[str]:
        """What was written and has no field on the page that changes a verdict, which has none where it is closed.

        ``begun``: of it, what is not as it stood there before (see ``kept.begun``).
        """
        beside = [] if is_saved_below else [begun.get(name, "") for name in ("reason", "text", "quote")]
        return [text for text in (self.report_words, *beside) if text.strip()]

    def clean_active_ms(self) -> int | None:
        """A clock of the browser's: what it can not have measured is no reason to refuse the verdict."""
        value: int | None = self.cleaned_data["active_ms"]
        return value if value is not None and 0 <= value <= ONE_DAY_MS else None


class VerdictForm(ChoiceForm):
    token = forms.UUIDField()


class SkipForm(forms.Form):
    token = forms.UUIDField()
    reason = forms.ChoiceField(choices=SKIP_REASONS, required=False)


class PracticeAnswerForm(forms.Form):
    pair = forms.IntegerField(min_value=1)
    choice = forms.ChoiceField(choices=[(str(n), str(n)) for n in range(8)])


class WordsField(forms.CharField):
    """Some lines; their ends, which a form sends as two characters each, count as one, as they do in the browser."""

    def to_python(self, value: Any) -> Any:
        return super().to_python(value.replace("\r\n", "\n") if isinstance(value, str) else value)


class ReportForm(forms.Form):
    token = forms.UUIDField()
    words = WordsField(required=False, max_length=MAX_WORDS)


class SettleForm(forms.Form):
    report = forms.IntegerField(min_value=1)
    withdraw = forms.BooleanField(required=False)


class PageForm(forms.Form):
    """What the page has that is still to be judged: the item that it shows, and the one that it fetched ahead."""

    showing = forms.UUIDField(required=False)
    ahead = forms.UUIDField(required=False)


class LeaseForm(forms.Form):
    token = forms.UUIDField()
    ahead = forms.UUIDField(required=False)


class UndoForm(forms.Form):
    before = forms.UUIDField(required=False)
    after = forms.UUIDField(required=False)


class ToggleForm(forms.Form):
    name = forms.CharField(max_length=20)
    is_on = forms.BooleanField(required=False)


class PageSettingsForm(forms.Form):
    """A field for each key of the page, named as the key, and when to be reminded of a break."""

    rest_minutes = forms.IntegerField(
        label=gettext_lazy("Remind me of a break after"),
        min_value=0,
        max_value=240,
        help_text=gettext_lazy("minutes of rating; 0: never. The reminder stands at the edge and stops nothing."),
    )

    def __init__(self, *args: Any, keys: Mapping[str, str | Promise], **more: Any) -> None:
        super().__init__(*args, **more)
        self.keys = list(keys)
        attributes = {"maxlength": 1, "autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}
        for key, words in keys.items():
            self.fields[key] = forms.CharField(
                label=str(words), max_length=4, strip=False, widget=forms.TextInput(attrs=attributes)
            )

    def chosen(self) -> dict[str, str]:
        """The rater's key for each key of the page, in small letters; what is refused already is left out."""
        return {key: self.cleaned_data[key].lower() for key in self.keys if key in self.cleaned_data}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        for key, problem in problems_with(self.chosen()).items():
            self.add_error(key, problem)
        return cleaned
