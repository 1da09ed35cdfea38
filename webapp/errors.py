"""What the studio refuses on purpose. Each message is for the person at the page: it names the cause and the cure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from rlhf_core.errors import SteersmanError


class StudioError(SteersmanError):
    """The root of the studio's refusals; ``str(error)`` may be shown as it is."""


class SettingsRefused(StudioError):
    """Values of a form that the tables do not permit; ``errors`` maps field names to reasons."""

    def __init__(self, errors: Mapping[str, Sequence[str]]) -> None:
        self.errors = {name: list(reasons) for name, reasons in errors.items()}
        super().__init__("; ".join(f"{name}: {' '.join(reasons)}" for name, reasons in self.errors.items()))


# --- People ----------------------------------------------------------------------------------------------------------


class LinkInvalid(StudioError):
    """A log-in link is unknown, used or out of date."""

    def __init__(self) -> None:
        super().__init__(
            _(
                "This log-in link is not valid: each works once, and only for a limited time. Ask an admin "
                "for a new one, or make one with ./manage.py login_link."
            )
        )


class InvitationInvalid(StudioError):
    """An invitation is unknown, used up or out of date."""

    def __init__(self) -> None:
        super().__init__(
            _(
                "This invitation is not valid any more: it is used up, out of date or mistyped. Ask the "
                "person who sent it for a new one."
            )
        )


class NameTaken(StudioError):
    """Somebody has this user name, in this or another spelling of upper and lower case."""

    def __init__(self, username: str) -> None:
        self.username = username
        super().__init__(
            _("The name %(username)r is taken. Choose another one, or log in if it is yours.") % {"username": username}
        )


class NameRefused(StudioError):
    """A user name is empty, too long or has characters that are not permitted."""


class PasswordRefused(StudioError):
    """A password is too weak; the message says in which way."""


# --- Prompts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineError:
    """What is wrong with one line of an import (counted from 1; 0 is the file as a whole)."""

    line: int
    reason: str

    def __str__(self) -> str:
        return _("line %(line)s: %(reason)s") % {"line": self.line, "reason": self.reason} if self.line else self.reason


class ImportRefused(StudioError):
    """An import has lines that cannot be taken; nothing of it was written."""

    def __init__(self, errors: Sequence[LineError]) -> None:
        self.errors = list(errors)
        first, more = self.errors[0], len(self.errors) - 1
        if more:
            said = ngettext(
                "Nothing was imported: %(first)s (and %(more)s more such line). Mend the file and import it again.",
                "Nothing was imported: %(first)s (and %(more)s more such lines). Mend the file and import it again.",
                more,
            )
        else:
            said = _("Nothing was imported: %(first)s. Mend the file and import it again.")
        super().__init__(said % {"first": first, "more": more})


# --- Policies --------------------------------------------------------------------------------------------------------


class NoPolicy(StudioError):
    """The project has no policy that serves."""

    def __init__(self) -> None:
        super().__init__(
            _("No policy serves in this project yet. Promote one first; then it can be sampled and trained.")
        )


class WrongCheckpoint(StudioError):
    """A checkpoint of another project, or of another kind than asked for."""


class PromotionConflict(StudioError):
    """The serving pointer moved since the page was loaded; ``epoch`` is where it stands now."""

    def __init__(self, *, expected_epoch: int, epoch: int, serving: str) -> None:
        self.expected_epoch = expected_epoch
        self.epoch = epoch
        super().__init__(
            _(
                "Nothing was changed: the serving policy was changed by somebody else meanwhile; "
                "%(serving)s serves now. Look at the page again and decide anew."
            )
            % {"serving": serving}
        )


# --- Ratings ---------------------------------------------------------------------------------------------------------


class TokenUnknown(StudioError):
    """No item was ever shown to this rater under this token."""

    def __init__(self) -> None:
        super().__init__(
            _("This item is not known, or it was shown to somebody else. Load the page again for your own.")
        )


class RevisionClosed(StudioError):
    """A verdict is too old to be changed by its rater."""

    def __init__(self, *, acts: int, hours: int) -> None:
        super().__init__(
            _(
                "This verdict stands: only your last %(acts)s and those of the last %(hours)s hours can be "
                "changed. If it matters, tell an admin of the project."
            )
            % {"acts": acts, "hours": hours}
        )


class ChoiceInvalid(StudioError):
    """A choice that this kind of item does not have."""

    def __init__(self, choice: object, permitted: str) -> None:
        super().__init__(
            _("The choice %(choice)r does not exist here: it is one of %(permitted)s.")
            % {"choice": str(choice)[:20], "permitted": permitted}
        )


class RemarkInvalid(StudioError):
    """Something beside the choice that cannot be kept as it was sent: a flag, a reason, a text."""


class SubmissionConflict(StudioError):
    """This item has another answer of this rater already; ``choice`` is the stored one, as it was pressed."""

    def __init__(self, choice: str) -> None:
        self.choice = choice
        super().__init__(
            _("You have answered this item already (with %(choice)r), and that answer stands.") % {"choice": choice}
        )


# --- Training --------------------------------------------------------------------------------------------------------


class NotEnoughFeedback(StudioError):
    """Fewer usable ratings than a run asks for."""

    def __init__(self, *, found: int, needed: int) -> None:
        self.found = found
        self.needed = needed
        super().__init__(
            ngettext(
                "There is %(found)s usable rating, and the run needs %(needed)s. Collect %(missing)s more, "
                "or lower the smallest number in the run's settings.",
                "There are %(found)s usable ratings, and the run needs %(needed)s. Collect %(missing)s "
                "more, or lower the smallest number in the run's settings.",
                found,
            )
            % {"found": found, "needed": needed, "missing": needed - found}
        )


class NotEnoughDemonstrations(StudioError):
    """Fewer demonstrations than a fine-tuning asks for."""

    def __init__(self, *, found: int, needed: int, rule: str) -> None:
        self.found = found
        self.needed = needed
        super().__init__(
            ngettext(
                "There is %(found)s demonstration, and the run needs %(needed)s. Each is %(rule)s. Collect "
                "more ratings, or lower the smallest number in the run's settings.",
                "There are %(found)s demonstrations, and the run needs %(needed)s. Each is %(rule)s. "
                "Collect more ratings, or lower the smallest number in the run's settings.",
                found,
            )
            % {"found": found, "needed": needed, "rule": rule}
        )


class OneSidedFeedback(StudioError):
    """Ratings that all say the same, so that nothing can be learned from them."""

    def __init__(self, *, ties: int, singles: int) -> None:
        self.ties = ties
        self.singles = singles
        sentences = [_("Nothing can be learned from these ratings.")]
        if ties:
            found = ngettext("The only comparison is a tie.", "Here all %(count)s comparisons are ties.", ties)
            sentences.append(found % {"count": ties})
        if singles:
            found = ngettext(
                "There is one single rating.", "Here all %(count)s single ratings give the same score.", singles
            )
            sentences.append(found % {"count": singles})
        sentences.append(_("Collect ratings in which some answers are better than others."))
        super().__init__(" ".join(sentences))


class NoPrompts(StudioError):
    """A policy run without prompts to answer."""

    def __init__(self) -> None:
        super().__init__(_("The project has no prompts to train on. Import some first."))


class NoHeldOutPrompts(StudioError):
    """An evaluation without prompts that nothing was trained on."""

    def __init__(self) -> None:
        super().__init__(
            _(
                "The project has no held-out prompts, and on others a policy cannot be evaluated fairly. "
                "Import some with a share that is held out."
            )
        )


class RequestReused(StudioError):
    """The idempotency key of a form was used for another request."""

    def __init__(self) -> None:
        super().__init__(_("This form was sent before, for something else. Load the page again and send it once more."))


class FenceLost(StudioError):
    """A run was taken over, requeued or finished; whoever holds this claim must stop and write nothing more."""

    def __init__(self, *, run: object, fence: int) -> None:
        self.fence = fence
        super().__init__(f"{run}: the claim with fence {fence} holds no longer; its holder must stop.")
