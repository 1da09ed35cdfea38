"""Keeping the raters' queue full with samples of the policy that serves."""

import logging
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import UUID

from django.db import transaction

from rlhf_core.errors import CheckpointError, QueueFull
from webapp.feedback import services as feedback
from webapp.feedback.models import Comparison, Sample
from webapp.feedback.services import NewSample
from webapp.projects.models import Project, Prompt
from webapp.projects.selectors import prompts_to_sample
from webapp.registry.models import ServingPointer
from webapp.registry.selectors import serving
from workers import scoring
from workers.locks import try_lock
from workers.sampler.client import SamplerClient, SamplerUnavailable, default_client

log = logging.getLogger(__name__)

FIRST_ITEMS = 4  # a small batch first, so that an empty queue has something soon
NEXT_ITEMS = 16  # pairs: one full batch of the sampler
MOST_ROWS = 32  # answers drawn at once: that batch
BARREN_BATCHES = 3  # batches without a new slot (twins only), after which a tick gives up
DEADLINE_SECONDS = 60.0
TICK_SECONDS = 10.0  # one call begins no batch of a project after this; the next one goes on
ROUND_SECONDS = 120.0  # and none of another project after this: well before the time limit of the task


def refill_all(client: SamplerClient | None = None) -> int:
    """Fill the queue of each project with a policy, a while each; returns the number of new items.

    In random order: where the time does not suffice for all, each gets its turn in one of the next rounds.
    """
    with_policy = list(ServingPointer.objects.filter(project__is_paused=False).values_list("project_id", flat=True))
    random.shuffle(with_policy)
    end = time.monotonic() + ROUND_SECONDS
    made = 0
    for project_id in with_policy:
        made += refill(project_id, client)
        if time.monotonic() > end:
            break
    return made


def refill(project_id: UUID, client: SamplerClient | None = None) -> int:
    """Draw samples until the project has its ``buffer_target`` of open slots; returns the number of new items.

    One worker a project at a time; another one returns at once. What fails is logged and tried again by the next tick.
    """
    project = Project.objects.get(pk=project_id)
    client = client or default_client()
    made = barren = 0
    end = time.monotonic() + TICK_SECONDS
    with try_lock(f"workers.refill {project_id}") as had:
        while had and barren < BARREN_BATCHES:
            pointer = serving(project)
            missing = feedback.slots_missing(project=project)
            if pointer is None or missing == 0:
                break
            is_empty = missing >= project.buffer_target
            wanted = min(-(-missing // project.overlap), FIRST_ITEMS if is_empty else NEXT_ITEMS)
            try:
                items = draw_items(project, pointer, wanted, client)
            except QueueFull as full:
                time.sleep(min(full.retry_after_seconds, 5.0))
                items = 0
            except (SamplerUnavailable, CheckpointError) as error:
                log.warning("project %s: no samples: %s", project.slug, error)
                break
            except ValueError:  # the sampler refused the request: a fault of ours, which must not stop other projects
                log.exception("project %s: no samples", project.slug)
                break
            made += items
            barren = 0 if items else barren + 1
            if time.monotonic() > end:
                break
    if made:
        log.info("project %s: %d new items in the queue", project.slug, made)
        transaction.on_commit(partial(scoring.ask, [project_id]), robust=True)  # a hint: the beat looks too
    return made


def draw_items(project: Project, pointer: ServingPointer, wanted: int, client: SamplerClient) -> int:
    """Draw and store ``wanted`` items; returns how many came into the queue."""
    prompts = prompts_to_sample(project, wanted)
    if not prompts:
        log.warning("project %s has no prompts to train on: import some", project.slug)
        return 0
    plan = plan_items(project, prompts)
    rows = [prompt for prompt, _, count in plan for _ in range(count)]
    drawn = client.draw(
        pointer.checkpoint.sha256,
        [prompt.text for prompt in rows],
        [secrets.randbits(63) for _ in rows],
        pointer.sampling.values,
        deadline_seconds=DEADLINE_SECONDS,
    )
    if drawn.checkpoint != pointer.checkpoint.sha256:
        raise CheckpointError(f"asked for {pointer.checkpoint.sha256}, the sampler answered with {drawn.checkpoint}")
    samples = feedback.record_samples(
        checkpoint=pointer.checkpoint,
        sampling=pointer.sampling,
        samples=[
            NewSample(
                prompt_id=prompt.pk,
                seed=sample.seed,
                prompt_tokens=sample.prompt_tokens,
                tokens=sample.tokens,
                text=sample.text,
                finish_reason=sample.finish_reason,
                log_prob=sample.log_prob,
            )
            for prompt, sample in zip(rows, drawn.samples, strict=True)
        ],
    )
    by_prompt: dict[UUID, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_id, []).append(sample)
    kinds = {prompt.pk: kind for prompt, kind, _ in plan}
    items = feedback.make_items(project=project, samples_by_prompt=by_prompt, kinds=kinds)
    return sum(not feedback.are_twins(item) for item in items)


def plan_items(project: Project, prompts: Sequence[Prompt]) -> list[tuple[Prompt, str, int]]:
    """What to ask of each prompt: its rating mode, and how many answers that takes; MOST_ROWS answers at most."""
    shares: dict[str, int] = {
        Comparison.Kind.PAIR: project.pair_percent,
        Comparison.Kind.RANKING: project.ranking_percent,
        Comparison.Kind.RULE: project.rule_percent,
        Comparison.Kind.REWRITE: project.rewrite_percent,
        Comparison.Kind.TURNS: project.turns_percent,
    }
    answers: dict[str, int] = {Comparison.Kind.PAIR: 2, Comparison.Kind.RANKING: project.ranking_size}
    plan: list[tuple[Prompt, str, int]] = []
    rows = 0
    for prompt, kind in zip(prompts, choose_kinds(len(prompts), shares), strict=True):
        count = answers.get(kind, 1)
        rows += count
        if plan and rows > MOST_ROWS:
            break
        plan.append((prompt, kind, count))
    return plan


def choose_kinds(count: int, shares: Mapping[str, int]) -> list[str]:
    """A rating mode for each of ``count`` items, by its share in percent; what no share takes is single answers.

    The first is a pair if there are any at all: with it the loop can begin.
    """
    kinds = [*shares, Comparison.Kind.SINGLE]
    weights = [*shares.values(), max(0, 100 - sum(shares.values()))]
    found: list[str] = random.choices(kinds, weights, k=count)
    if found and shares.get(Comparison.Kind.PAIR):
        found[0] = Comparison.Kind.PAIR
    return found
