"""Which curves a run's page draws and in what order. Help text and unit of a metric come from rlhf_core.config.

Titles and texts stand here in English; they are translated where they are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext_noop

from rlhf_core.config import GROUP_METRICS, JUDGE_METRICS, METRICS
from webapp.runs.core_words import said

MOST_POINTS = 600  # of one curve; a screen shows no more
AXIS_UNITS = {
    "reward": gettext_noop("reward-model units"),
    "share": "%",
    "reward/nat": gettext_noop("units per nat"),
    "nats/response": gettext_noop("nats"),
}


@dataclass(frozen=True)
class Curve:
    """One metric as a line."""

    metric: str
    label: str
    help: str
    unit: str


@dataclass(frozen=True)
class Chart:
    """One picture: metrics that share a unit."""

    title: str
    curves: tuple[Curve, ...]
    by: str = ""  # the metric that runs along the lower axis, as its square root; empty: the step

    @property
    def name(self) -> str:
        return said(self.title)

    @property
    def unit(self) -> str:
        return self.curves[0].unit

    @property
    def axis(self) -> str:
        """What stands along the upright axis: the unit, or the title where there is none."""
        return said(AXIS_UNITS.get(self.unit, self.unit)) or self.name

    @property
    def canvas_unit(self) -> str:
        """How the script writes values: shares in percent."""
        return "%" if self.unit == "share" else self.unit

    @property
    def metrics(self) -> str:
        return " ".join(curve.metric for curve in self.curves)

    @property
    def labels(self) -> str:
        return "|".join(said(curve.label) for curve in self.curves)

    @property
    def help(self) -> str:
        if len(self.curves) == 1:
            return said(self.curves[0].help)
        return "; ".join(f"{said(curve.label)}: {said(curve.help)}" for curve in self.curves)


@dataclass(frozen=True)
class Group:
    """Charts that are folded away under one heading."""

    title: str
    charts: tuple[Chart, ...]

    @property
    def name(self) -> str:
        return said(self.title)


WATCH = Chart(
    gettext_noop("Score by KL"),
    (
        Curve("watched_score", gettext_noop("score"), gettext_noop("what the policy learns to please"), "reward"),
        Curve(
            "watched_judge_score",
            gettext_noop("judge"),
            gettext_noop("the same answers, scored by a model of the other half"),
            "reward",
        ),
        Curve(
            "watched_law",
            gettext_noop("law"),
            gettext_noop("d·(α − β·ln d), d = √KL, fitted to the judge’s score"),
            "reward",
        ),
    ),
    by="watched_kl",
)
"""Over-optimisation, as Gao et al. 2022 draw it: against the square root of the KL; means over some updates."""
MAIN: dict[str, tuple[tuple[str, str], ...]] = {
    "sft": (
        (gettext_noop("Loss"), "loss validation_loss parent_validation_loss"),
        (gettext_noop("KL to the parent"), "kl"),
    ),
    "reward": ((gettext_noop("Loss"), "loss"), (gettext_noop("Accuracy"), "accuracy holdout_accuracy")),
    "policy": (
        (gettext_noop("Reward"), "score reward judge_score"),
        (gettext_noop("KL to the parent"), "kl"),
        (gettext_noop("Entropy"), "entropy"),
        (gettext_noop("Response length"), "response_length"),
    ),
}
FOLDED: dict[str, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = {
    "sft": ((gettext_noop("Optimiser and speed"), ()),),
    "reward": (
        (
            gettext_noop("Losses by kind of rating"),
            ((gettext_noop("Comparisons"), "comparison_loss"), (gettext_noop("Single answers"), "score_loss")),
        ),
        (
            gettext_noop("Held-out prompts"),
            (
                (gettext_noop("Calibration error"), "holdout_calibration_error"),
                (gettext_noop("Order of single answers"), "holdout_concordance"),
                (gettext_noop("Verdicts measured"), "holdout_count"),
            ),
        ),
        (gettext_noop("Optimiser and speed"), ()),
    ),
    "policy": (
        (
            gettext_noop("Responses"),
            (
                (gettext_noop("How responses end"), "end_rate truncated_rate"),
                (gettext_noop("Variety of word pairs"), "distinct_2"),
                (gettext_noop("Prompts that teach nothing"), "flat_groups"),
            ),
        ),
        (
            gettext_noop("Drift"),
            ((gettext_noop("Unbiased KL estimate"), "k3"), (gettext_noop("KL coefficient"), "kl_coefficient")),
        ),
        (
            gettext_noop("Clipping"),
            (
                (gettext_noop("Probability ratio"), "ratio_min ratio_max"),
                (gettext_noop("Clipped"), "clip_fraction value_clip_fraction"),
            ),
        ),
        (
            gettext_noop("Losses"),
            (
                (gettext_noop("Policy loss"), "policy_loss"),
                (gettext_noop("Value loss"), "value_loss"),
                (gettext_noop("Explained variance"), "explained_variance"),
            ),
        ),
        (gettext_noop("Optimiser and speed"), ((gettext_noop("Gradient norm"), "actor_grad_norm critic_grad_norm"),)),
    ),
}
LABELS = {
    "loss": gettext_noop("training"),
    "validation_loss": gettext_noop("held out"),
    "parent_validation_loss": gettext_noop("parent’s"),
    "holdout_accuracy": gettext_noop("held out"),
    "accuracy": gettext_noop("training"),
    "end_rate": gettext_noop("end"),
    "truncated_rate": gettext_noop("cut"),
    "ratio_min": gettext_noop("least"),
    "ratio_max": gettext_noop("most"),
    "clip_fraction": gettext_noop("policy"),
    "value_clip_fraction": gettext_noop("value"),
    "actor_grad_norm": gettext_noop("policy"),
    "critic_grad_norm": gettext_noop("critic"),
    "k3": gettext_noop("k3 estimate"),
    "judge_score": gettext_noop("judge"),
}


def metrics_of(kind: str) -> dict[str, tuple[str, str]]:
    """What a run of this kind may record."""
    return METRICS[kind] | (JUDGE_METRICS | GROUP_METRICS if kind == "policy" else {})


def curve(kind: str, metric: str) -> Curve:
    help, unit = metrics_of(kind)[metric]
    return Curve(metric, LABELS.get(metric, metric.replace("_", " ")), help, unit)


def chart(kind: str, title: str, metrics: str) -> Chart:
    return Chart(title, tuple(curve(kind, metric) for metric in metrics.split()))


def without_judge(metrics: str) -> str:
    """Those of ``metrics`` that a run has which no judge watches."""
    return " ".join(name for name in metrics.split() if name not in JUDGE_METRICS)


def main_charts(kind: str, *, is_judged: bool = True) -> tuple[Chart, ...]:
    """What one looks at first; ``is_judged``: whether a judge scores the run's responses too."""
    named = [(title, metrics if is_judged else without_judge(metrics)) for title, metrics in MAIN[kind]]
    return tuple(chart(kind, title, metrics) for title, metrics in named)


def folded_charts(kind: str, *, is_judged: bool = True) -> tuple[Group, ...]:
    """The rest by group; a metric that no chart names is drawn by itself in the last group, so none is lost."""
    recorded = [name for name in metrics_of(kind) if is_judged or name not in JUDGE_METRICS]
    groups = [Group(title, tuple(chart(kind, *each) for each in charts)) for title, charts in FOLDED[kind]]
    drawn = {one.metric for each in main_charts(kind) for one in each.curves}
    drawn |= {one.metric for group in groups for each in group.charts for one in each.curves}
    rest = [chart(kind, name.replace("_", " ").capitalize(), name) for name in recorded if name not in drawn]
    last = groups[-1]
    return (*groups[:-1], Group(last.title, (*last.charts, *rest)))


def thin(points: Sequence[Sequence[float]], most: int = MOST_POINTS) -> list[Sequence[float]]:
    """At most about ``most`` points, evenly spread, the first and the last kept."""
    if len(points) <= most:
        return list(points)
    stride = -(-len(points) // most)
    kept = list(points[::stride])
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept
