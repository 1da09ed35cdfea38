"""T1C: what a rater's click teaches a reward model: pairs drawn at random, pairs that it is least sure of, and ratings.

T0's text and T1's raters and model, one network. At random, ever more pairs are drawn; chosen, the model that has
learned from the pairs so far takes the next from a pool of unjudged ones, those whose verdicts would tell it most
(``rlhf_core.training.posterior.most_telling``). How many clicks does each need before the model agrees with the true
order as often as wanted? Labels-to-target is on the straight line between neighbouring numbers of clicks.

Beside it, ratings of 1 to 5 with the ordinal head at the same numbers of clicks: a rater adds noise to the true reward
of each response (Gumbel's, of which the difference of two is Bradley-Terry's) and gives each rating equally often.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.frontier import TokenBandit
from benchmarks.learning.harness import Say, Task
from benchmarks.learning.reward_models import Pairs, agreement_with, draw_pairs, sequences_of, values_of
from benchmarks.learning.t1_reward_model import train, worth
from rlhf_core.errors import ConfigError
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Feedback, ScoredResponse
from rlhf_core.seeds import derive_generator
from rlhf_core.training.posterior import fit_posterior, most_telling

RATINGS = 5
SCALE_SAMPLE = 100_000  # responses by which a rater's scale is set


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", type=float, default=0.9, help="share of pairs in their true order (0.9)")
    parser.add_argument("--start", type=int, default=50, help="random pairs before the first choice (50)")
    parser.add_argument("--step", type=int, default=25, help="pairs a choice (25)")
    parser.add_argument("--most", type=int, default=350, help="clicks at most (350)")
    parser.add_argument("--pool", type=int, default=2000, help="unjudged pairs to choose from (2000)")
    parser.add_argument(
        "--ratings", type=int, nargs="*", default=[100, 200, 400], metavar="n", help="clicks as ratings (100 200 400)"
    )
    parser.add_argument("--test-pairs", type=int, default=10_000, help="fresh pairs that accuracy is over (10000)")


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    for name, least in (("start", 2), ("step", 1), ("most", options.start), ("pool", options.most), ("test_pairs", 2)):
        if getattr(options, name) < least:
            raise ConfigError(name, getattr(options, name), f"at least {least}")
    if not 0.5 < options.target < 1:
        raise ConfigError("target", options.target, "above 0.5 and below 1")
    if any(clicks < 10 for clicks in options.ratings):
        raise ConfigError("ratings", options.ratings, "at least 10 each")
    bandit, prompt = TokenBandit(), [TokenBandit().tokens - 1]

    def pairs_of(count: int, name: str) -> Pairs:
        generator = derive_generator(seed, name)
        return draw_pairs(lambda ids: worth(bandit, ids), bandit.tokens, bandit.steps, count, generator)

    training, pool = pairs_of(max(options.most, *options.ratings, 2), "labels"), pairs_of(options.pool, "pool")
    testing = pairs_of(options.test_pairs, "test")

    def accuracy_of(model: RewardModel) -> float:
        first, second = (values_of(model, prompt, ids) for ids in (testing.first, testing.second))
        return agreement_with(testing, first - second)

    steps = range(options.start, options.most + 1, options.step)
    by_chance: list[tuple[int, float]] = []
    for clicks in steps:
        by_chance.append((clicks, accuracy_of(train(training.rows(clicks).comparisons(prompt), seed))))
        if by_chance[-1][1] >= options.target:
            break
    say(f"at random: {' '.join(f'{clicks} {found:.3f}' for clicks, found in by_chance)}")

    judged: list[Feedback] = list(training.rows(options.start).comparisons(prompt))
    unjudged, answers = list(range(options.pool)), pool.comparisons(prompt)
    chosen = by_chance[:1]
    while chosen[-1][1] < options.target and len(judged) + options.step <= options.most:
        model = train(judged, seed)
        fit_posterior(model, judged)
        first, second = (sequences_of(prompt, ids[unjudged]) for ids in (pool.first, pool.second))
        taken = [unjudged[place] for place in most_telling(model, first, second, options.step)]
        judged += [answers[row] for row in taken]
        unjudged = [row for row in unjudged if row not in set(taken)]
        chosen.append((len(judged), accuracy_of(train(judged, seed))))
    say(f"chosen: {' '.join(f'{clicks} {found:.3f}' for clicks, found in chosen)}")

    rated = {}
    for clicks in sorted(set(options.ratings)):
        ratings = rate(bandit, prompt, training.first[:clicks], derive_generator(seed, "ratings"))
        rated[clicks] = {
            "ratings": accuracy_of(train(ratings, seed, head="ordinal")),
            "pairs": accuracy_of(train(training.rows(clicks).comparisons(prompt), seed)),
        }
        say(f"{clicks} clicks: ratings {rated[clicks]['ratings']:.3f}, pairs {rated[clicks]['pairs']:.3f}")
    random_clicks, chosen_clicks = (clicks_to(options.target, curve) for curve in (by_chance, chosen))
    return {
        "random_clicks": random_clicks,
        "chosen_clicks": chosen_clicks,
        "chosen_share": chosen_clicks / random_clicks,
        "random": by_chance,
        "chosen": chosen,
        "rated": rated,
        **{f"ratings_less_pairs_{clicks}": one["ratings"] - one["pairs"] for clicks, one in rated.items()},
    }


def rate(bandit: TokenBandit, prompt: list[int], responses: Tensor, generator: torch.Generator) -> list[ScoredResponse]:
    """Ratings of 1 to 5 by a rater who gives each to a fifth of the uniform responses."""
    sample = torch.randint(bandit.tokens, (SCALE_SAMPLE, bandit.steps), generator=generator)
    felt, known = (worth(bandit, ids) + gumbel(len(ids), generator) for ids in (responses, sample))
    borders = torch.quantile(known, torch.arange(1, RATINGS) / RATINGS)
    scores = (felt[:, None] > borders).sum(dim=1) + 1
    return [
        ScoredResponse("", tuple(prompt), tuple(response), score)
        for response, score in zip(responses.tolist(), scores.tolist(), strict=True)
    ]


def gumbel(count: int, generator: torch.Generator) -> Tensor:
    """(count,) draws of the standard Gumbel distribution."""
    return -torch.log(-torch.log(torch.rand(count, generator=generator).clamp(min=1e-12)))


def clicks_to(target: float, curve: Sequence[tuple[int, float]]) -> float:
    """The clicks at which a curve first reaches the target, between its points on a straight line; else its last."""
    for (before, low), (after, high) in zip(curve, curve[1:], strict=False):
        if low < target <= high:
            return before + (after - before) * (target - low) / (high - low)
    return float(curve[0][0] if curve[0][1] >= target else curve[-1][0])


TASK = Task(
    name="T1C",
    words="what a rater's click teaches: random pairs, pairs that the model chooses, ratings of 1 to 5",
    add_options=add_options,
    measure=measure,
    columns=("random_clicks", "chosen_clicks", "chosen_share"),
)
