"""What the tests of policy runs share: rounds that take milliseconds, and a score that a policy can learn to please."""

from typing import Any

import torch
from torch import Tensor

SMALL_ROUNDS: dict[str, Any] = dict(
    updates=4,
    rollout_batch_size=8,
    minibatch_size=4,
    ppo_epochs=2,
    max_new_tokens=8,
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    critic_warmup_updates=0,
)


def even_tokens(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
    """The share of even tokens in each response."""
    return torch.tensor([sum(token % 2 == 0 for token in response) / len(response) for response in responses])
