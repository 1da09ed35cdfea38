"""Freezes ratings into datasets, and reads them as the records that a run trains on."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

from django.db import transaction
from django.db.models import QuerySet

from rlhf_core.records import Feedback, feedback_to_line
from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.errors import NotEnoughFeedback
from webapp.feedback.models import Comparison, Rating, load_rankings
from webapp.feedback.modes import mode_of
from webapp.projects.models import Project
from webapp.quality.models import Dataset, DatasetItem
from webapp.quality.selectors import sources_used, usable

CHUNK = 1000  # ratings read at once


def freeze(*, actor: User | None, project: Project, sources: Iterable[str] | None = None) -> Dataset:
    """The current ratings of a project as a dataset that never changes; the dataset there is, if they are the same.

    ``sources``: human and demo, and simulated where the project uses them, unless given. The dataset's ``sha256`` is
    over the bytes that a run reads: the lines of ``feedback_records`` in their order.

    Raises:
        NotEnoughFeedback: there is no rating at all.
    """
    taken = sorted(sources_used(project) if sources is None else sources)
    ratings = list(with_tokens(usable(project, taken)))  # one query: one moment in time
    if not ratings:
        raise NotEnoughFeedback(found=0, needed=1)
    load_rankings(rating.comparison for rating in ratings)
    digest = hashlib.sha256()
    for rating in ratings:
        for record in records_of(rating):
            digest.update(line_of(record))
    with transaction.atomic():
        dataset, made = Dataset.objects.get_or_create(
            project=project,
            sha256=digest.hexdigest(),
            defaults={"rules": {"sources": taken}, "counts": counts_of(ratings), "created_by": actor},
        )
        if made:
            items = [DatasetItem(dataset=dataset, rating=rating) for rating in ratings]
            DatasetItem.objects.bulk_create(items, batch_size=1000)
            record_audit(actor=actor, action="dataset.freeze", target=project.slug, dataset=dataset.sha256)
    return dataset


def feedback_records(dataset: Dataset) -> Iterator[Feedback]:
    """The records of a dataset, in the order of its hash: ``feedback_to_line`` and a line end give its very bytes."""
    items = DatasetItem.objects.filter(dataset=dataset).select_related(*(f"rating__{name}" for name in TOKENS))
    rows = items.order_by("rating_id").iterator(chunk_size=CHUNK)
    while chunk := list(islice(rows, CHUNK)):
        load_rankings(item.rating.comparison for item in chunk)
        for item in chunk:
            yield from records_of(item.rating, weight=item.weight)


def dataset_bytes(dataset: Dataset) -> Iterator[bytes]:
    """The lines of the file that a run trains on; their SHA-256 is the dataset's."""
    for record in feedback_records(dataset):
        yield line_of(record)


TOKENS = ("comparison__first", "comparison__second")


def with_tokens(ratings: QuerySet[Rating]) -> QuerySet[Rating]:
    """Load what ``records_of`` needs (but for rankings), in the order of a dataset."""
    return ratings.select_related(*TOKENS).order_by("id")


def records_of(rating: Rating, weight: float = 1.0) -> list[Feedback]:
    """A rating as the trainer takes it: what its mode says, such as a comparison, or several of a ranking."""
    return mode_of(rating.comparison.kind).records(rating, weight)


def line_of(record: Feedback) -> bytes:
    """One line of the file that a run reads."""
    return (feedback_to_line(record) + "\n").encode()


def counts_of(ratings: list[Rating]) -> dict[str, int | dict[str, int]]:
    """What a dataset holds, for people."""
    pairs = [rating for rating in ratings if rating.comparison.kind == Comparison.Kind.PAIR]
    rankings = [rating for rating in ratings if rating.comparison.kind == Comparison.Kind.RANKING]
    sources = [rating.source for rating in ratings]
    return {
        "total": len(ratings),
        "pairs": len(pairs),
        "ties": sum(rating.verdict == 0 for rating in [*pairs, *rankings]),
        "both_bad": sum(rating.both_bad for rating in ratings),
        "singles": sum(rating.comparison.kind == Comparison.Kind.SINGLE for rating in ratings),
        "rankings": len(rankings),
        "raters": len({rating.rater_id for rating in ratings}),
        "prompts": len({rating.comparison.prompt_id for rating in ratings}),
        "sources": {source: sources.count(source) for source in sorted(set(sources))},
    }
