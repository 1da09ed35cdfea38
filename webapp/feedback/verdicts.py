"""From the key that a rater pressed to the verdict that is stored, and back.

Keys say left and right; stored verdicts say first and second sample. The presentation tells which of them stood left.
"""

from django.utils.translation import gettext as _

from webapp.errors import ChoiceInvalid

PAIR_CHOICES = (
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "0",
)  # 1 left much better, 4 a tie, 7 right much better; 0 both bad
SINGLE_CHOICES = ("1", "2", "3", "4", "5")
BOTH_BAD = "0"
TIE = 4


def verdict_of(*, choice: str, kind: str, first_is_left: bool) -> tuple[int, bool]:
    """The verdict against samples (+3 first much better ... -3 second much better; or 1 to 5) and "both bad".

    Raises:
        ChoiceInvalid: this kind of item has no such choice.
    """
    if kind == "single":
        if choice not in SINGLE_CHOICES:
            raise ChoiceInvalid(choice, _("1 to 5"))
        return int(choice), False
    if choice not in PAIR_CHOICES:
        raise ChoiceInvalid(choice, _("1 to 7, and 0 for both bad"))
    if choice == BOTH_BAD:
        return 0, True
    for_left = TIE - int(choice)
    return (for_left if first_is_left else -for_left), False


def choice_of(*, verdict: int, both_bad: bool, kind: str, first_is_left: bool) -> str:
    """The key that was pressed for a stored verdict; undoes ``verdict_of``."""
    if kind == "single":
        return str(verdict)
    if both_bad:
        return BOTH_BAD
    return str(TIE - (verdict if first_is_left else -verdict))
