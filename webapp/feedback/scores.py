"""What reward models say of the samples that were drawn for raters: written by the workers, read by admins alone."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Prefetch, QuerySet, prefetch_related_objects

from webapp.errors import WrongCheckpoint
from webapp.feedback.models import Comparison, NoScore, Sample, SampleScore, ScoreQueue, ScoreWanted
from webapp.projects.models import Project, Prompt
from webapp.registry.models import Checkpoint

ROWS_AT_ONCE = 5000

# Inside the database, since a new reward model makes as many rows as a project has samples.
WANT_ALL = """
INSERT INTO feedback_scorewanted (sample_id, project_id)
SELECT sample.id, policy.project_id
FROM feedback_sample AS sample
JOIN registry_checkpoint AS policy ON policy.id = sample.checkpoint_id
JOIN projects_prompt AS prompt ON prompt.id = sample.prompt_id
WHERE policy.project_id = %(project)s AND prompt.split = 'train'
  AND NOT EXISTS (SELECT FROM feedback_samplescore AS score
                  WHERE score.sample_id = sample.id AND score.reward_model_id = %(reward_model)s)
  AND NOT EXISTS (SELECT FROM feedback_noscore AS none
                  WHERE none.sample_id = sample.id AND none.reward_model_id = %(reward_model)s)
ON CONFLICT DO NOTHING
"""


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
    check_kind(reward_model)
    for one in scores:
        if not (math.isfinite(one.score) and math.isfinite(one.uncertainty or 0.0)):
            raise ValueError(f"the score {one.score} ± {one.uncertainty} of sample {one.sample_id} is not finite")
    rows = [
        SampleScore(sample_id=one.sample_id, reward_model=reward_model, score=one.score, uncertainty=one.uncertainty)
        for one in scores
    ]
    with transaction.atomic():
        SampleScore.objects.bulk_create(rows, ignore_conflicts=True)
        want_no_more(reward_model, [one.sample_id for one in scores])


def record_no_score(*, reward_model: Checkpoint, reason: NoScore.Reason, samples: Sequence[UUID]) -> None:
    """Write down that ``reward_model`` has no score for ``samples``, and never will; it is not asked for them again.

    Raises:
        WrongCheckpoint: that is no reward model.
    """
    check_kind(reward_model)
    for start in range(0, len(samples), ROWS_AT_ONCE):
        some = samples[start : start + ROWS_AT_ONCE]
        rows = [NoScore(sample_id=key, reward_model=reward_model, reason=reason) for key in some]
        with transaction.atomic():
            NoScore.objects.bulk_create(rows, ignore_conflicts=True)
            want_no_more(reward_model, some)


def check_kind(reward_model: Checkpoint) -> None:
    if reward_model.kind != Checkpoint.Kind.REWARD_MODEL:
        raise WrongCheckpoint(f"{reward_model} scores nothing: it is not a reward model.")


# --- What waits ------------------------------------------------------------------------------------------------------


def want_scores(project: Project, samples: Iterable[Sample]) -> None:
    """Let new samples of a project's policies wait for their scores, in the transaction that wrote them.

    Those that evaluations drew on prompts that are held out do not. The prompts must be loaded.
    """
    for_raters = [sample for sample in samples if sample.prompt.split == Prompt.Split.TRAIN]
    ScoreWanted.objects.bulk_create([ScoreWanted(sample=sample, project=project) for sample in for_raters])


def want_no_more(reward_model: Checkpoint, samples: Sequence[UUID]) -> None:
    """``reward_model`` has answered: if it is the one that ``samples`` waited for, they wait no more.

    The lock lets whoever makes the queue anew for another reward model wait, and find them all.
    """
    queue = ScoreQueue.objects.select_for_update(no_key=True).filter(project=reward_model.project_id).first()
    if queue is not None and queue.reward_model_id == reward_model.pk:
        ScoreWanted.objects.filter(sample__in=samples).delete()


def open_queue(project: Project, reward_model: Checkpoint) -> None:
    """Let the project's samples wait for ``reward_model``, all that it has not answered for, if they do not yet.

    The one look at all of them: once a reward model. Who draws samples meanwhile need not wait.
    """
    mine = ScoreQueue.objects.filter(project=project, reward_model=reward_model)
    if mine.exists():
        return
    with transaction.atomic():
        ScoreQueue.objects.bulk_create([ScoreQueue(project=project)], ignore_conflicts=True)
        queue = ScoreQueue.objects.select_for_update(no_key=True).get(project=project)
        if queue.reward_model_id == reward_model.pk:
            return  # another worker was faster
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")  # millions take their minute; the task has a limit too
        about = {"sample": OuterRef("pk"), "reward_model": reward_model}
        answered = Exists(SampleScore.objects.filter(**about)) | Exists(NoScore.objects.filter(**about))
        ScoreWanted.objects.filter(answered, project=project).delete()
        with connection.cursor() as cursor:
            cursor.execute(WANT_ALL, {"project": project.pk, "reward_model": reward_model.pk})
        queue.reward_model = reward_model
        queue.save(update_fields=["reward_model"])
    with connection.cursor() as cursor:  # else the planner takes the queue for as short as it was, and sorts all of it
        cursor.execute("ANALYZE feedback_scorewanted")


def may_want_scores(project: Project, reward_model: Checkpoint) -> bool:
    """Whether samples wait for ``reward_model``, or nobody has looked yet which ones do (two queries, few rows)."""
    is_open = ScoreQueue.objects.filter(project=project, reward_model=reward_model).exists()
    return not is_open or ScoreWanted.objects.filter(project=project).exists()


def without_score(project: Project, reward_model: Checkpoint, *, but_of: Collection[UUID] = ()) -> QuerySet[Sample]:
    """Samples for raters that ``reward_model`` has not scored, the newest first, which are those that raters see next.

    Those for which it has no score are not among them. For a reward model that is asked about for the first time it
    makes the queue anew, so only who scores may ask; others ask ``may_want_scores``.

    ``but_of``: the ids of policies whose samples are left out.
    """
    open_queue(project, reward_model)
    return Sample.objects.filter(wanted__project=project).exclude(checkpoint__in=but_of).order_by("-wanted")


def next_without_score(
    project: Project,
    reward_model: Checkpoint,
    count: int,
    *,
    but_of: Collection[UUID] = (),
    but: Collection[UUID] = (),
) -> list[Sample]:
    """The first ``count`` of ``without_score``, with their policies; reads no more of the queue than it steps past.

    By key first and the samples then: of the two tables in one statement, PostgreSQL may walk all samples from the
    newest on, those of other projects too, if it takes what waits for evenly spread among them.

    ``but``: the ids of samples that are left out.
    """
    open_queue(project, reward_model)
    wanted = ScoreWanted.objects.filter(project=project).exclude(sample__in=but).order_by("-sample")
    found: list[Sample] = []
    size = count
    keys = list(wanted.values_list("sample", flat=True)[:size])
    while keys:
        samples = Sample.objects.filter(pk__in=keys).exclude(checkpoint__in=but_of)
        found += samples.select_related("checkpoint").order_by("-pk")
        if len(found) >= count or len(keys) < size:
            break
        size = ROWS_AT_ONCE  # all of a policy that is left out may wait here
        keys = list(wanted.filter(sample__lt=keys[-1]).values_list("sample", flat=True)[:size])
    return found[:count]


# --- What is read ----------------------------------------------------------------------------------------------------


def reasons_for_no_score(reward_model: Checkpoint, samples: Collection[UUID]) -> dict[UUID, str]:
    """Of those of ``samples`` for which ``reward_model`` has no score for good: why (one query)."""
    rows = NoScore.objects.filter(reward_model=reward_model, sample__in=samples)
    return dict(rows.values_list("sample", "reason"))


def load_scores(samples: Iterable[Sample]) -> None:
    """Load the scores of ``samples``, the newest reward model's first: one query, or none where there is no sample."""
    scores = SampleScore.objects.select_related("reward_model").order_by("-reward_model__version")
    prefetch_related_objects(list(samples), Prefetch("scores", scores))


def load_scores_of(comparisons: Iterable[Comparison]) -> None:
    """``load_scores`` for all that is judged in ``comparisons``, whose samples were loaded."""
    load_scores([sample for comparison in comparisons for sample in comparison.samples])
