"""What a round teaches without a critic: each response beside the others to its prompt (docs/algorithms/rloo.md)."""

import torch
from torch import Tensor

from rlhf_core.advantages import Baseline, are_flat, group_advantages
from rlhf_core.buffer import Rollout
from rlhf_core.config import PolicyConfig
from rlhf_core.kl import k1, penalised_rewards
from rlhf_core.losses import Aggregation
from rlhf_core.training.lessons import Lessons, drift_of


def baseline_of(config: PolicyConfig) -> Baseline:
    """What a response's score is compared with."""
    if config.algorithm == "rloo":
        return "leave-one-out"
    return "mean-deviation" if config.group_scaling == "deviation" else "mean"


def aggregation_of(config: PolicyConfig) -> Aggregation:
    """How the losses of tokens become one: GRPO averages each response first, RLOO and Dr. GRPO weigh tokens alike."""
    if config.algorithm == "ppo":
        return "token-mean"
    return "sequence-mean" if config.algorithm == "grpo" and config.group_scaling == "deviation" else "fixed-length"


@torch.no_grad()
def derive_group_lessons(rollout: Rollout, config: PolicyConfig, coefficient: float) -> Lessons:
    """Advantages of whole responses, the same at each of their tokens; there are no values and no returns.

    RLOO takes the KL penalty off the score before it compares, GRPO puts it into the loss.

    Args:
        rollout: the responses to one prompt side by side, ``config.group_size`` of them.
        coefficient: β, the reward that a nat of KL costs in this round.

    Raises:
        TrainingDiverged: the KL to the parent is not finite, or above ``kl_hard_cap``.

    Source: Ahmadian et al. 2024, section 3, https://arxiv.org/abs/2402.14740 (RLOO); Shao et al. 2024, equations 3 and
        4, https://arxiv.org/abs/2402.03300 (GRPO); Liu et al. 2025, https://arxiv.org/abs/2503.20783 (Dr. GRPO)
    """
    kl, always_positive_kl = drift_of(rollout, config)
    in_reward = coefficient if config.algorithm == "rloo" else 0.0
    scores = rollout.scores - config.missing_end_penalty * (~rollout.ended).float()
    drift = torch.where(rollout.mask, k1(rollout.log_probs, rollout.reference_log_probs), 0.0).sum(dim=1)
    advantages = group_advantages(scores - in_reward * drift, config.group_size, baseline_of(config))
    nothing = torch.zeros_like(rollout.log_probs)
    return Lessons(
        rewards=penalised_rewards(
            scores, rollout.log_probs, rollout.reference_log_probs, rollout.mask, coefficient=in_reward
        ),
        advantages=torch.where(rollout.mask, advantages[:, None], 0.0),
        returns=nothing,
        kl=kl,
        k3=always_positive_kl,
        explained_variance=0.0,
        loss_coefficient=0.0 if config.algorithm == "rloo" else coefficient,
        flat_groups=float(are_flat(scores, config.group_size).float().mean()),
    )


def token_weights(counted: Tensor, config: PolicyConfig) -> Tensor | None:
    """(rows, longest): by what each token's loss in a minibatch is multiplied before the mean over its tokens.

    Args:
        counted: (rows, longest) bool, the tokens of the whole minibatch that are learned from.

    Returns:
        None where all weigh alike and the mean is that of the tokens.
    """
    aggregation = aggregation_of(config)
    if aggregation == "token-mean":
        return None
    lengths = counted.sum(dim=1, keepdim=True)
    rows = (lengths > 0).sum().clamp(min=1)
    each = lengths.clamp(min=1) if aggregation == "sequence-mean" else config.max_new_tokens
    return torch.where(counted, counted.sum().clamp(min=1) / (rows * each), 0.0)
