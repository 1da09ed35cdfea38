"""The loop board with what follows from it: every version, what goes on, what to do next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import ngettext

from rlhf_core.config import PRESETS, RewardConfig
from webapp.feedback.models import Comparison
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint
from webapp.runs import selectors
from webapp.runs.counts import Counts, counts_now, counts_of, holdout_count
from webapp.runs.findings import Findings, findings_in
from webapp.runs.models import Run
from webapp.runs.run_details import duration_of, with_seconds

VERSIONS_SHOWN = 20
RUNS_SHOWN = 8
LEFT_TO_PEOPLE = {Comparison.Kind.RULE, Comparison.Kind.REWRITE}  # by simulated raters: it takes more than a taste


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
    def evaluation(self) -> Findings | None:
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
    def candidate_evaluation(self) -> Findings | None:
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
