"""Which curves a run's page draws and in what order. Help text and unit of a metric come from rlhf_core.config."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_core.config import JUDGE_METRICS, METRICS

MOST_POINTS = 600  # of one curve; a screen shows no more
AXIS_UNITS = {"reward": "reward-model units", "share": "%", "reward/nat": "units per nat", "nats/response": "nats"}


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
    def unit(self) -> str:
        return self.curves[0].unit

    @property
    def axis(self) -> str:
        """What stands along the upright axis: the unit, or the title where there is none."""
        return AXIS_UNITS.get(self.unit, self.unit) or self.title.lower()

    @property
    def canvas_unit(self) -> str:
        """How the script writes values: shares in percent."""
        return "%" if self.unit == "share" else self.unit

    @property
    def metrics(self) -> str:
        return " ".join(curve.metric for curve in self.curves)

    @property
    def labels(self) -> str:
        return "|".join(curve.label for curve in self.curves)

    @property
    def help(self) -> str:
        if len(self.curves) == 1:
            return self.curves[0].help
        return "; ".join(f"{curve.label}: {curve.help}" for curve in self.curves)


@dataclass(frozen=True)
class Group:
    """Charts that are folded away under one heading."""

    title: str
    charts: tuple[Chart, ...]


WATCH = Chart(
    "Score by KL",
    (
        Curve("watched_score", "score", "what the policy learns to please", "reward"),
        Curve("watched_judge_score", "judge", "the same answers, scored by a model of the other half", "reward"),
        Curve("watched_law", "law", "d·(α − β·ln d), d = √KL, fitted to the judge’s score", "reward"),
    ),
    by="watched_kl",
)
"""Over-optimisation, as Gao et al. 2022 draw it: against the square root of the KL; means over some updates."""
MAIN: dict[str, tuple[tuple[str, str], ...]] = {
    "sft": (("Loss", "loss validation_loss parent_validation_loss"), ("KL to the parent", "kl")),
    "reward": (("Loss", "loss"), ("Accuracy", "accuracy holdout_accuracy")),
    "policy": (
        ("Reward", "score reward judge_score"),
        ("KL to the parent", "kl"),
        ("Entropy", "entropy"),
        ("Response length", "response_length"),
    ),
}
FOLDED: dict[str, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = {
    "sft": (("Optimiser and speed", ()),),
    "reward": (
        ("Losses by kind of rating", (("Comparisons", "comparison_loss"), ("Single answers", "score_loss"))),
        (
            "Held-out prompts",
            (
                ("Calibration error", "holdout_calibration_error"),
                ("Order of single answers", "holdout_concordance"),
                ("Verdicts measured", "holdout_count"),
            ),
        ),
        ("Optimiser and speed", ()),
    ),
    "policy": (
        (
            "Responses",
            (("How responses end", "end_rate truncated_rate"), ("Variety of word pairs", "distinct_2")),
        ),
        ("Drift", (("Unbiased KL estimate", "k3"), ("KL coefficient", "kl_coefficient"))),
        (
            "Clipping",
            (
                ("Probability ratio", "ratio_min ratio_max"),
                ("Clipped", "clip_fraction value_clip_fraction"),
            ),
        ),
        (
            "Losses",
            (
                ("Policy loss", "policy_loss"),
                ("Value loss", "value_loss"),
                ("Explained variance", "explained_variance"),
            ),
        ),
        ("Optimiser and speed", (("Gradient norm", "actor_grad_norm critic_grad_norm"),)),
    ),
}
LABELS = {
    "loss": "training",
    "validation_loss": "held out",
    "parent_validation_loss": "parent’s",
    "holdout_accuracy": "held out",
    "accuracy": "training",
    "end_rate": "end",
    "truncated_rate": "cut",
    "ratio_min": "least",
    "ratio_max": "most",
    "clip_fraction": "policy",
    "value_clip_fraction": "value",
    "actor_grad_norm": "policy",
    "critic_grad_norm": "critic",
    "k3": "k3 estimate",
    "judge_score": "judge",
}


def metrics_of(kind: str) -> dict[str, tuple[str, str]]:
    """What a run of this kind may record."""
    return METRICS[kind] | (JUDGE_METRICS if kind == "policy" else {})


def curve(kind: str, metric: str) -> Curve:
    help, unit = metrics_of(kind)[metric]
    return Curve(metric, LABELS.get(metric, metric.replace("_", " ")), help, unit)


def chart(kind: str, title: str, metrics: str) -> Chart:
    return Chart(title, tuple(curve(kind, metric) for metric in metrics.split()))


def main_charts(kind: str) -> tuple[Chart, ...]:
    """What one looks at first."""
    return tuple(chart(kind, title, metrics) for title, metrics in MAIN[kind])


def folded_charts(kind: str) -> tuple[Group, ...]:
    """The rest by group; a metric that no chart names is drawn by itself in the last group, so none is lost."""
    groups = [Group(title, tuple(chart(kind, *each) for each in charts)) for title, charts in FOLDED[kind]]
    drawn = {one.metric for each in main_charts(kind) for one in each.curves}
    drawn |= {one.metric for group in groups for each in group.charts for one in each.curves}
    rest = [chart(kind, name.replace("_", " ").capitalize(), name) for name in metrics_of(kind) if name not in drawn]
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
