"""All that raters said in a project, as JSON lines: every mode, every revision, nothing that names a rater."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import F, OuterRef, Q, QuerySet
from django.db.models.functions import JSONObject
from django.utils.translation import override

from webapp.feedback.models import TOKENS, Rating, SampleScore, load_rankings
from webapp.feedback.modes import verdict_in_words
from webapp.projects.models import Project

CHUNK = 250  # ratings read at once, by a query of their own: none of them comes near the time that a query may take


def rating_lines(project: Project) -> Iterator[str]:
    """One JSON object a line and rating revision, oldest first; docs/admin-guide.md names the fields.

    CHUNK ratings are in memory at a time. What is rated meanwhile comes at the end.
    """
    ratings = with_scores(Rating.objects.filter(project=project)).order_by("created_at", "id")
    ratings = ratings.select_related(
        "comparison__prompt",
        "comparison__rule",
        "comparison__first__checkpoint",
        "comparison__second__checkpoint",
        "presentation__guideline",
    ).defer(*(f"comparison__{sample}__{column}" for sample in ("first", "second") for column in TOKENS))
    some = ratings
    while True:
        chunk = list(some[:CHUNK])
        load_rankings((rating.comparison for rating in chunk), without=TOKENS)
        for rating in chunk:
            with override("en"):  # a file reads the same in whichever language its reader sees the pages
                line = line_of(rating, project.axes)
            yield json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
        if len(chunk) < CHUNK:
            return
        last = chunk[-1]
        is_later = Q(created_at__gt=last.created_at) | Q(created_at=last.created_at, id__gt=last.id)
        some = ratings.filter(is_later, created_at__gte=last.created_at)  # by the index over time


def rating_pages(project: Project) -> Iterator[str]:
    """``rating_lines``, some hundred at a time, to be sent."""
    lines = rating_lines(project)
    while page := "".join(islice(lines, CHUNK)):
        yield page


def with_scores(ratings: QuerySet[Rating]) -> QuerySet[Rating]:
    """Load what reward models say of what was judged in the same query, the oldest model first."""
    said = JSONObject(
        sample=F("sample"),
        reward_model=F("reward_model__version"),
        reward_model_sha256=F("reward_model__sha256"),
        score=F("score"),
        uncertainty=F("uncertainty"),
    )
    scores = SampleScore.objects.order_by("reward_model__version").annotate(said=said).values("said")
    is_of_two = Q(sample=OuterRef("comparison__first")) | Q(sample=OuterRef("comparison__second"))
    return ratings.annotate(
        scores=ArraySubquery(scores.filter(is_of_two)),
        further_scores=ArraySubquery(scores.filter(sample__ranked_in__comparison=OuterRef("comparison"))),
    )


def line_of(rating: Any, axes: Sequence[str]) -> dict[str, Any]:
    """A rating of ``with_scores`` whose samples, prompt and presentation were loaded, as plain values.

    ``axes``: those of the project, in whose order the words name the scores.
    """
    item, presentation = rating.comparison, rating.presentation
    scores: dict[str, list[dict[str, Any]]] = {}
    for said in (*rating.scores, *rating.further_scores):
        scores.setdefault(said.pop("sample"), []).append(said)
    answers = item.samples
    if presentation.order:
        order = presentation.order
    else:
        order = list(range(len(answers))) if presentation.first_is_left else list(reversed(range(len(answers))))
    return {
        "rating": str(rating.pk),
        "revision": rating.revision,
        "is_current": rating.is_current,
        "mode": item.kind,
        "prompt": {
            "id": str(item.prompt_id),
            "text": item.prompt.text,
            "sha256": item.prompt.sha256,
            "turns": item.prompt.turns,
            "split": item.prompt.split,
        },
        "rule": item.rule.text if item.rule else None,
        "answers": [
            {
                "sample": str(answer.pk),
                "text": answer.text,
                "sha256": answer.text_sha256,
                "policy": answer.checkpoint.version,
                "policy_sha256": answer.checkpoint.sha256,
                "rewards": scores.get(str(answer.pk), []),
            }
            for answer in answers
        ],
        "shown_order": order,
        "guideline": presentation.guideline.version if presentation.guideline else None,
        "verdict": rating.verdict,
        "both_bad": rating.both_bad,
        "details": rating.details,
        "words": verdict_in_words(rating, axes),
        "flags": rating.flags,
        "reason": rating.reason,
        "rater": pseudonym(rating),
        "source": rating.source,
        "counts_toward_overlap": rating.counts_toward_overlap,
        "active_ms": rating.active_ms,
        "created_at": rating.created_at.isoformat(),
    }


def pseudonym(rating: Rating) -> str:
    """The same for all of a rater's ratings in a project, another one in another project."""
    return hashlib.sha256(rating.project_id.bytes + rating.rater_id.bytes).hexdigest()[:12]
