"""T2: over-optimisation, with its turn.

The true reward saturates and its proxy does not (``overoptimisation.py``). PPO without a KL penalty against a linear
proxy must show the turn: the proxy rises all the way, the true reward rises to a peak and falls. Beside it stand the
exactly tilted policies of the same proxy, best-of-n by it, the curves R = d·(α - β·ln d) and d·(α - β·d) fitted to
both (d = √KL), and a gate: of every tenth policy and the one it last let through, simulated raters compare 400 pairs,
and it lets through only what wins them beyond the 95 % interval.

Then PPO against one of our reward models, trained on the same labels, and against an ensemble, by its worst member and
by mean - weight · variance: the true reward of each is compared at the same KL.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.learning.frontier import TokenBandit
from benchmarks.learning.harness import Say, Task
from benchmarks.learning.overoptimisation import (
    Tilt,
    best_of_n_curve,
    expected_true_reward,
    tilt_at_kl,
    true_rewards,
)
from benchmarks.learning.policies import PLAIN_PPO, small_palm, uniform_palm
from benchmarks.learning.reward_models import (
    draw_pairs,
    fit_linear,
    sequences_of,
    token_counts,
    train_reward_model,
    values_of,
)
from benchmarks.learning.t1_reward_model import (
    DIM,
    DROPOUT,
    TRUNK_STD,
    WEIGHT_VARIANCE,
    settings,
)
from rlhf_core.config import EnsembleScoring, RewardConfig
from rlhf_core.errors import ConfigError
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.ppo import PolicyTrainer
from webapp.runs.law import Law, fit_law

EXACT_LABELS = (50, 200, 1000, 5000)
EXACT_KLS = (0.25, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
BEST_OF = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
POOL = 2**17
LAST_KL = 30.0  # nats at which a run has gone far enough
COMPARED_AT = 16.0  # nats
WINDOW = 5  # rounds that a point of a curve is the mean of
GATE_EVERY, GATE_PAIRS = 10, 400
WAYS: tuple[EnsembleScoring, ...] = ("worst", "mean-variance")  # in which members' scores become one


class Round(NamedTuple):
    """One round of PPO: nats from the reference, mean proxy and true reward of its responses, and theirs one by one."""

    kl: float
    proxy: float
    true: float
    each_true: Tensor


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", type=int, default=200, help="comparisons that proxies are fitted to (200)")
    parser.add_argument("--members", type=int, default=4, help="members of the ensemble (4)")
    weight = RewardConfig().ensemble_penalty
    parser.add_argument(
        "--variance-weight", type=float, default=weight, help=f"of mean - weight · variance (the library's, {weight:g})"
    )
    parser.add_argument("--updates", type=int, default=240, help="rounds of PPO at most, 256 responses each (240)")


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    if not 2 <= options.labels <= max(EXACT_LABELS):
        raise ConfigError("labels", options.labels, f"2 to {max(EXACT_LABELS)}")
    if options.members < 2:
        raise ConfigError("members", options.members, "at least 2")
    if options.updates < WINDOW:
        raise ConfigError("updates", options.updates, f"at least {WINDOW}")
    bandit, prompt = TokenBandit(), [TokenBandit().tokens - 1]
    pairs = draw_pairs(
        lambda ids: true_rewards(bandit, ids),
        bandit.tokens,
        bandit.steps,
        max(EXACT_LABELS),
        derive_generator(seed, "labels"),
    )
    exact = {
        labels: [
            tilt_at_kl(bandit, fit_linear(pairs.rows(labels), bandit.tokens, variance=WEIGHT_VARIANCE), kl)._asdict()
            for kl in EXACT_KLS
        ]
        for labels in EXACT_LABELS
    }
    reference = expected_true_reward(bandit, torch.full((bandit.tokens,), 1 / bandit.tokens, dtype=torch.float64))

    weights = fit_linear(pairs.rows(options.labels), bandit.tokens, variance=WEIGHT_VARIANCE)
    rounds = run_ppo(bandit, prompt, lambda ids: token_counts(ids, bandit.tokens) @ weights, options, seed, "linear")
    curve = smooth(rounds)
    peak = max(curve, key=lambda point: point.true)
    finest = max((tilt_at_kl(bandit, weights, kl / 4) for kl in range(1, 121)), key=lambda point: point.true)
    say(f"linear proxy: true reward {peak.true:.2f} at KL {peak.kl:.1f}, {curve[-1].true:.2f} at {curve[-1].kl:.1f}")
    gated = let_through(rounds, derive_generator(seed, "gate"))
    pool = torch.randint(bandit.tokens, (POOL, bandit.steps), generator=derive_generator(seed, "pool"))
    chosen = best_of_n_curve(true_rewards(bandit, pool), token_counts(pool, bandit.tokens) @ weights, BEST_OF)
    found: dict[str, Any] = {
        "reference_true": reference,
        "peak_true": peak.true,
        "peak_kl": peak.kl,
        "last_true": curve[-1].true,
        "last_kl": curve[-1].kl,
        "fall": (peak.true - curve[-1].true) / (peak.true - reference),
        "proxy_at_peak": peak.proxy,
        "proxy_at_last": curve[-1].proxy,
        "proxy_rise": curve[-1].proxy - peak.proxy,
        "exact_peak_true": finest.true,
        "exact_peak_kl": finest.kl,
        "peak_share": (peak.true - reference) / (finest.true - reference),
        "gate_true": gated.true,
        "gate_kl": gated.kl,
        "gate_share": (gated.true - reference) / (peak.true - reference),
        "fit_rl": told(fit_law([p.kl for p in curve], [p.true - reference for p in curve])),
        "fit_best_of_n": told(
            fit_law([p.kl for p in chosen], [p.true - reference for p in chosen], is_logarithmic=False)
        ),
        "curve": [point._asdict() for point in curve],
        "best_of_n": [point._asdict() for point in chosen],
        "exact": exact,
    }
    found |= compare_ensemble(bandit, prompt, pairs.rows(options.labels).comparisons(prompt), options, seed, say)
    return found


def run_ppo(
    bandit: TokenBandit,
    prompt: list[int],
    proxy: Callable[[Tensor], Tensor],
    options: argparse.Namespace,
    seed: int,
    name: str,
) -> list[Round]:
    """PPO on a proxy alone, from the uniform policy, until it is far away."""
    config = replace(
        PLAIN_PPO,
        updates=options.updates,
        max_new_tokens=bandit.steps,
        learning_rate=1e-3,  # small: a curve needs many points on its way
        seed=seed,
    )
    torch.manual_seed(derive_seed(seed, "policy", name))
    palm, critic = (make(bandit.tokens, dim=32) for make in (uniform_palm, small_palm))
    model = ActorCritic(palm, critic, actor_lora=False, critic_lora=False, critic_dim_out=1)
    drawn: list[Tensor] = []

    def score(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        drawn.append(torch.tensor(responses))
        return proxy(drawn[-1])

    trainer = PolicyTrainer(model, [prompt], score, config, None)
    rounds: list[Round] = []
    for index in range(options.updates):
        found = trainer.update(index, remaining=1.0)
        true = true_rewards(bandit, drawn[-1])
        rounds.append(Round(found["kl"], found["score"], float(true.mean()), true))
        if index >= WINDOW and found["kl"] > LAST_KL:
            break
    return rounds


def smooth(rounds: Sequence[Round]) -> list[Tilt]:
    """Means over a few rounds in a row."""
    windows = [rounds[at : at + WINDOW] for at in range(len(rounds) - WINDOW + 1)]
    return [
        Tilt(*(sum(getattr(one, name) for one in window) / WINDOW for name in ("kl", "true", "proxy")))
        for window in windows
    ]


def let_through(rounds: Sequence[Round], generator: torch.Generator) -> Round:
    """The last policy that the gate lets through; raters label pairs by Bradley-Terry on the true reward."""
    serving = rounds[0]
    for candidate in rounds[GATE_EVERY::GATE_EVERY]:
        ours, theirs = (
            one.each_true[torch.randint(len(one.each_true), (GATE_PAIRS,), generator=generator)]
            for one in (candidate, serving)
        )
        wins = torch.rand(GATE_PAIRS, generator=generator, dtype=torch.float64) < torch.sigmoid(ours - theirs)
        share = float(wins.double().mean())
        if share - 1.96 * sqrt(share * (1 - share) / GATE_PAIRS) > 0.5:
            serving = candidate
    return serving


def compare_ensemble(
    bandit: TokenBandit,
    prompt: list[int],
    labels: Sequence[Comparison],
    options: argparse.Namespace,
    seed: int,
    say: Say,
) -> dict[str, Any]:
    """True reward at the same KL of policies taught by one reward model and by several together."""
    single = train(bandit, prompt, labels, 1, seed)
    ensemble = train(bandit, prompt, labels, options.members, seed)
    normal = torch.randint(bandit.tokens, (1024, bandit.steps), generator=derive_generator(seed, "normalise"))

    def follow(model: RewardModel) -> list[Tilt]:
        model.normalise(sequences_of(prompt, normal))  # scores of mean 0 and deviation 1 at the uniform policy
        return smooth(run_ppo(bandit, prompt, lambda ids: values_of(model, prompt, ids), options, seed, "network"))

    curves = {"single": follow(single)}
    for way in WAYS:
        ensemble.ensemble_scoring, ensemble.ensemble_penalty = way, options.variance_weight
        curves[way] = follow(ensemble)
    true = {name: at_kl(curve, COMPARED_AT) for name, curve in curves.items()}
    say(f"reward models at KL {COMPARED_AT:g}: {', '.join(f'{name} {value:.2f}' for name, value in true.items())}")
    return {
        "network_true": true,
        "ensemble_gain": max(true[way] for way in WAYS) - true["single"],
        "ensemble_gains": {way: true[way] - true["single"] for way in WAYS},
        "network_curves": {name: [point._asdict() for point in curve] for name, curve in curves.items()},
    }


def train(bandit: TokenBandit, prompt: list[int], labels: Sequence[Comparison], members: int, seed: int) -> RewardModel:
    """A reward model of one trunk, whose weights all learn, with so many heads."""
    torch.manual_seed(derive_seed(seed, "trunk"))
    palm = small_palm(bandit.tokens, dim=DIM, embedding_std=TRUNK_STD)
    config = replace(settings(len(labels), seed), ensemble=members, ensemble_members="heads")
    return train_reward_model(palm, labels, config, dropout=DROPOUT)


def told(law: Law | None) -> dict[str, Any] | None:
    """A fitted law as JSON; None where the points left it open."""
    return None if law is None else {**asdict(law), "peak_kl": law.peak_kl}


def at_kl(curve: Sequence[Tilt], kl: float) -> float:
    """The true reward where a curve first passes a KL, on the straight line between its neighbours; else its end."""
    for before, after in zip(curve, curve[1:], strict=False):
        if before.kl <= kl < after.kl:
            return before.true + (after.true - before.true) * (kl - before.kl) / (after.kl - before.kl)
    return curve[-1].true


TASK = Task(
    name="T2",
    words="over-optimisation: a true reward that turns while its proxy rises, the gate, and ensembles",
    add_options=add_options,
    measure=measure,
    columns=("peak_true", "peak_kl", "last_true", "last_kl", "peak_share", "gate_share", "ensemble_gain"),
)
