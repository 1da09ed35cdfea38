"""Scoring what raters are shown by the project's reward model: beside the raters' way, and never in it.

A sample is in the queue before anybody asks for its score, and whatever goes wrong here is logged and tried again.
What was scored is written batch by batch, so a worker that dies loses a batch's time and nothing else.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from django.db.models import QuerySet

from rlhf_core.errors import CheckpointError, QueueFull
from webapp import queue
from webapp.feedback.models import NoScore, Sample
from webapp.feedback.ordering import order_queue
from webapp.feedback.scores import NewScore, next_without_score, record_no_score, record_scores, without_score
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint
from webapp.runs.selectors import current_reward_model, wants_scores
from workers.locks import try_lock
from workers.sampler.client import SamplerClient, SamplerUnavailable, default_client
from workers.sampler.wire import NotFinite, OtherTokens, PolicyUnscorable, TokensUnread, Unscorable

log = logging.getLogger(__name__)

BATCH_ROWS = 16  # so few that a filling of the queue, which the same worker does, waits a second at most
DEADLINE_SECONDS = 10.0
SLICE_SECONDS = 10.0  # one call begins no batch after this; it asks for what is left
REST_SECONDS = 60.0  # after a call that left something without a score: the next one would fail by the same

resting: dict[UUID, float] = {}  # projects of such calls, until when: on the monotonic clock of this process

# What no second try changes, since the bytes of a checkpoint never do. Whatever else goes wrong is tried again.
FOR_GOOD: dict[type[Exception], NoScore.Reason] = {
    NotFinite: NoScore.Reason.NOT_FINITE,
    TokensUnread: NoScore.Reason.TOKENS,
    OtherTokens: NoScore.Reason.TOKENS,
}


def score_all() -> int:
    """Ask for the scoring of each project in which samples wait for a score; returns how many there are.

    The queue of each is put in the order that it wants, which settings and new ratings may have changed.
    """
    for project in with_reward_model():
        order_queue(project=project, reward_model=current_reward_model(project))
    found = with_backlog()
    ask(found)
    return len(found)


def ring() -> None:
    """``ask`` for all that wait, but for projects whose samples this worker could not score just now.

    Called after each tick of this worker, several times a minute, it would else try what has no score again and again.
    """
    if not queue.hears_nothing("sample"):
        return  # asked first: the backlog takes some queries a project
    now = time.monotonic()
    ask([project_id for project_id in with_backlog() if resting.get(project_id, now) <= now])


def ask(projects: Sequence[UUID]) -> None:
    """Ask for the scoring of projects, if no message waits for this worker.

    What waits asks again when it has ended, so each project has one message at most: two would be in each other's way,
    and each would ask for another.
    """
    if projects and queue.hears_nothing("sample"):
        for project_id in projects:
            queue.score(project_id)


def with_reward_model() -> QuerySet[Project]:
    return Project.objects.filter(checkpoints__kind=Checkpoint.Kind.REWARD_MODEL).distinct()


def with_backlog() -> list[UUID]:
    """The projects in which samples wait for a score, in random order: each gets its turn."""
    found = [project.pk for project in with_reward_model() if wants_scores(project)]
    random.shuffle(found)
    return found


def score(
    project_id: UUID, client: SamplerClient | None = None, *, should_yield: Callable[[], bool] = lambda: False
) -> int:
    """Score the project's samples by its current reward model, the newest first; returns how many were scored.

    One worker a project at a time; another one returns at once. What the model can never score is written down with
    its reason, a whole policy's samples or single ones, and not asked for again. What it cannot score now is left out;
    ``ring`` then lets the project rest.

    Args:
        should_yield: asked after each batch, once something was scored; true ends this call. Where samples are left, it
            asks for another one unless something waits, which asks when it has ended.
    """
    project = Project.objects.get(pk=project_id)
    client = client or default_client()
    scored, given_up, policies, is_cut, is_refused = 0, 0, set[UUID](), False, False
    unscored: dict[UUID, Exception] = {}
    end = time.monotonic() + SLICE_SECONDS
    with try_lock(f"workers.score {project_id}") as had:
        while had:
            reward_model = current_reward_model(project)  # anew each time: a newer one may have come
            if reward_model is None:
                break
            batch = of_one_policy(
                next_without_score(project, reward_model, BATCH_ROWS, but_of=policies, but=unscored.keys())
            )
            if not batch:
                break
            is_late = time.monotonic() > end
            settled = scored + given_up + sum(type(error) in FOR_GOOD for error in unscored.values())
            if (settled and (is_late or should_yield())) or (unscored and is_late):
                is_cut = settled > 0  # else the next call would begin with the same samples
                break
            try:
                scored += score_what_can_be(reward_model, batch, client, unscored)
            except PolicyUnscorable as error:
                log.warning(
                    "project %s: %s does not score %s: %s", project.slug, reward_model, batch[0].checkpoint, error
                )
                if type(error) in FOR_GOOD:
                    waiting = without_score(project, reward_model).exclude(pk__in=unscored.keys())
                    of_policy = list(waiting.filter(checkpoint=batch[0].checkpoint_id).values_list("pk", flat=True))
                    record_no_score(reward_model=reward_model, reason=FOR_GOOD[type(error)], samples=of_policy)
                    given_up += len(of_policy)
                else:
                    policies.add(batch[0].checkpoint_id)
            except (SamplerUnavailable, QueueFull, CheckpointError) as error:
                log.warning("project %s: no scores by %s: %s", project.slug, reward_model, error)
                is_refused = True
                break
    if unscored:
        why = next(reversed(unscored.values()))
        log.warning("project %s: samples without a score, %d, are left out: %s", project.slug, len(unscored), why)
    if scored:
        order_queue(project=project, reward_model=current_reward_model(project))
    if had:
        is_left = not is_cut and (is_refused or policies or any(type(why) not in FOR_GOOD for why in unscored.values()))
        resting[project_id] = time.monotonic() + (REST_SECONDS if is_left else 0.0)
    if is_cut:  # the lock is free again, so whoever takes the message goes on
        ring()
    return scored


def of_one_policy(samples: list[Sample]) -> list[Sample]:
    """Those of the policy that the first is of."""
    return [sample for sample in samples if sample.checkpoint_id == samples[0].checkpoint_id]


def score_what_can_be(
    reward_model: Checkpoint, samples: list[Sample], client: SamplerClient, unscored: dict[UUID, Exception]
) -> int:
    """``score_batch``; where a sample fails it, one by one. Returns how many; why not goes into ``unscored``.

    What no second try changes is written down too.
    """
    try:
        return score_batch(reward_model, samples, client)
    except PolicyUnscorable:
        raise
    except (Unscorable, ValueError) as error:
        if len(samples) == 1:
            unscored[samples[0].pk] = error
            if type(error) in FOR_GOOD:
                record_no_score(reward_model=reward_model, reason=FOR_GOOD[type(error)], samples=[samples[0].pk])
            return 0
    return sum(score_what_can_be(reward_model, [sample], client, unscored) for sample in samples)


def score_batch(reward_model: Checkpoint, samples: list[Sample], client: SamplerClient) -> int:
    """Score samples of one policy and write it down; returns how many."""
    found = client.score(
        reward_model.sha256,
        samples[0].checkpoint.sha256,
        [sample.prompt_tokens for sample in samples],
        [sample.tokens for sample in samples],
        deadline_seconds=DEADLINE_SECONDS,
    )
    if found.reward_model != reward_model.sha256:
        raise CheckpointError(f"asked {reward_model.sha256}, the sampler answered with {found.reward_model}")
    record_scores(
        reward_model=reward_model,
        scores=[
            NewScore(sample.pk, score, uncertainty)
            for sample, score, uncertainty in zip(samples, found.scores, found.uncertainties, strict=True)
        ],
    )
    return len(samples)
