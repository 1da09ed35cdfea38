"""A rater's first visit: what is agreed to, and practice pairs whose answers are explained."""

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.errors import SettingsRefused
from webapp.projects.models import Membership, PracticePair, Project
from webapp.projects.selectors import Part, current_guideline, membership_of
from webapp.projects.services import confirm_guideline

MOST_PAIRS = 10


def is_due(user: User, part: Part) -> bool:
    """Whether the first visit is still before this member: there is something left to agree to or to practise.

    Whoever has never agreed is asked, be the practice over or not: an admin may write what is agreed to later.
    """
    membership = part.membership
    if membership is None or user.is_simulated:
        return False
    if part.project.consent and membership.consented_at is None:
        return True
    return membership.welcomed_at is None and membership.practised < part.project.practice_pairs.count()


def consent_to(*, user: User, project: Project) -> None:
    """Note that a member agrees and has read the guideline; where there is nothing to practise, the visit is over."""
    with transaction.atomic():
        members = Membership.objects.filter(project=project, user=user)
        members.filter(consented_at=None).update(consented_at=Now())
        guideline = current_guideline(project)
        if guideline:
            confirm_guideline(user=user, project=project, version=guideline.version)
        if not project.practice_pairs.exists():
            members.filter(welcomed_at=None).update(welcomed_at=Now())


def next_pair(user: User, project: Project) -> tuple[PracticePair | None, int, int]:
    """The practice pair that a member answers next, its number from 1, and how many there are; None: all are done."""
    membership = membership_of(user, project)
    pairs = list(project.practice_pairs.all())
    done = membership.practised if membership else len(pairs)
    return (pairs[done], done + 1, len(pairs)) if done < len(pairs) else (None, len(pairs), len(pairs))


def practise(*, user: User, project: Project, pair: PracticePair) -> None:
    """Note that a member has answered ``pair``; answered twice it counts once. After the last the visit is over."""
    with transaction.atomic():
        member = Membership.objects.select_for_update(no_key=True).filter(project=project, user=user).first()
        if member is None:
            return
        pairs = list(project.practice_pairs.values_list("pk", flat=True))
        if pair.pk in pairs[member.practised : member.practised + 1]:
            member.practised += 1
        if member.practised >= len(pairs) and member.welcomed_at is None:
            member.welcomed_at = Now()
        member.save(update_fields=["practised", "welcomed_at"])


def side_of(choice: str) -> str:
    """What a verdict's key says of the sides: a, b or tie."""
    return "tie" if choice in ("4", "0") else "a" if choice < "4" else "b"


# --- For admins ------------------------------------------------------------------------------------------------------


def save_pair(*, actor: User, project: Project, pair: PracticePair) -> PracticePair:
    """Add a practice pair, or change one.

    Raises:
        SettingsRefused: there are ``MOST_PAIRS`` already.
    """
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        is_new = pair.pk is None
        if is_new and project.practice_pairs.count() >= MOST_PAIRS:
            raise SettingsRefused(
                {"prompt": [_("There are %(most)s practice pairs: take one away first.") % {"most": MOST_PAIRS}]}
            )
        pair.project = project
        pair.save()
        record_audit(actor=actor, action=f"practice.{'add' if is_new else 'change'}", target=project.slug, pair=pair.pk)
    return pair


def remove_pair(*, actor: User, project: Project, pair: PracticePair) -> None:
    """Take a practice pair away; who is in the midst of them goes on with the one that follows."""
    with transaction.atomic():
        before = project.practice_pairs.filter(pk__lt=pair.pk).count()
        in_midst = Membership.objects.filter(project=project, practised__gt=before, welcomed_at=None)
        in_midst.update(practised=F("practised") - 1)
        record_audit(actor=actor, action="practice.remove", target=project.slug, pair=pair.pk)
        pair.delete()
