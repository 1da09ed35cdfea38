"""What can be read about runs and the loop: the board, curves, and lineage in both directions."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from django.db.models import Max, QuerySet
from django.db.models.functions import Now

from rlhf_core.config import PRESETS, FeedbackPart, Settings
from webapp.feedback.models import Rating
from webapp.feedback.scores import may_want_scores
from webapp.feedback.selectors import QueueCounts, queue_counts
from webapp.projects.models import Project
from webapp.projects.selectors import PromptCounts, prompt_counts
from webapp.quality.demonstrations import DemonstrationRules, may_fine_tune
from webapp.quality.models import Dataset, DatasetItem
from webapp.quality.selectors import RatingCounts, usable_ratings
from webapp.quality.selectors import usable as usable_ones
from webapp.registry.models import Checkpoint, Promotion, ServingPointer
from webapp.registry.selectors import policies, promotions, reward_models, serving
from webapp.runs.models import Evaluation, EvaluationSample, Run, RunMetrics, RunOutput, RunSample

SHOWN_RUNS = 30
SERVED_SETTINGS = {
    **{name: name for name in ("max_new_tokens", "max_prompt_tokens", "temperature", "top_k", "top_p", "min_p")},
    "sample_tokens": "max_new_tokens",
}
"""Settings of runs, and those of the samples that raters see from which they are taken."""


# --- Settings to begin with ------------------------------------------------------------------------------------------


def presets_for(project: Project, kind: str) -> dict[str, Settings]:
    """The presets of a kind of run, at the lengths and temperature at which the project serves.

    Else a policy would learn from other responses than those that raters see, or a reward model be normalised by them.
    """
    presets = PRESETS[kind]
    pointer = serving(project)
    if pointer is None:
        return presets
    served = pointer.sampling.values
    names = {name: source for name, source in SERVED_SETTINGS.items() if hasattr(next(iter(presets.values())), name)}
    return {
        name: replace(preset, **{setting: served[source] for setting, source in names.items()})  # type: ignore[type-var]
        for name, preset in presets.items()
    }


# --- Judges ----------------------------------------------------------------------------------------------------------

JUDGES: FeedbackPart = "second"  # the half of the prompts that judges learn from; what they judge learns from the first


def judges_request(request_id: UUID) -> UUID:
    """The key of the run that trains the judge, where ``request_id`` asks for a reward model with one."""
    return uuid5(request_id, "judge")


def has_judge(run: Run) -> bool:
    """Whether a reward run is one of the two that were asked for together: a model, or its judge (one query)."""
    if run.config.get("part") == JUDGES:
        beside = Run.objects.filter(project=run.project_id, dataset=run.dataset_id, config__part="first")
        return any(judges_request(key) == run.request_id for key in beside.values_list("request_id", flat=True))
    return Run.objects.filter(project=run.project_id, request_id=judges_request(run.request_id)).exists()


def parts_of(project: Project) -> dict[Any, str]:
    """From which part of the prompts each of the project's reward models learned, by its id (one query)."""
    made = RunOutput.objects.filter(run__project=project, run__kind=Run.Kind.REWARD)
    rows = made.values_list("checkpoint", "run__config__part")
    return {checkpoint: part or "all" for checkpoint, part in rows}


def current_reward_model(project: Project) -> Checkpoint | None:
    """The newest reward model that policies may be improved against, which is no judge (two queries)."""
    parts = parts_of(project)
    return next((model for model in reward_models(project) if parts.get(model.pk) != JUDGES), None)


def wants_scores(project: Project) -> bool:
    """Whether the current reward model has samples for raters left to score, or nobody has looked yet."""
    reward_model = current_reward_model(project)
    return reward_model is not None and may_want_scores(project, reward_model)


# --- The loop board --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cycle:
    """A policy with all that led to it and came of it: a row of the loop board."""

    policy: Checkpoint
    run: Run | None  # that made it; None for the base policy
    reward_model: Checkpoint | None  # that the run improved against
    reward_run: Run | None  # that made the reward model
    dataset: Dataset | None  # that the reward model learned from, or the policy itself if it was fine-tuned
    is_serving: bool
    served_at: datetime | None  # when it was last promoted
    evaluation: Evaluation | None  # the last one of it


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that the loop board shows."""

    serving: ServingPointer | None
    last_promotion: Promotion | None
    queue: QueueCounts
    prompts: PromptCounts
    usable: RatingCounts
    may_fine_tune: bool  # whether enough answers were rated well
    new_ratings: int  # usable ratings that are not in the dataset of the newest reward model
    last_rating_at: datetime | None
    cycles: list[Cycle]  # newest policy first
    reward_models: list[Checkpoint]  # newest first, without those that only judge
    runs: list[Run]  # the last ones, newest first, with inputs loaded
    active_runs: list[Run]  # of those, the unfinished


def board(project: Project) -> Board:
    """The state of a project's loop; as many queries for a large project as for an empty one."""
    pointer = serving(project)
    lineage = load_lineage(project)
    moves = list(promotions(project))
    runs = list(runs_of(project)[:SHOWN_RUNS])
    usable = usable_ratings(project)
    evaluated = last_evaluations(project)
    trained = [run for run in lineage.runs.values() if run.kind == Run.Kind.REWARD]
    datasets = [run.dataset for run in sorted(trained, key=lambda run: -run.number)]
    known = DatasetItem.objects.filter(dataset=datasets[0]).values_list("rating", flat=True) if datasets else []
    served_at: dict[Any, datetime] = {}
    for move in reversed(moves):
        served_at[move.to_checkpoint_id] = move.at
    made = [row for row in lineage.checkpoints.values() if row.kind == Checkpoint.Kind.POLICY]
    cycles = []
    for policy in sorted(made, key=lambda row: -row.version):
        run = lineage.maker(policy)
        reward_model = lineage.checkpoints.get(run.reward_model_id) if run else None
        reward_run = lineage.maker(reward_model)
        cycles.append(
            Cycle(
                policy=policy,
                run=run,
                reward_model=reward_model,
                reward_run=reward_run,
                dataset=reward_run.dataset if reward_run else run.dataset if run else None,
                is_serving=pointer is not None and pointer.checkpoint_id == policy.pk,
                served_at=served_at.get(policy.pk),
                evaluation=evaluated.get(policy.pk),
            )
        )
    judges = {pk for pk, run in lineage.makers.items() if run in lineage.runs and is_judges(lineage.runs[run])}
    reward_models = [
        row for row in lineage.checkpoints.values() if row.kind == Checkpoint.Kind.REWARD_MODEL and row.pk not in judges
    ]
    return Board(
        serving=pointer,
        last_promotion=moves[0] if moves else None,
        queue=queue_counts(project),
        prompts=prompt_counts(project),
        usable=usable,
        may_fine_tune=may_fine_tune(project, DemonstrationRules()),
        new_ratings=usable_ones(project).exclude(pk__in=known).count(),
        last_rating_at=Rating.objects.filter(project=project).aggregate(last=Max("created_at"))["last"],
        cycles=cycles,
        reward_models=sorted(reward_models, key=lambda row: -row.version),
        runs=runs,
        active_runs=[run for run in runs if not run.is_finished],
    )


def is_judges(run: Run) -> bool:
    """Whether a run made the judge of another reward model."""
    return run.kind == Run.Kind.REWARD and run.config.get("part") == JUDGES


def runs_of(project: Project) -> QuerySet[Run]:
    """A project's runs, newest first, with inputs, outputs and who asked for them."""
    related = ("dataset", "policy", "reward_model", "serving", "started_by")
    return Run.objects.filter(project=project).select_related(*related).prefetch_related("outputs").order_by("-number")


# --- Simulated raters ------------------------------------------------------------------------------------------------

SIMULATING = timedelta(minutes=15)  # after it, what was asked of simulated raters is forgotten: no item came


@dataclass(frozen=True, slots=True)
class Simulating:
    """How far the simulated raters are: of ``of`` ratings asked for, ``missing`` are to come."""

    of: int
    missing: int

    @property
    def done(self) -> int:
        return self.of - self.missing


def simulated_ratings(project: Project) -> int:
    """Items that simulated raters have judged."""
    return Rating.objects.filter(project=project, source=Rating.Source.SIMULATED, revision=1).count()


def simulating(project: Project, of: int) -> Simulating | None:
    """What simulated raters are at in a project; None where nothing was asked of them, all is done, or none comes."""
    asked = Project.objects.filter(pk=project.pk, simulated_asked_at__gt=Now() - SIMULATING)
    target = asked.values_list("simulated_target", flat=True).first()
    missing = target - simulated_ratings(project) if target else 0
    return Simulating(of=max(of, missing), missing=missing) if missing > 0 else None


def projects_to_simulate() -> QuerySet[Project]:
    """The projects in which simulated raters may be at work; ``simulating`` says in which they are."""
    return Project.objects.filter(simulated_asked_at__gt=Now() - SIMULATING, is_paused=False)


# --- One run ---------------------------------------------------------------------------------------------------------


def curves(run: Run) -> dict[str, list[list[float]]]:
    """The run's metrics as points ``[step, value]`` by name; values that were not finite are left out (one query)."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for step, values in RunMetrics.objects.filter(run=run).order_by("step").values_list("step", "values"):
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[name].append([step, value])
    return dict(found)


def texts_of(run: Run, count: int) -> list[RunSample]:
    """The last texts that the policy in training wrote, newest step first (one query)."""
    return list(RunSample.objects.filter(run=run).order_by("-step", "id")[:count])


# --- Evaluations -----------------------------------------------------------------------------------------------------

COMPARED = ("checkpoint", "parent", "base", "serving", "reward_model", "sampling", "run")


def last_evaluations(project: Project) -> dict[Any, Evaluation]:
    """The last evaluation of each policy that has one, by the policy's id (one query)."""
    found = Evaluation.objects.filter(checkpoint__project=project).select_related(*COMPARED).order_by("created_at")
    return {evaluation.checkpoint_id: evaluation for evaluation in found}


def evaluations_of(policy: Checkpoint) -> QuerySet[Evaluation]:
    """The evaluations of a policy, newest first, with the policies that it was compared with."""
    return Evaluation.objects.filter(checkpoint=policy).select_related(*COMPARED).order_by("-created_at")


def answers_of(evaluation: Evaluation, policy: Checkpoint) -> QuerySet[EvaluationSample]:
    """What ``policy`` answered in an evaluation, with the prompts, in their order."""
    answers = EvaluationSample.objects.filter(evaluation=evaluation, sample__checkpoint=policy)
    return answers.select_related("sample__prompt").order_by("sample__prompt__sha256")


# --- Lineage ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lineage:
    """The checkpoints of a project and the runs that made them, loaded at once."""

    checkpoints: Mapping[Any, Checkpoint]
    runs: Mapping[Any, Run]
    makers: Mapping[Any, Any] = field(default_factory=dict)  # checkpoint id -> run id

    def maker(self, checkpoint: Checkpoint | None) -> Run | None:
        """The run that made a checkpoint; None for a base policy."""
        return self.runs.get(self.makers.get(checkpoint.pk)) if checkpoint else None


def load_lineage(project: Project) -> Lineage:
    """What all walks along the lineage of a project need (three queries)."""
    fruitful = Run.objects.filter(project=project, state=Run.State.SUCCEEDED).select_related("dataset")
    return Lineage(
        checkpoints={row.pk: row for row in Checkpoint.objects.filter(project=project)},
        runs={run.pk: run for run in fruitful},
        makers=dict(RunOutput.objects.filter(run__project=project).values_list("checkpoint", "run")),
    )


@dataclass(frozen=True, slots=True)
class LineageStep:
    """A checkpoint and what it was made from; ``run`` None: it was brought in from outside."""

    checkpoint: Checkpoint
    run: Run | None
    parent: Checkpoint | None  # the policy that the run started from
    reward_model: Checkpoint | None
    dataset: Dataset | None

    @property
    def ratings(self) -> int:
        """Ratings in the step's dataset."""
        return self.dataset.counts.get("total", 0) if self.dataset else 0


def lineage_of(checkpoint: Checkpoint) -> list[LineageStep]:
    """How a checkpoint came to be, nearest first, back to the base policy (four queries, however long the way).

    Of a policy: its run, then the reward model and its dataset, then the policy before, and so on.
    """
    lineage = load_lineage(checkpoint.project)
    steps: list[LineageStep] = []
    seen = set()
    waiting = [checkpoint.pk]
    while waiting:
        found = lineage.checkpoints[waiting.pop(0)]
        if found.pk in seen:
            continue
        seen.add(found.pk)
        run = lineage.maker(found)
        inputs = [run.reward_model_id, run.policy_id] if run else []
        steps.append(
            LineageStep(
                checkpoint=found,
                run=run,
                parent=lineage.checkpoints.get(run.policy_id) if run else None,
                reward_model=lineage.checkpoints.get(run.reward_model_id) if run else None,
                dataset=run.dataset if run else None,
            )
        )
        waiting += [pk for pk in inputs if pk is not None]
    return steps


@dataclass(frozen=True, slots=True)
class Taught:
    """A reward model that learned from a rating, and what followed it."""

    reward_run: Run
    reward_model: Checkpoint
    policies: list[tuple[Run, Checkpoint]]  # improved against it: the run and what it made


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a rating."""

    datasets: list[Dataset]  # that it is in, oldest first
    unfinished: list[Run]  # trainings on those that made nothing, yet or at all
    taught: list[Taught]
    imitated: list[tuple[Run, Checkpoint]]  # policies that were fine-tuned on an answer that it speaks for
    heirs: list[Checkpoint]  # policies made from those policies since, however far

    @property
    def reached(self) -> bool:
        """Whether any policy carries something of it."""
        return bool(self.imitated) or any(one.policies for one in self.taught)


def fate_of(rating: Rating) -> Fate:
    """What became of a rating: datasets, runs, reward models, policies (six queries, however many there are)."""
    datasets = list(Dataset.objects.filter(items__rating=rating).order_by("created_at"))
    direct = list(
        Run.objects.filter(dataset__in=datasets)
        .select_related("dataset")
        .prefetch_related("outputs")
        .order_by("number")
    )
    made = [(run, output) for run in direct for output in run.outputs.all()]
    models = [(run, output) for run, output in made if output.kind == Checkpoint.Kind.REWARD_MODEL]
    imitated = [(run, output) for run, output in made if output.kind == Checkpoint.Kind.POLICY]
    improved = Run.objects.filter(reward_model__in=[model.pk for _, model in models], kind=Run.Kind.POLICY)
    improved = improved.select_related("policy").prefetch_related("outputs").order_by("number")
    followed: dict[Any, list[tuple[Run, Checkpoint]]] = defaultdict(list)
    for run in improved:
        followed[run.reward_model_id] += [(run, output) for output in run.outputs.all()]
    reached = {policy.pk for pairs in (*followed.values(), imitated) for _, policy in pairs}
    heirs = []
    for policy in policies(rating.project).order_by("version"):  # parents come before their children
        if policy.parent_id in reached and policy.pk not in reached:
            heirs.append(policy)
            reached.add(policy.pk)
    return Fate(
        datasets=datasets,
        unfinished=[run for run in direct if not run.outputs.all()],
        taught=[Taught(run, model, followed[model.pk]) for run, model in models],
        imitated=imitated,
        heirs=heirs,
    )
