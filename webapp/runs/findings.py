"""What an evaluation found: the candidate beside each policy that it was compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.utils.translation import gettext_noop

from rlhf_core.config import METRICS
from webapp.projects.models import Prompt
from webapp.registry.models import Checkpoint
from webapp.runs import selectors
from webapp.runs.core_words import said
from webapp.runs.models import Evaluation, EvaluationSample, Run

PARTS = {
    "candidate": gettext_noop("candidate"),
    "serving": gettext_noop("served then"),
    "parent": gettext_noop("parent"),
    "base": gettext_noop("base"),
}
PAIRS_A_PAGE = 12
PAIRS_AT_FIRST = 6  # on a policy's page; the evaluation's own page has all
TOLD = {
    "response_length": gettext_noop("Response length, tokens"),
    "end_rate": gettext_noop("Ends by itself"),
    "distinct_1": gettext_noop("Distinct-1"),
    "distinct_2": gettext_noop("Distinct-2"),
    "distinct_3": gettext_noop("Distinct-3"),
    "repetition": gettext_noop("Repetition"),
}


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
