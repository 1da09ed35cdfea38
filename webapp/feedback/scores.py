"""What reward models say of the samples that were drawn for raters: written by the workers, read by admins alone."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Exists, OuterRef, Prefetch, QuerySet, prefetch_related_objects

from webapp.errors import WrongCheckpoint
from webapp.feedback.models import Comparison, Sample, SampleScore
from webapp.projects.models import Project, Prompt
from webapp.registry.models import Checkpoint


@dataclass(frozen=True, slots=True)
class NewScore:
    """What a reward model says of a sample, before it is a row; ``uncertainty`` None: the model is no ensemble."""

    sample_id: UUID
    score: float
    uncertainty: float | None = None


def record_scores(*, reward_model: Checkpoint, scores: Sequence[NewScore]) -> None:
    """Write down what ``reward_model`` says, all in one statement; a score that there is stays as it is.

    Raises:
        WrongCheckpoint: that is no reward model.
        ValueError: a score or an uncertainty is not finite; nothing is written then.
    """
    if reward_model.kind != Checkpoint.Kind.REWARD_MODEL:
        raise WrongCheckpoint(f"{reward_model} scores nothing: it is not a reward model.")
    for one in scores:
        if not (math.isfinite(one.score) and math.isfinite(one.uncertainty or 0.0)):
            raise ValueError(f"the score {one.score} ± {one.uncertainty} of sample {one.sample_id} is not finite")
    rows = [
        SampleScore(sample_id=one.sample_id, reward_model=reward_model, score=one.score, uncertainty=one.uncertainty)
        for one in scores
    ]
    SampleScore.objects.bulk_create(rows, ignore_conflicts=True)


def drawn_for_raters(project: Project) -> QuerySet[Sample]:
    """The samples of a project's policies, without those that evaluations drew on prompts that are held out."""
    return Sample.objects.filter(checkpoint__project=project, prompt__split=Prompt.Split.TRAIN)


def without_score(project: Project, reward_model: Checkpoint, *, but_of: Collection[UUID] = ()) -> QuerySet[Sample]:
    """Samples for raters that ``reward_model`` has not scored, the newest first, which are those that raters see next.

    ``but_of``: the ids of policies whose samples are left out.
    """
    scored = SampleScore.objects.filter(sample=OuterRef("pk"), reward_model=reward_model)
    return drawn_for_raters(project).filter(~Exists(scored)).exclude(checkpoint__in=but_of).order_by("-id")


def load_scores(samples: Iterable[Sample]) -> None:
    """Load the scores of ``samples``, the newest reward model's first: one query, or none where there is no sample."""
    scores = SampleScore.objects.select_related("reward_model").order_by("-reward_model__version")
    prefetch_related_objects(list(samples), Prefetch("scores", scores))


def load_scores_of(comparisons: Iterable[Comparison]) -> None:
    """``load_scores`` for all that is judged in ``comparisons``, whose samples were loaded."""
    load_scores([sample for comparison in comparisons for sample in comparison.samples])
