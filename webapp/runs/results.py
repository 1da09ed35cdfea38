"""How a run ends: with checkpoints, with an evaluation's findings, with an error, or cancelled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from rlhf_core.config import EvaluateConfig, settings_from_dict
from webapp import queue
from webapp.errors import WrongCheckpoint
from webapp.feedback.services import NewSample, record_samples
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import policies
from webapp.registry.services import record_checkpoint, sampling_settings
from webapp.runs.leases import Claim, end, lock_held
from webapp.runs.models import Evaluation, EvaluationSample, Run, RunOutput
from webapp.runs.notes import finite, note
from webapp.runs.selectors import wants_scores

State = Run.State


@dataclass(frozen=True, slots=True)
class DrawnAnswer:
    """A response that an evaluation drew: of which checkpoint (its SHA-256), its score, and how sure that is."""

    checkpoint: str
    sample: NewSample
    reward: float | None
    uncertainty: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluation run found: the report of result.json, and every response it drew."""

    report: Mapping[str, Any]
    answers: Sequence[DrawnAnswer]


def succeed(
    claim: Claim,
    *,
    outputs: Iterable[Mapping[str, Any]],
    result: Mapping[str, Any],
    evaluation: EvaluationResult | None = None,
    report: Mapping[str, Any] | None = None,
) -> Run:
    """Finish a run with what it made: checkpoint rows, their origin and the new state, all or nothing.

    ``outputs`` are those of result.json (``kind`` and ``id``, the checkpoint's SHA-256), ``result`` its metrics; an
    evaluation's samples and findings are written in the same transaction, so that none comes twice; another run's
    ``report`` is kept with its numbers.
    Where a cancel was asked for before the result came, the run ends as cancelled, with no outputs.
    """
    with transaction.atomic():
        run = lock_held(claim)
        if run.cancel_requested_at:
            return end(claim, run, State.CANCELLED, "finished after it was cancelled; the result was left out")
        numbers = finite(dict(result))
        for output in outputs:
            checkpoint = record_checkpoint(
                project=run.project,
                kind=output["kind"],
                sha256=output["id"],
                parent=run.policy if output["kind"] == Checkpoint.Kind.POLICY else None,
                metrics=numbers,
            )
            origin, _ = RunOutput.objects.get_or_create(checkpoint=checkpoint, defaults={"run": run})
            if origin.run_id != run.pk:
                note(run, "log", f"this is bit for bit {checkpoint}, which run {origin.run.number} made")
        if run.kind == Run.Kind.REWARD and wants_scores(run.project):
            transaction.on_commit(partial(queue.score, run.project_id), robust=True)  # a hint: the beat looks too
        if evaluation is not None:
            record_evaluation(run, evaluation)
        run.result = numbers if report is None else {**numbers, "report": finite(dict(report))}
        run.save(update_fields=["result"])
        return end(claim, run, State.SUCCEEDED, "")


def record_evaluation(run: Run, found: EvaluationResult) -> Evaluation:
    """Write down what an evaluation found and drew; within the caller's transaction, which holds the run.

    Raises:
        WrongCheckpoint: it has answers of a policy that was not asked.
    """
    config = settings_from_dict(EvaluateConfig, run.config)
    sampling = sampling_settings(config.sampling)
    references = references_of(run)
    evaluation = Evaluation.objects.create(
        run=run,
        checkpoint=run.policy,
        parent=references.get("parent"),
        base=references.get("base"),
        serving=references.get("serving"),
        reward_model=run.reward_model,
        sampling=sampling,
        prompts=found.report["prompts"],
        metrics=finite(dict(found.report)),
    )
    asked = {policy.sha256: policy for policy in (run.policy, *references.values())}
    by_policy: dict[str, list[DrawnAnswer]] = {}
    for answer in found.answers:
        by_policy.setdefault(answer.checkpoint, []).append(answer)
    for sha256, answers in by_policy.items():
        if sha256 not in asked:
            raise WrongCheckpoint(
                _("The evaluation has answers of checkpoint %(sha256)s, which was not asked.") % {"sha256": sha256[:12]}
            )
        samples = record_samples(
            checkpoint=asked[sha256], sampling=sampling, samples=[answer.sample for answer in answers]
        )
        EvaluationSample.objects.bulk_create(
            [
                EvaluationSample(
                    evaluation=evaluation, sample=sample, reward=answer.reward, uncertainty=answer.uncertainty
                )
                for sample, answer in zip(samples, answers, strict=True)
            ],
            batch_size=500,
        )
    return evaluation


def references_of(run: Run) -> dict[str, Checkpoint]:
    """The policies that an evaluation compares its candidate with, by their part (one query, however long the lineage).

    Parent and base follow from the candidate's lineage, which never changes; a base policy has neither.
    """
    known = {policy.pk: policy for policy in policies(run.project)}
    base = parent = known.get(run.policy.parent_id) if run.policy.parent_id else None
    while base is not None and base.parent_id is not None:
        base = known[base.parent_id]
    found = {"parent": parent, "base": base, "serving": run.serving}
    return {part: policy for part, policy in found.items() if policy is not None and policy != run.policy}


def fail(claim: Claim, error: str) -> Run:
    """Finish a run that cannot go on, with the reason for people; cancelled where a cancel was asked for before."""
    with transaction.atomic():
        run = lock_held(claim)
        state = State.CANCELLED if run.cancel_requested_at else State.FAILED
        return end(claim, run, state, error)


def finish_cancelled(claim: Claim) -> Run:
    """Finish a run whose training process was stopped because a cancel was asked for."""
    with transaction.atomic():
        return end(claim, lock_held(claim), State.CANCELLED, "")
