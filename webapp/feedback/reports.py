"""Reports of items that should not be shown: what raters send, and what admins make of them."""

from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.feedback import services
from webapp.feedback.locks import lock_queue
from webapp.feedback.models import Comparison, Report, Slot
from webapp.projects.models import Project

MAX_WORDS = 300


def report(*, rater: User, project: Project, token: UUID, words: str = "") -> Report:
    """Pass an item by for good, and tell the admins. Sent twice, the first words stay.

    Raises:
        TokenUnknown: the item was never shown to this rater in this project.
        SubmissionConflict: the rater has judged it already.
    """
    presentation = services.find_presentation(rater=rater, project=project, token=token)
    with transaction.atomic():
        services.skip(rater=rater, project=project, token=token)
        made, _ = Report.objects.get_or_create(
            comparison=presentation.slot.comparison,
            rater=rater,
            defaults={"words": words.replace("\0", "\ufffd").strip()[:MAX_WORDS]},
        )
    return made


def open_reports(project: Project) -> QuerySet[Report]:
    """Reports that no admin has settled, oldest first, with what a list shows."""
    waiting = Report.objects.filter(comparison__project=project, settled_at=None)
    return waiting.select_related("rater", "comparison__prompt", "comparison__first", "comparison__second").order_by(
        "created_at", "id"
    )


def settle(*, actor: User, project: Project, report: int, is_withdrawn: bool) -> bool:
    """Settle all reports of the item that this one is about; False where there is no such open report.

    ``is_withdrawn``: nobody is offered the item any more; what was said of it stays, and who is just judging it may.
    Of two admins at once, be it by different reports of the item, one settles it.
    """
    with transaction.atomic():
        items = Comparison.objects.filter(project=project, reports=report)
        items.select_for_update(of=("self",), no_key=True).first()
        found = open_reports(project).filter(pk=report).first()  # as it is now that the item is locked
        if found is None:
            return False
        if is_withdrawn:
            lock_queue(project)
            slots = Slot.objects.filter(comparison=found.comparison_id)
            is_over = Q(lease_until__lt=Now()) | Q(lease_until=None)
            is_free = Q(state=Slot.State.OPEN) | Q(is_over, state=Slot.State.LEASED)
            slots.filter(is_free).update(state=Slot.State.VOID, rater=None, lease_until=None)
            slots.filter(state=Slot.State.LEASED).update(state=Slot.State.VOID)  # its rater stays: see HELD
        about = Report.objects.filter(comparison=found.comparison_id, settled_at=None)
        about.update(settled_at=Now(), settled_by=actor)
        action = "report.withdraw" if is_withdrawn else "report.dismiss"
        record_audit(actor=actor, action=action, target=project.slug, comparison=str(found.comparison_id))
    return True
