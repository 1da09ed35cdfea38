"""What a round of PPO, RLOO or GRPO learns from its rollout, and the tally of the optimiser steps that it has taken."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf_core.advantages import estimate_advantages, estimate_returns, explained_variance
from rlhf_core.buffer import Rollout
from rlhf_core.config import PolicyConfig
from rlhf_core.errors import TrainingDiverged
from rlhf_core.kl import k1, k3, penalised_rewards, sequence_kl
from rlhf_core.masking import masked_whiten


@dataclass(frozen=True)
class Lessons:
    """What a rollout teaches; tensors are (responses, longest).

    Attributes:
        loss_coefficient: β of a KL penalty that stands in the loss; 0 where it stands in the rewards.
        flat_groups: share of the groups whose responses all scored alike: their scores teach nothing.
    """

    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    kl: float
    k3: float
    explained_variance: float
    loss_coefficient: float = 0.0
    flat_groups: float = 0.0


def drift_of(rollout: Rollout, config: PolicyConfig) -> tuple[float, float]:
    """Nats a response between the policy and its parent, by k1 and by k3.

    Raises:
        TrainingDiverged: the KL is not finite, or above ``kl_hard_cap``.
    """
    kl = float(sequence_kl(k1(rollout.log_probs, rollout.reference_log_probs), rollout.mask))
    if not math.isfinite(kl) or kl > config.kl_hard_cap:
        raise TrainingDiverged(
            f"the policy is {kl:.3g} nats a response from its parent; the cap is {config.kl_hard_cap:g}. "
            "Try a lower learning rate or a higher KL coefficient"
        )
    return kl, float(sequence_kl(k3(rollout.log_probs, rollout.reference_log_probs), rollout.mask))


@torch.no_grad()
def derive_lessons(rollout: Rollout, config: PolicyConfig, coefficient: float) -> Lessons:
    """Rewards per token, advantages and returns.

    Args:
        coefficient: β, the reward that a nat of KL costs in this round.

    Raises:
        TrainingDiverged: the KL to the parent is not finite, or above ``kl_hard_cap``.
    """
    mask = rollout.mask
    kl, always_positive_kl = drift_of(rollout, config)
    rewards = penalised_rewards(
        rollout.scores - config.missing_end_penalty * (~rollout.ended).float(),
        rollout.log_probs,
        rollout.reference_log_probs,
        mask,
        coefficient=coefficient,
    )
    taught = masked_whiten(rewards, mask, center=False) if config.whiten_rewards else rewards
    advantages = estimate_advantages(taught, rollout.values, mask, gamma=config.gamma, lam=config.gae_lambda)
    returns = estimate_returns(advantages, rollout.values, mask)
    return Lessons(
        rewards=rewards,
        advantages=masked_whiten(advantages, mask),
        returns=returns,
        kl=kl,
        k3=always_positive_kl,
        explained_variance=explained_variance(rollout.values, returns, mask),
    )


@dataclass
class Tally:
    """What the optimiser steps of an unfinished round have shown so far; as JSON it is part of the resume state.

    Attributes:
        steps: that were taken.
        seconds: that they and the drawing took, earlier attempts of a resumed run included.
        sums: of each metric over the steps.
        lowest, highest: of each metric over the steps.
    """

    steps: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count one step."""
        self.steps += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.lowest[name] = min(self.lowest.get(name, value), value)
            self.highest[name] = max(self.highest.get(name, value), value)

    def means(self) -> dict[str, float]:
        """The mean of each metric over the steps."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values that ``Tally(**values)`` takes back."""
        return asdict(self)
