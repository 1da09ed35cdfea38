"""Freezes ratings into datasets, and reads them as the records that a run trains on."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from rlhf_core.config import settings_to_dict
from rlhf_core.records import Demonstration, Feedback, demonstration_to_line, feedback_to_line
from webapp.accounts.models import User
from webapp.accounts.services import record_audit
from webapp.errors import NotEnoughDemonstrations, NotEnoughFeedback
from webapp.feedback.models import Comparison, Rating, load_rankings
from webapp.feedback.modes import mode_of
from webapp.projects.models import Project
from webapp.quality.demonstrations import DemonstrationRules, demonstrations
from webapp.quality.models import Dataset, DatasetDemonstration, DatasetItem
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
    lines = (line_of(record) for rating in ratings for record in records_of(rating))
    with transaction.atomic():
        dataset, _ = write_down(actor, project, lines, ratings, rules={"sources": taken}, counts=counts_of(ratings))
    return dataset


def freeze_demonstrations(*, actor: User | None, project: Project, rules: DemonstrationRules) -> Dataset:
    """The answers that ratings call good, and those that raters wrote, as a dataset that never changes.

    The ratings behind them are in it. Its ``sha256`` is over ``demonstration_lines``; where there is a dataset with the
    same ones, it is that one. Simulated ratings choose where the project uses them.

    Raises:
        NotEnoughDemonstrations: fewer than ``rules.minimum_demonstrations``.
    """
    taken = sorted(sources_used(project))
    chosen = demonstrations(project, rules, taken)
    if len(chosen) < rules.minimum_demonstrations:
        raise NotEnoughDemonstrations(found=len(chosen), needed=rules.minimum_demonstrations, rule=rules.words)
    behind = {rating for one in chosen for rating in one.ratings}
    ratings = list(Rating.objects.filter(pk__in=behind).select_related("comparison").order_by("id"))
    with transaction.atomic():
        dataset, made = write_down(
            actor,
            project,
            (demonstration_line(one.record) for one in chosen),
            ratings,
            kind=Dataset.Kind.DEMONSTRATIONS,
            rules={"sources": taken, **settings_to_dict(rules)},
            counts={
                **counts_of(ratings),
                "demonstrations": len(chosen),
                "written": sum(one.rewrite is not None for one in chosen),
            },
        )
        if made:
            rows = [
                DatasetDemonstration(
                    dataset=dataset,
                    prompt=one.sample.prompt,
                    sample=one.sample,
                    rewrite_id=one.rewrite.rating if one.rewrite else None,
                    response=one.record.response,
                    is_cut=one.record.is_cut,
                )
                for one in chosen
            ]
            DatasetDemonstration.objects.bulk_create(rows, batch_size=1000)
    return dataset


def write_down(
    actor: User | None,
    project: Project,
    lines: Iterable[bytes],
    ratings: Sequence[Rating],
    *,
    rules: dict[str, Any],
    counts: dict[str, Any],
    kind: str = Dataset.Kind.RATINGS,
) -> tuple[Dataset, bool]:
    """The dataset with these lines, its ratings with it, and whether it is new; within the caller's transaction."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    dataset, made = Dataset.objects.get_or_create(
        project=project,
        sha256=digest.hexdigest(),
        defaults={"kind": kind, "rules": rules, "counts": counts, "created_by": actor},
    )
    if made:
        items = [DatasetItem(dataset=dataset, rating=rating) for rating in ratings]
        DatasetItem.objects.bulk_create(items, batch_size=1000)
        record_audit(actor=actor, action="dataset.freeze", target=project.slug, dataset=dataset.sha256)
    return dataset, made


def demonstration_lines(dataset: Dataset) -> Iterator[bytes]:
    """The lines of the file that a fine-tuning learns from; their SHA-256 is the dataset's."""
    rows = DatasetDemonstration.objects.filter(dataset=dataset).select_related("prompt").order_by("id")
    for row in rows.iterator(chunk_size=1000):
        yield demonstration_line(Demonstration(row.prompt.text.rstrip(), row.response, row.is_cut))


def demonstration_line(record: Demonstration) -> bytes:
    """One line of the file that a fine-tuning learns from."""
    return (demonstration_to_line(record) + "\n").encode()


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
        "singles": sum(rating.comparison.kind in (Comparison.Kind.SINGLE, Comparison.Kind.TURNS) for rating in ratings),
        "rankings": len(rankings),
        "raters": len({rating.rater_id for rating in ratings}),
        "prompts": len({rating.comparison.prompt_id for rating in ratings}),
        "sources": {source: sources.count(source) for source in sorted(set(sources))},
    }
