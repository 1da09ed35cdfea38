"""What the admin's pages show beside what the selectors give: what to do next, counts by source, a run's live part.

Stands above the selectors and below the views; it changes nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import Count, Max, Q, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from rlhf_core.config import METRICS, PRESETS, RUN_CONFIGS, RewardConfig
from webapp.accounts.models import User
from webapp.feedback.models import Comparison, NoScore, Rating, Sample, load_rankings
from webapp.feedback.modes import verdict_in_words
from webapp.feedback.modes.pair import STRENGTHS
from webapp.feedback.scores import load_scores, load_scores_of, reasons_for_no_score
from webapp.feedback.selectors import with_samples
from webapp.projects.models import Membership, Project, Prompt
from webapp.projects.selectors import projects_for
from webapp.quality.models import Dataset, DatasetDemonstration
from webapp.quality.selectors import RatingCounts
from webapp.registry.models import Checkpoint, Promotion
from webapp.registry.selectors import promotions, serving
from webapp.runs import charts, selectors, tree
from webapp.runs.calibration import Calibration, calibration_of
from webapp.runs.charts import AXIS_UNITS
from webapp.runs.core_words import said, spelled
from webapp.runs.figures import seconds_left
from webapp.runs.models import Evaluation, EvaluationSample, Run, RunEvent, RunMetrics, RunSample
from webapp.runs.watch import Watch, watch

LIVE = tuple(state for state in Run.State if state not in Run.FINISHED)
VERSIONS_SHOWN = 20
RUNS_SHOWN = 8
LOG_LINES = 200
ROWS_LOOKED_AT = 100  # for a metric's first and last value; some are reported only now and then
SAMPLES_A_PAGE = 8
RATINGS_A_PAGE = 20
RUNS_A_PAGE = 50
PARTS = {
    "candidate": gettext_noop("candidate"),
    "serving": gettext_noop("served then"),
    "parent": gettext_noop("parent"),
    "base": gettext_noop("base"),
}
LEFT_TO_PEOPLE = {Comparison.Kind.RULE, Comparison.Kind.REWRITE}  # by simulated raters: it takes more than a taste
NO_SETTING = gettext_noop("no longer a setting")
TEXTS_SHOWN = 6  # of what a policy in training writes
EXAMPLES_SHOWN = 3
PAIRS_A_PAGE = 12
PAIRS_AT_FIRST = 6  # on a policy's page; the evaluation's own page has all


# --- Ratings, counted ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How many ratings, by where they come from; simulated ones are never hidden in a total."""

    total: int
    human: int
    demo: int
    simulated: int
    ai: int
    raters: int
    ties: int
    people: int = 0  # of the raters, where they were counted apart
    simulated_raters: int = 0
    demonstrations: int = 0  # that these ratings chose, where they were asked for that
    written: int = 0  # of those, by raters


def counts_of(dataset: Dataset | None) -> Counts | None:
    """The counts that were written down when a dataset was frozen."""
    if dataset is None:
        return None
    counts, sources = dataset.counts, dataset.counts.get("sources", {})
    named = {name: sources.get(name, 0) for name in ("human", "demo", "simulated", "ai")}
    plain = {name: counts.get(name, 0) for name in ("total", "raters", "ties", "demonstrations", "written")}
    return Counts(**plain, **named)


def counts_now(found: RatingCounts) -> Counts:
    """What a dataset frozen now would hold."""
    return Counts(
        total=found.total,
        human=found.human,
        demo=found.demo,
        simulated=found.simulated,
        ai=0,
        raters=found.raters,
        people=found.people,
        simulated_raters=found.simulated_raters,
        ties=found.ties,
    )


# --- The loop board --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """A row of the board: a policy, what made it, and what can be done with it."""

    cycle: selectors.Cycle
    parent: Checkpoint | None

    @property
    def policy(self) -> Checkpoint:
        return self.cycle.policy

    @property
    def run(self) -> Run | None:
        return self.cycle.run

    @property
    def counts(self) -> Counts | None:
        return counts_of(self.cycle.dataset)

    @property
    def is_serving(self) -> bool:
        return self.cycle.is_serving

    @property
    def is_candidate(self) -> bool:
        return not self.cycle.is_serving and self.cycle.served_at is None

    @property
    def seconds(self) -> float | None:
        return duration_of(self.run)

    @property
    def evaluation(self) -> "Findings | None":
        return findings_in(self.cycle.evaluation)

    @property
    def accuracy(self) -> Any:
        return self.cycle.reward_model.metrics.get("holdout_accuracy") if self.cycle.reward_model else None

    @property
    def accuracy_count(self) -> int:
        return holdout_count(self.cycle.reward_model)


@dataclass(frozen=True)
class Outlook:
    """The loop board with what follows from it."""

    board: selectors.Board

    @property
    def versions(self) -> list[Version]:
        """The newest ones."""
        return self.all_versions[:VERSIONS_SHOWN]

    @property
    def all_versions(self) -> list[Version]:
        known = {cycle.policy.pk: cycle.policy for cycle in self.board.cycles}

        def find(cycle: selectors.Cycle) -> Checkpoint | None:
            return known.get(cycle.policy.parent_id) if cycle.policy.parent_id else None

        return [Version(cycle, find(cycle)) for cycle in self.board.cycles]

    @property
    def hidden_versions(self) -> int:
        return max(0, len(self.board.cycles) - VERSIONS_SHOWN)

    @property
    def recent(self) -> Sequence[Run]:
        return with_seconds(self.board.runs[:RUNS_SHOWN])

    @property
    def usable(self) -> Counts:
        return counts_now(self.board.usable)

    @property
    def waiting_kinds(self) -> list[str]:
        """What waits for a rater, by rating mode, in words; empty where all is of one."""
        said = [words_of_kind(kind, count) for kind, count in self.board.queue.waiting_kinds.items()]
        return said if len(said) > 1 else []

    @property
    def simulated_leave_some(self) -> bool:
        """Whether items wait that simulated raters, who have rated here, leave to people."""
        return bool(self.usable.simulated_raters and LEFT_TO_PEOPLE & self.board.queue.waiting_kinds.keys())

    @property
    def live(self) -> Run | None:
        """The run that trains now, else the one that waits longest."""
        active = sorted(self.board.active_runs, key=lambda run: (run.state == Run.State.QUEUED, run.number))
        return active[0] if active else None

    @property
    def reward_model(self) -> Checkpoint | None:
        return next(iter(self.board.reward_models), None)

    @property
    def reward_model_is_used(self) -> bool:
        newest = self.reward_model
        return newest is None or any(cycle.reward_model == newest for cycle in self.board.cycles)

    @property
    def candidate(self) -> Checkpoint | None:
        """The newest policy, if a run made it and it has never served."""
        newest = self.versions[0] if self.board.cycles else None
        return newest.policy if newest and newest.is_candidate and newest.run else None

    @property
    def candidate_evaluation(self) -> "Findings | None":
        """What is known of the candidate beside the policies before it; none before it was evaluated."""
        return self.versions[0].evaluation if self.candidate else None

    @property
    def last_policy_run(self) -> Run | None:
        return next((run for run in self.board.runs if run.kind == Run.Kind.POLICY and run.step), None)

    @property
    def last_seconds(self) -> Mapping[str, float]:
        """How long the last successful run of each kind took."""
        found: dict[str, float] = {}
        for run in self.board.runs:
            seconds = duration_of(run)
            if run.state == Run.State.SUCCEEDED and seconds is not None:
                found.setdefault(run.kind, seconds)
        return found

    @property
    def needed(self) -> int:
        """Ratings that a training with the first preset asks for."""
        preset = next(iter(PRESETS["reward"].values()))
        assert isinstance(preset, RewardConfig)
        return preset.minimum_ratings

    @property
    def missing(self) -> int:
        return max(0, self.needed - self.board.new_ratings)

    @property
    def may_train(self) -> bool:
        return self.board.new_ratings >= self.needed

    @property
    def may_fine_tune(self) -> bool:
        """Whether to offer fine-tuning as the way to begin: enough good answers, and nothing was made of any yet."""
        return self.board.may_fine_tune and all(version.run is None for version in self.all_versions)

    @property
    def next_step(self) -> str:
        """What to do now: prepare, follow, evaluate, promote, improve, train, start or collect."""
        if self.board.serving is None:
            return "prepare"
        if self.live is not None:
            return "follow"
        if self.candidate is not None:
            may_evaluate = self.candidate_evaluation is None and self.board.prompts.held_out
            return "evaluate" if may_evaluate else "promote"
        if not self.reward_model_is_used:
            return "improve"
        if self.may_train:
            return "train"
        return "start" if self.board.usable.total == 0 and self.reward_model is None else "collect"


def words_of_kind(kind: str, count: int) -> str:
    """So many items of a rating mode."""
    said = {
        Comparison.Kind.PAIR: ngettext("%(count)s pair", "%(count)s pairs", count),
        Comparison.Kind.SINGLE: ngettext("%(count)s single answer", "%(count)s single answers", count),
        Comparison.Kind.RANKING: ngettext("%(count)s ranking", "%(count)s rankings", count),
        Comparison.Kind.RULE: ngettext("%(count)s rule", "%(count)s rules", count),
        Comparison.Kind.REWRITE: ngettext("%(count)s rewrite", "%(count)s rewrites", count),
        Comparison.Kind.TURNS: ngettext("%(count)s conversation by turns", "%(count)s conversations by turns", count),
    }
    return said[Comparison.Kind(kind)] % {"count": count}


def look_at_board(project: Project) -> Outlook:
    """The loop board of a project; as many queries for a large project as for a small one."""
    return Outlook(board=selectors.board(project))


# --- A run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LastValue:
    """First and last value of one metric, for the table."""

    metric: str
    help: str
    unit: str  # in English, as ``say_value`` knows it
    first: float | None
    value: float | None

    @property
    def spoken_unit(self) -> str:
        return "" if self.unit == "share" else said(AXIS_UNITS.get(self.unit, self.unit))


@dataclass(frozen=True)
class ShownSetting:
    """One setting of a run with what it does."""

    name: str
    label: str
    value: Any
    unit: str
    help: str


@dataclass(frozen=True)
class Live:
    """What changes while a run goes on."""

    run: Run
    left: float | None
    took: float | None
    ahead: int
    outputs: Sequence[Checkpoint]
    serving_id: Any
    last_values: Sequence[LastValue]
    log: Sequence[RunEvent]
    log_is_cut: bool
    texts: Sequence[RunSample]
    watched: Watch | None
    version: str

    @property
    def accuracy(self) -> Any:
        return next((made.metrics.get("holdout_accuracy") for made in self.outputs), None)

    @property
    def accuracy_count(self) -> int:
        return next((holdout_count(made) for made in self.outputs), 0)

    @property
    def calibration(self) -> Calibration | None:
        return calibration_of(self.run)


def holdout_count(reward_model: Checkpoint | None) -> int:
    """Comparisons that a reward model's accuracy was measured on."""
    return int(reward_model.metrics.get("holdout_count") or 0) if reward_model else 0


def duration_of(run: Run | None) -> float | None:
    """Seconds from a run's first start to its end; none while it goes on."""
    if run is None or run.started_at is None or run.finished_at is None:
        return None
    return (run.finished_at - run.started_at).total_seconds()


def with_seconds(runs: Sequence[Run]) -> Sequence[Run]:
    """The runs, each with how long it took as ``seconds``."""
    for run in runs:
        run.seconds = duration_of(run)  # type: ignore[attr-defined]
    return runs


def find_run(project: Project, number: int) -> Run:
    """A run of this project with what its page names. Raises Run.DoesNotExist."""
    related = ("project", "policy", "reward_model__origin__run", "judge", "dataset", "serving", "started_by")
    return Run.objects.select_related(*related).get(project=project, number=number)


def version_of(run: Run) -> str:
    """Changes whenever anything that the live part of a run's page shows has changed."""
    last = RunEvent.objects.filter(run=run).aggregate(last=Max("id"))["last"] or 0
    pointer = serving(run.project)
    points = RunMetrics.objects.filter(run=run).aggregate(last=Max("step"), rows=Count("pk"))
    marks: list[Any] = [run.state, run.fence, run.attempt, run.step, run.phase, run.total_steps]
    marks += [last, points["last"], points["rows"], pointer.epoch if pointer else 0]
    return "-".join(str(mark).replace(" ", "_") for mark in marks)


def read_live(run: Run, *, now: datetime) -> Live:
    """The live part of a run's page."""
    metrics = RunMetrics.objects.filter(run=run).values_list("values", flat=True)
    first = list(metrics.order_by("step")[:ROWS_LOOKED_AT])
    last = list(metrics.order_by("-step")[:ROWS_LOOKED_AT])[::-1]
    log = list(RunEvent.objects.filter(run=run).order_by("-id")[: LOG_LINES + 1])
    pointer = serving(run.project)
    queued_before = Q(created_at__lt=run.created_at) & Q(state__in=LIVE)
    return Live(
        run=run,
        left=seconds_left(run.started_at, now, run.step, run.total_steps),
        took=duration_of(run),
        ahead=Run.objects.filter(queued_before).count() if run.state == Run.State.QUEUED else 0,
        outputs=[output.checkpoint for output in run.run_outputs.select_related("checkpoint")],
        serving_id=pointer.checkpoint_id if pointer else None,
        last_values=read_last_values(run.kind, [*first, *last]),
        log=log[:LOG_LINES],
        log_is_cut=len(log) > LOG_LINES,
        texts=selectors.texts_of(run, TEXTS_SHOWN) if run.kind == Run.Kind.SFT else (),
        watched=watched_in(run),
        version=version_of(run),
    )


def watched_in(run: Run | None) -> Watch | None:
    """What the judge of a policy run says so far; None where it has none."""
    return watch(selectors.curves(run)) if run is not None and run.judge_id else None


def read_last_values(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[LastValue]:
    """First and last value of every metric that ``rows`` report, in the order of METRICS."""
    found = []
    for name, (help, unit) in charts.metrics_of(kind).items():
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            found.append(LastValue(name, said(help), unit, values[0], values[-1]))
    return found


def shown_settings(run: Run) -> list[ShownSetting]:
    """The settings that a run was started with, as the form orders them.

    One that today's program no longer has is shown last.
    """
    described = {item.name: item for item in fields(RUN_CONFIGS[run.kind])}  # type: ignore[arg-type]
    places = {name: place for place, name in enumerate(described)}  # the database sorts names by their length
    shown = []
    for name, value in sorted(run.config.items(), key=lambda item: (places.get(item[0], len(places)), item[0])):
        metadata = described[name].metadata if name in described else {"unit": "", "help": NO_SETTING}
        shown.append(ShownSetting(name, said(spelled(name)), value, said(metadata["unit"]), said(metadata["help"])))
    return shown


def demonstrations_in(dataset: Dataset, page: str | None) -> tuple[Page[Any], Sequence[DatasetDemonstration]]:
    """The demonstrations of a dataset, in their order, with prompts and who wrote them (two queries)."""
    rows = DatasetDemonstration.objects.filter(dataset=dataset).select_related("prompt", "sample__checkpoint")
    found = Paginator(rows.order_by("id"), RATINGS_A_PAGE).get_page(page)
    return found, list(found.object_list)


def runs_page(project: Project, page: str | None) -> Page[Run]:
    """Every run of a project, the newest first."""
    found = Paginator(selectors.runs_of(project), RUNS_A_PAGE).get_page(page)
    found.object_list = with_seconds(list(found.object_list))
    return found


# --- An evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One policy of an evaluation: a column of its table. Several parts can be the same policy."""

    policy: Checkpoint
    parts: tuple[str, ...]
    numbers: Mapping[str, Any]
    kl: Mapping[str, Any] | None  # of the candidate to this policy
    difference: Mapping[str, Any] | None  # the candidate's reward less this policy's

    @property
    def words(self) -> str:
        return ", ".join(said(PARTS.get(part, part)) for part in self.parts)


@dataclass(frozen=True)
class Findings:
    """An evaluation as pages show it: the candidate, then each policy that it was compared with."""

    evaluation: Evaluation
    columns: tuple[Compared, ...]

    @property
    def candidate(self) -> Compared:
        return self.columns[0]

    @property
    def others(self) -> tuple[Compared, ...]:
        return self.columns[1:]

    @property
    def against(self) -> Compared | None:
        """The policy whose place the candidate would take, else the one it was improved from."""
        found = {part: column for column in self.others for part in column.parts}
        return found.get("serving") or found.get("parent")

    @property
    def base(self) -> Compared | None:
        return next((column for column in self.others if "base" in column.parts), None)

    @property
    def narrowed(self) -> str:
        """By what the distribution was narrowed that was drawn from; empty where it was whole.

        Only there is the mean log-ratio to another policy a KL.
        """
        drawn = self.evaluation.sampling.values
        cuts = [f"top-k {drawn['top_k']}"] if drawn["top_k"] else []
        cuts += [f"top-p {drawn['top_p']:g}"] if drawn["top_p"] < 1 else []
        cuts += [f"min-p {drawn['min_p']:g}"] if drawn.get("min_p") else []  # settings from before have none
        return ", ".join(cuts)

    @property
    def distinct_ratio(self) -> float | None:
        """Variety of the candidate's word pairs as a share of the base's."""
        before = self.base.numbers["distinct_2"] if self.base else 0.0
        return self.candidate.numbers["distinct_2"] / before if before else None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is told of every policy alike, a value a column."""
        metrics = METRICS["evaluate"]
        return [
            {
                "label": said(label),
                "help": said(metrics[name][0]),
                "unit": metrics[name][1],
                "values": [column.numbers[name] for column in self.columns],
            }
            for name, label in TOLD.items()
        ]


TOLD = {
    "response_length": gettext_noop("Response length, tokens"),
    "end_rate": gettext_noop("Ends by itself"),
    "distinct_1": gettext_noop("Distinct-1"),
    "distinct_2": gettext_noop("Distinct-2"),
    "distinct_3": gettext_noop("Distinct-3"),
    "repetition": gettext_noop("Repetition"),
}


def findings_in(evaluation: Evaluation | None) -> Findings | None:
    """An evaluation, loaded as selectors do, as pages show it; no query."""
    if evaluation is None:
        return None
    policies = {
        "candidate": evaluation.checkpoint,
        "parent": evaluation.parent,
        "base": evaluation.base,
        "serving": evaluation.serving,
    }
    parts: dict[Any, list[str]] = {}
    for part, policy in policies.items():
        if policy is not None and part in evaluation.metrics["policies"]:
            parts.setdefault(policy, []).append(part)
    columns = [
        Compared(
            policy=policy,
            parts=tuple(named),
            numbers=evaluation.metrics["policies"][named[0]],
            kl=evaluation.metrics["kl"].get(named[0]),
            difference=evaluation.metrics["reward_differences"].get(named[0]),
        )
        for policy, named in parts.items()
    ]
    return Findings(evaluation, tuple(columns))


def findings_of(run: Run) -> Findings | None:
    """What an evaluation run found; none before its end."""
    return findings_in(Evaluation.objects.filter(run=run).select_related(*selectors.COMPARED).first())


@dataclass(frozen=True)
class SideBySide:
    """What two policies answered to one prompt."""

    ours: EvaluationSample
    theirs: EvaluationSample | None

    @property
    def prompt(self) -> Prompt:
        return self.ours.sample.prompt


def side_by_side(findings: Findings, page: str | None, size: int = PAIRS_A_PAGE) -> tuple[Page[Any], list[SideBySide]]:
    """The candidate's answers, each beside the other policy's (three queries)."""
    evaluation, against = findings.evaluation, findings.against
    found = Paginator(selectors.answers_of(evaluation, findings.candidate.policy), size).get_page(page)
    ours = list(found.object_list)
    theirs = {}
    if against is not None:
        prompts = [answer.sample.prompt_id for answer in ours]
        for answer in selectors.answers_of(evaluation, against.policy).filter(sample__prompt__in=prompts):
            theirs[answer.sample.prompt_id] = answer
    return found, [SideBySide(answer, theirs.get(answer.sample.prompt_id)) for answer in ours]


def running_evaluation(policy: Checkpoint) -> Run | None:
    """The evaluation of this policy that goes on or waits, if there is one."""
    return Run.objects.filter(policy=policy, kind=Run.Kind.EVALUATE, state__in=LIVE).order_by("-number").first()


# --- A policy --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """The way back from a policy to the ratings behind it."""

    run: Run | None
    parent: Checkpoint | None
    reward_model: Checkpoint | None
    reward_run: Run | None
    dataset: Dataset | None

    @property
    def counts(self) -> Counts | None:
        return counts_of(self.dataset)


def origin_of(policy: Checkpoint) -> Origin:
    """policy -> PPO run -> reward model -> reward run -> dataset, or policy -> fine-tuning -> dataset."""
    steps = {step.checkpoint.pk: step for step in selectors.lineage_of(policy)}
    own = steps[policy.pk]
    taught_by = steps.get(own.reward_model.pk) if own.reward_model else None
    return Origin(
        run=own.run,
        parent=own.parent,
        reward_model=own.reward_model,
        reward_run=taught_by.run if taught_by else None,
        dataset=taught_by.dataset if taught_by else own.dataset,
    )


def find_policy(project: Project, version: int) -> Checkpoint:
    """A policy of this project. Raises Checkpoint.DoesNotExist."""
    return Checkpoint.objects.select_related("parent", "project").get(
        project=project, kind=Checkpoint.Kind.POLICY, version=version
    )


def sources_of(policies: Sequence[Checkpoint], reader: User) -> dict[Any, str]:
    """Where the policies that were taken over from other projects come from, in words, by id (two queries at most).

    A project that ``reader`` doesn't manage is not named.
    """
    taken = {policy.pk: policy.source_id for policy in policies if policy.source_id}
    if not taken:
        return {}
    managed = projects_for(reader, Membership.Role.ADMIN).order_by()
    named = Checkpoint.objects.filter(pk__in=taken.values(), project__in=managed).select_related("project")
    words = {
        source.pk: _("%(policy)s of %(project)s") % {"policy": source, "project": source.project.name}
        for source in named
    }
    return {pk: words.get(source, _("a policy of another project")) for pk, source in taken.items()}


def samples_of(policy: Checkpoint, page: str | None) -> Page[Sample]:
    """Samples of a policy that were made for raters, the newest first; those of evaluations are shown beside others."""
    given = Sample.objects.filter(checkpoint=policy, prompt__split=Prompt.Split.TRAIN)
    samples = given.select_related("prompt", "sampling").order_by("-id")
    found = Paginator(samples, SAMPLES_A_PAGE).get_page(page)
    load_scores(found.object_list)
    return found


@dataclass(frozen=True)
class Unscored:
    """Samples on a page that have no score by the reward model of today; None: there is no such model."""

    reward_model: Checkpoint | None
    waiting: int  # all of them, where there is no reward model
    not_finite: int = 0  # the model was asked, and has no number for them
    unread: int = 0  # their tokens are none that the model reads


def unscored_among(project: Project, samples: Iterable[Sample]) -> Unscored | None:
    """What is to be said of the samples of a page, whose scores were loaded, that have none (three queries at most)."""
    reward_model = selectors.current_reward_model(project)
    wanted = None if reward_model is None else reward_model.pk
    missing = {
        one.pk for one in samples if not any(wanted in (None, score.reward_model_id) for score in one.scores.all())
    }  # by key: two ratings of one comparison show its samples twice
    if not missing or reward_model is None:
        return Unscored(reward_model, len(missing)) if missing else None
    without = Counter(reasons_for_no_score(reward_model, missing).values())
    return Unscored(
        reward_model,
        len(missing) - without.total(),
        not_finite=without[NoScore.Reason.NOT_FINITE],
        unread=without[NoScore.Reason.TOKENS],
    )


def promotions_of(policy: Checkpoint) -> QuerySet[Promotion]:
    """When this policy began to serve, was given other sampling settings or was replaced; the latest first."""
    return promotions(policy.project).filter(Q(to_checkpoint=policy) | Q(from_checkpoint=policy))


# --- The family of policies ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relative:
    """A policy in the family tree, with what is said of it."""

    node: tree.Node
    version: Version
    source: str  # where it was taken over from; empty: made here, or brought in from outside

    @property
    def state(self) -> str:
        if self.version.is_serving:
            return _("serving")
        return _("candidate") if self.version.is_candidate else _("served before")


@dataclass(frozen=True)
class Family:
    """All policies of a project, as a picture and in words."""

    picture: tree.Tree
    relatives: tuple[Relative, ...]


def family_of(project: Project, reader: User) -> Family:
    """The family tree of a project's policies, as ``reader`` may see it; constant in queries."""
    look = Outlook(board=selectors.board(project))
    versions = {version.policy.pk: version for version in look.all_versions}
    picture = tree.plant([version.policy for version in versions.values()])
    sources = sources_of([version.policy for version in versions.values()], reader)
    return Family(
        picture,
        tuple(Relative(node, versions[node.policy.pk], sources.get(node.policy.pk, "")) for node in picture.nodes),
    )


# --- Ratings behind a model ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShownRating:
    """A rating as an admin reads it: what was better, in words."""

    rating: Rating
    better: Sample
    worse: Sample | None
    axes: Sequence[str]  # of the project
    ranked: Sequence[tuple[int, Sample]] = ()  # a ranking's samples, each with its place, best first

    @property
    def is_tie(self) -> bool:
        return self.worse is not None and self.rating.verdict == 0

    @property
    def words(self) -> str:
        if self.rating.comparison.kind == Comparison.Kind.PAIR and not self.rating.both_bad:
            return str(STRENGTHS.get(abs(self.rating.verdict), _("a tie")))
        return verdict_in_words(self.rating, self.axes)


def ratings_in(dataset: Dataset, *, source: str, page: str | None) -> tuple[Page[Rating], list[ShownRating]]:
    """The ratings of a dataset, newest first; constant in queries."""
    ratings = with_samples(Rating.objects.filter(items__dataset=dataset)).order_by("-created_at", "-id")
    if source in Rating.Source.values:
        ratings = ratings.filter(source=source)
    found = Paginator(ratings, RATINGS_A_PAGE).get_page(page)
    load_rankings(rating.comparison for rating in found)
    load_scores_of(rating.comparison for rating in found)
    return found, [show_rating(rating, dataset.project.axes) for rating in found]


def find_rating(project: Project, pk: Any) -> Rating:
    """A rating of this project with its samples and their scores. Raises Rating.DoesNotExist."""
    found = with_samples(Rating.objects.filter(project=project)).select_related("project").get(pk=pk)
    load_rankings([found.comparison])
    load_scores_of([found.comparison])
    return found


def show_rating(rating: Rating, axes: Sequence[str]) -> ShownRating:
    """``axes``: those of the project, in whose order scores are said."""
    first, second = rating.comparison.first, rating.comparison.second
    if rating.comparison.kind == Comparison.Kind.RANKING:
        places = rating.details["places"]
        ranked = sorted(((places[str(one.pk)], one) for one in rating.comparison.samples), key=lambda pair: pair[0])
        return ShownRating(rating, ranked[0][1], ranked[-1][1], axes, tuple(ranked))
    if second is not None and prefers_second(rating):
        return ShownRating(rating, second, first, axes)
    return ShownRating(rating, first, second, axes)


def prefers_second(rating: Rating) -> bool:
    """A pair's verdict runs from -3 to +3 along the canonical order of its samples."""
    return rating.verdict < 0
