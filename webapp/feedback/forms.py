"""What the rater page sends, and the words on its buttons."""

from dataclasses import dataclass

from django import forms


@dataclass(frozen=True)
class Step:
    """One button of the verdict bar: the key that presses it, the word on it, its name for a screen reader."""

    key: str
    word: str
    name: str


PAIR_STEPS = [
    Step("1", "much", "A is much better"),
    Step("2", "clearly", "A is clearly better"),
    Step("3", "slightly", "A is slightly better"),
    Step("4", "equal", "both are equal"),
    Step("5", "slightly", "B is slightly better"),
    Step("6", "clearly", "B is clearly better"),
    Step("7", "much", "B is much better"),
]
BOTH_BAD = Step("0", "Both bad", "both are bad")
SINGLE_STEPS = [
    Step("1", "bad", "1 of 5: bad"),
    Step("2", "weak", "2 of 5: weak"),
    Step("3", "fair", "3 of 5: fair"),
    Step("4", "good", "4 of 5: good"),
    Step("5", "excellent", "5 of 5: excellent"),
]
SKIP_REASONS = [
    ("unclear", "I cannot tell what is asked"),
    ("expertise", "It takes knowledge that I lack"),
    ("language", "I do not read this language"),
    ("disturbing", "I do not want to read this"),
    ("broken", "It is not shown properly"),
]
ONE_DAY_MS = 86_400_000


class ChoiceForm(forms.Form):
    """A verdict as it was pressed, in the order shown; the service turns it into one about samples."""

    submission_id = forms.UUIDField()
    choice = forms.ChoiceField(choices=[(str(n), str(n)) for n in range(8)])
    active_ms = forms.IntegerField(required=False)

    def clean_active_ms(self) -> int | None:
        """A clock of the browser's: what it can not have measured is no reason to refuse the verdict."""
        value: int | None = self.cleaned_data["active_ms"]
        return value if value is not None and 0 <= value <= ONE_DAY_MS else None


class VerdictForm(ChoiceForm):
    token = forms.UUIDField()


class SkipForm(forms.Form):
    token = forms.UUIDField()
    reason = forms.ChoiceField(choices=SKIP_REASONS, required=False)


class PageForm(forms.Form):
    """What the page has that is still to be judged: the item that it shows, and the one that it fetched ahead."""

    showing = forms.UUIDField(required=False)
    ahead = forms.UUIDField(required=False)


class LeaseForm(forms.Form):
    token = forms.UUIDField()
    ahead = forms.UUIDField(required=False)


class UndoForm(forms.Form):
    before = forms.UUIDField(required=False)
