"""How many ratings there are, by where they come from, as the admin's pages say it."""

from dataclasses import dataclass

from webapp.quality.models import Dataset
from webapp.quality.selectors import RatingCounts
from webapp.registry.models import Checkpoint


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


def holdout_count(reward_model: Checkpoint | None) -> int:
    """Comparisons that a reward model's accuracy was measured on."""
    return int(reward_model.metrics.get("holdout_count") or 0) if reward_model else 0
