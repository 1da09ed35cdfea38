"""T5: learning when to stop.

A response earns 1 if it ends by itself with 4 to 8 tokens, its end token counted, and 0 otherwise: too early, too late
or never are all wrong. Prompts of 1 to 12 tokens take turns in the same batches, so a policy that counts from the
batch's edge instead of from its own prompt stops at the wrong place. At first each token is the end with a probability
of about one in the size of the vocabulary.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.harness import Say, Task
from benchmarks.learning.policies import PLAIN_PPO, draw_fresh, improve, small_palm
from rlhf_core.errors import ConfigError
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.ppo import PolicyTrainer

TOKENS, END, START = 16, 0, 1
DIM = 32
PROMPTS_OF_A_LENGTH = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shortest", type=int, default=4, help="tokens of the shortest response that earns 1 (4)")
    parser.add_argument("--longest", type=int, default=8, help="tokens of the longest (8)")
    parser.add_argument("--limit", type=int, default=16, help="tokens at which a response is cut (16)")
    parser.add_argument(
        "--prompt-tokens", type=int, default=12, help="tokens of the longest prompt; the shortest has 1 (12)"
    )
    parser.add_argument("--updates", type=int, default=60, help="rounds of PPO, 192 responses each (60)")
    parser.add_argument("--samples", type=int, default=2304, help="fresh responses that it is judged by (2304)")


def measure(options: argparse.Namespace, seed: int, say: Say) -> dict[str, Any]:
    if not 1 <= options.shortest <= options.longest:
        raise ConfigError("shortest", options.shortest, f"at least 1 and at most longest = {options.longest}")
    if options.longest > options.limit:
        raise ConfigError("longest", options.longest, f"at most limit = {options.limit}")
    if options.prompt_tokens < 1:
        raise ConfigError("prompt_tokens", options.prompt_tokens, "at least 1")
    if options.samples < options.prompt_tokens * PROMPTS_OF_A_LENGTH:
        raise ConfigError("samples", options.samples, f"at least {options.prompt_tokens * PROMPTS_OF_A_LENGTH}")
    config = replace(
        PLAIN_PPO,
        updates=options.updates,
        rollout_batch_size=192,
        max_new_tokens=options.limit,
        learning_rate=3e-3,
        seed=seed,
    )
    prompts = draw_prompts(options.prompt_tokens, seed)

    def score(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        return torch.tensor([float(is_right(response, options)) for response in responses])

    torch.manual_seed(derive_seed(seed, "initialise"))
    palm, critic = small_palm(TOKENS, dim=DIM), small_palm(TOKENS, dim=DIM)
    model = ActorCritic(palm, critic, actor_lora=False, critic_lora=False, critic_dim_out=1)
    before = draw_fresh(model, prompts, score, config, END, options.samples)
    improve(PolicyTrainer(model, prompts, score, config, END), say)

    fresh = draw_fresh(model, prompts, score, config, END, options.samples)
    ended, lengths = fresh.rollout.ended.double(), fresh.rollout.mask.sum(dim=1).double()
    prompt_lengths = torch.tensor([len(prompt) for prompt in fresh.rollout.prompts])
    rates = {length: float(ended[prompt_lengths == length].mean()) for length in sorted(set(prompt_lengths.tolist()))}
    return {
        "end_rate": float(ended.mean()),
        "end_rate_at_first": float(before.rollout.ended.double().mean()),
        "end_rate_of_worst_prompt_length": min(rates.values()),
        "reward": fresh.reward.value,
        "reward_error": fresh.reward.error,
        "reward_at_first": before.reward.value,
        "length": float(lengths.mean()),
        "kl": fresh.kl.value,
        "end_rate_by_prompt_length": rates,
    }


def is_right(response: list[int], options: argparse.Namespace) -> bool:
    """Whether a response ends by itself, in time."""
    return response[-1] == END and options.shortest <= len(response) <= options.longest


def draw_prompts(longest: int, seed: int) -> list[list[int]]:
    """Some prompts of every length, of ids that are neither the start nor the end, after the start."""
    generator = derive_generator(seed, "prompts of the task")
    return [
        [START, *torch.randint(2, TOKENS, (length - 1,), generator=generator).tolist()]
        for length in range(1, longest + 1)
        for _ in range(PROMPTS_OF_A_LENGTH)
    ]


TASK = Task(
    name="T5",
    words="PPO learns to stop: 1 for a reply of 4 to 8 tokens with its end, after prompts of 1 to 12 tokens",
    add_options=add_options,
    measure=measure,
    columns=("end_rate", "end_rate_of_worst_prompt_length", "reward", "length", "end_rate_at_first", "reward_at_first"),
)
