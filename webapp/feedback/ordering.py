"""Which of the items that wait raters get first: the oldest, or those that a reward model is least sure of."""

from statistics import fmean
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import OuterRef, Q, Subquery

from webapp.feedback.locks import lock_queue
from webapp.feedback.models import Comparison, FurtherSample, SampleScore, Slot
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint

SHARE = 4  # of the items that are kept ready, one in so many comes first: who puts all of them first puts none


def order_queue(*, project: Project, reward_model: Checkpoint | None) -> list[UUID]:
    """Let the items that ``reward_model`` is least sure of come first, if the project wants that; returns their ids.

    An item that comes first ranks as one of a prompt whose priority is one higher. Those that came first before, and
    whose turn it is no more, go back to their place. What a rater holds or has judged is left alone.
    """
    chosen: list[UUID] = []
    if project.choice == Project.Choice.UNCERTAIN and reward_model is not None:
        kept_ready = project.buffer_target // project.overlap  # the target counts wanted ratings, several an item
        chosen = most_uncertain(project, reward_model, limit=max(1, kept_ready // SHARE))
    own = Subquery(Comparison.objects.filter(pk=OuterRef("comparison")).values("priority")[:1])
    waiting = Slot.objects.filter(project=project, state=Slot.State.OPEN)
    with transaction.atomic():
        lock_queue(project)
        waiting.filter(~Q(priority=own), ~Q(comparison__in=chosen)).update(priority=own)
        waiting.filter(~Q(priority=own + 1), comparison__in=chosen).update(priority=own + 1)
    return chosen


def most_uncertain(project: Project, reward_model: Checkpoint, limit: int) -> list[UUID]:
    """The ids of the items that wait and that ``reward_model``, an ensemble, is least sure of, the least sure first.

    An item's uncertainty is the mean of its answers'; one with an answer that has none is left out. At most one item a
    prompt: what is uncertain is often so for one reason, and asking it again and again teaches little (Melo et al.
    2024, arXiv 2406.10023). Three queries.
    """
    items = Comparison.objects.filter(project=project, slots__state=Slot.State.OPEN)
    prompts: dict[UUID, UUID] = {}
    answers: dict[UUID, set[UUID]] = {}
    for item, prompt, first, second in items.values_list("pk", "prompt", "first", "second").distinct():
        prompts[item] = prompt
        answers[item] = {first} if second is None else {first, second}
    for item, sample in FurtherSample.objects.filter(comparison__in=prompts).values_list("comparison", "sample"):
        answers[item].add(sample)
    scores = SampleScore.objects.filter(
        reward_model=reward_model, uncertainty__isnull=False, sample__in=set().union(*answers.values())
    )
    known: dict[UUID, Any] = dict(scores.values_list("sample", "uncertainty"))
    doubts = {item: fmean(known[one] for one in some) for item, some in answers.items() if some <= known.keys()}
    found: dict[UUID, UUID] = {}  # prompt -> item
    for item in sorted(doubts, key=lambda item: (-doubts[item], item.int)):
        found.setdefault(prompts[item], item)
    return list(found.values())[:limit]
