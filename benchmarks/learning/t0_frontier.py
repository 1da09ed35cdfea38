"""T0: PPO on a text whose frontier of reward and KL is known exactly.

The reference draws every id alike; PPO with a fixed KL coefficient must come within 5 % of the best reward - β·KL that
any policy can have, which is calculated for whatever options are given. A policy beyond the frontier would show that
reward or KL is measured wrongly. Best-of-n with the same sampler is held against its exact reward too.

All weights: the gain of the policy's last norm starts at 0, so that the reference is exactly uniform. LoRA: the policy
is first trained on uniform ids until its responses are less than 0.01 nats from uniform, and then only adapters learn.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import log, sqrt
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.learning.frontier import TokenBandit
from benchmarks.learning.harness import Say, Task
from benchmarks.learning.policies import (
    PLAIN_PPO,
    ROWS,
    Fresh,
    draw_fresh,
    improve,
    pretrain_uniform,
    small_palm,
    uniform_palm,
)
from rlhf_core.config import PolicyAlgorithm, PolicyConfig, SamplingConfig
from rlhf_core.errors import ConfigError
from rlhf_core.evaluation import estimate
from rlhf_core.generation.best_of_n import best_of_n
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.seeds import derive_seed
from rlhf_core.training.ppo import PolicyTrainer

UNIFORM_WITHIN = (
    0.01  # nats a response; what is left of them can make the reward - β·KL of a policy look better or worse
)
BEST_OF_WITHIN = 0.02
BEST_OF = (4, 16, 64, 256)
RANK = 8
DIM = 32
HEAD_RATE = 3e-2  # a value head alone is one layer, which bears more


def add_options(parser: argparse.ArgumentParser) -> None:
    default = TokenBandit()
    parser.add_argument("--tokens", type=int, default=default.tokens, help="size of the vocabulary (32)")
    parser.add_argument("--positive", type=int, default=default.positive, help="ids that earn 1 (4)")
    parser.add_argument("--negative", type=int, default=default.negative, help="ids that cost 1 (4)")
    parser.add_argument("--steps", type=int, default=default.steps, help="tokens of a response (16)")
    parser.add_argument("--beta", type=float, default=0.5, help="reward given up for a nat of KL (0.5)")
    parser.add_argument("--lora", action="store_true", help="train adapters of rank 8; without, all weights")
    parser.add_argument(
        "--critic-trunk",
        choices=("own", "policy"),
        default="own",
        help="own: weights of the critic's own; policy: a value head on the policy's states (own)",
    )
    parser.add_argument(
        "--value-loss-coefficient",
        type=float,
        default=0.0,
        help="with --critic-trunk policy: weight of the value loss in what moves the policy (0)",
    )
    parser.add_argument(
        "--algorithm", choices=get_args(PolicyAlgorithm), default="ppo", help="what improves the policy (ppo)"
    )
    parser.add_argument("--group-size", type=int, default=8, help="rloo, grpo: responses that are compared (8)")
    parser.add_argument("--updates", type=int, default=60, help="rounds of PPO, 256 responses each (60)")
    parser.add_argument("--samples", type=int, default=4096, help="fresh responses that it is judged by (4096)")
    parser.add_argument(
        "--best-of", type=int, nargs="*", default=list(BEST_OF), metavar="n", help="best-of-n to check (4 16 64 256)"
    )


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    bandit = TokenBandit(options.tokens, options.positive, options.negative, options.steps)
    best, best_objective = bandit.optimum(options.beta)
    config = ppo_settings(options, best.kl, seed)
    for n in options.best_of:
        bandit.best_of(n)
    if options.samples < 2:
        raise ConfigError("samples", options.samples, "at least 2")

    prompt = [bandit.tokens - 1]

    def score(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        return torch.tensor([bandit.reward(response) for response in responses])

    torch.manual_seed(derive_seed(seed, "initialise"))
    if options.lora:
        palm = small_palm(bandit.tokens, dim=width(options))
        apart = pretrain_uniform(palm, prompt, bandit.steps, limit=UNIFORM_WITHIN, seed=seed, say=say)
    else:
        palm, apart = uniform_palm(bandit.tokens, dim=width(options)), 0.0
    # A critic of adapters on a trunk that has learned only to be uniform foresees little of long responses' returns.
    is_head = config.critic_trunk == "policy"
    model = ActorCritic(
        palm,
        None if is_head else small_palm(bandit.tokens, dim=palm.dim),
        actor_lora=options.lora,
        critic_lora=False,
        actor_lora_r=RANK,
        critic_dim_out=1,
        values_from_policy=is_head,
    )
    chosen = [check_best_of_n(bandit, model, prompt, score, n, seed) for n in options.best_of]
    for row in chosen:
        say(f"best of {row['n']}: reward {row['reward']:.3f}, exactly {row['exact']:.3f}")
    improve(PolicyTrainer(model, [prompt], score, config, None), say)

    fresh = draw_fresh(model, [prompt], score, config, None, options.samples)
    reward, kl, objective = fresh.reward, fresh.kl, fresh.objective(options.beta)
    # A share of a best that is not above 0 means nothing: there it is one of what can be gained over the reference.
    zero = 0.0 if best_objective > 0 else bandit.tilt(0.0).reward
    away = log_probs_above_uniform(reference_of(model), [prompt], fresh)
    at_kl, excess, excess_error = above_frontier(bandit, fresh, away)
    return {
        "objective": objective.value,
        "objective_error": objective.error,
        "best_objective": best_objective,
        "objective_share": (objective.value - zero) / (best_objective - zero),
        "reward": reward.value,
        "reward_error": reward.error,
        "kl": kl.value,
        "kl_error": kl.error,
        "optimum_reward": best.reward,
        "optimum_kl": best.kl,
        "frontier_reward": at_kl,
        "excess": excess,
        "excess_errors": excess / excess_error,
        "reference_nats_from_uniform": apart,
        "best_of": chosen,
        "best_of_off": max((abs(row["off"]) for row in chosen), default=0.0),
    }


def ppo_settings(options: argparse.Namespace, best_kl: float, seed: int) -> PolicyConfig:
    """PPO with a fixed coefficient; the hard cap leaves room for the KL that is wanted here."""
    return replace(
        PLAIN_PPO,
        updates=options.updates,
        max_new_tokens=options.steps,
        learning_rate=0.128 / width(options) if options.lora else 1e-2,
        critic_learning_rate=HEAD_RATE if options.critic_trunk == "policy" else min(3e-3, 0.192 / width(options)),
        kl_coefficient=options.beta,
        kl_hard_cap=max(50.0, 4 * best_kl),
        algorithm=options.algorithm,
        group_size=options.group_size,
        lora_rank=RANK if options.lora else 0,
        critic_trunk=options.critic_trunk,
        value_loss_coefficient=options.value_loss_coefficient,
        seed=seed,
    )


def width(options: argparse.Namespace) -> int:
    """Of the network. Adapters can only use directions that the frozen embeddings tell apart, so they get more."""
    return max(64, min(256, 2 * options.tokens)) if options.lora else DIM


def reference_of(model: ActorCritic) -> PaLM:
    return model.palm if model.reference_palm is None else model.reference_palm


@torch.no_grad()
def log_probs_above_uniform(reference: PaLM, prompts: Sequence[Sequence[int]], fresh: Fresh) -> Tensor:
    """(responses,) log π_ref - log uniform of each response, by a forward pass that shares nothing with the meter.

    Exactly 0 where the reference is uniform; else it turns a KL from the reference into one from uniform.
    """
    (prompt,) = prompts
    found = []
    for part in torch.tensor(fresh.rollout.responses).split(ROWS):
        rows = torch.cat((torch.tensor(prompt).expand(len(part), -1), part), dim=1)
        logits = reference(rows[:, :-1], disable_lora=True)[:, len(prompt) - 1 :].double()
        chosen = logits.log_softmax(dim=-1).gather(2, part[..., None])[..., 0]
        found.append((chosen + log(reference.num_tokens)).sum(dim=1))
    return torch.cat(found)


def above_frontier(bandit: TokenBandit, fresh: Fresh, away: Tensor) -> tuple[float, float, float]:
    """The frontier's reward at the KL that was measured, how far the policy is above it, and that number's error.

    Both reward and KL are estimates: along the frontier a nat is worth its slope there, so the error is that of
    reward - slope · KL. A thousandth of the reward is added for what float32 rounds away near the optimum, where the
    error itself goes to 0.
    """
    from_uniform = fresh.kls + away
    at_kl, slope = bandit.at_kl(max(0.0, float(from_uniform.mean())))
    excess = float(fresh.scores.mean()) - at_kl.reward
    error = float((fresh.scores - slope * from_uniform).std()) / sqrt(len(fresh.scores))
    return at_kl.reward, excess, error + 1e-3 * abs(at_kl.reward)


def check_best_of_n(
    bandit: TokenBandit, model: ActorCritic, prompt: list[int], score: Any, n: int, seed: int
) -> dict[str, Any]:
    """The sampler's best-of-n by the untrained policy beside the exact one; ``off`` is the share that is missing.

    Shares are of what is to be gained over the reference. As many choices are made as bring the standard error below a
    quarter of the 2 % that are permitted.
    """
    exact, reference = bandit.best_of(n), bandit.tilt(0.0).reward
    rewards: list[float] = []
    while len(rewards) < 64 or standard_error(rewards) > (exact.reward - reference) * BEST_OF_WITHIN / 4:
        count = max(64, ROWS // n)
        chosen = best_of_n(
            model.palm,
            [prompt] * count,
            score,
            samples=n,
            sampling=SamplingConfig(max_new_tokens=bandit.steps),
            end_id=None,
            seeds=[derive_seed(seed, "best", n, len(rewards), row) for row in range(count * n)],
            rows=ROWS,
        )
        rewards += [one.score for one in chosen]
    mean = estimate(rewards)
    return {
        "n": n,
        "choices": len(rewards),
        "reward": mean.value,
        "error": mean.error,
        "exact": exact.reward,
        "off": (mean.value - exact.reward) / (exact.reward - reference),
        "kl": exact.kl,
        "kl_bound": exact.kl_bound,
    }


def standard_error(values: Sequence[float]) -> float:
    error = estimate(values).error
    return float("inf") if error is None else error


TASK = Task(
    name="T0",
    words="PPO against the exact frontier of reward and KL: 32 tokens, 16 steps, 4 liked and 4 disliked ids",
    add_options=add_options,
    measure=measure,
    columns=("objective_share", "objective", "reward", "kl", "kl_error", "excess_errors", "best_of_off"),
)
