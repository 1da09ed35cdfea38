"""The optimiser steps of PPO: one of the policy and one of the critic, each on some responses of a round."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from rlhf_core.buffer import Rollout
from rlhf_core.config import PolicyConfig
from rlhf_core.kl import k3
from rlhf_core.losses import aggregate_loss, clipped_policy_loss, clipped_value_loss, histogram_targets
from rlhf_core.masking import join_sequences, masked_mean
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.token_loss import TokenLoss
from rlhf_core.training.descent import descend
from rlhf_core.training.lessons import Lessons


def policy_step(
    model: ActorCritic,
    optimizer: Optimizer,
    config: PolicyConfig,
    rows: list[int],
    rollout: Rollout,
    lessons: Lessons,
    *,
    may_refuse: bool = False,
) -> dict[str, float] | None:
    """One step of the clipped surrogate, with the entropy bonus.

    With ``may_refuse`` it is not taken, and the answer is None, where the policy is ``kl_early_stop`` away from the
    one that drew the responses already: the mean of k3 over the tokens, an estimate of KL(old ‖ new).
    """
    parts = micro_batches(config.micro_batch_size, rows, rollout)
    rows = [row for part in parts for row in part]
    counted = rollout.mask & rollout.ended[:, None] if config.exclude_truncated else rollout.mask
    old, advantages, counts = (  # of the tokens of all rows, one after the other
        of_token[rows][rollout.mask[rows]] for of_token in (rollout.log_probs, lessons.advantages, counted)
    )
    total = max(1, int(counts.sum()))
    found: list[TokenLoss] = []

    def loss_of(tokens: slice, log_probs: Tensor, entropies: Tensor, where: slice) -> Tensor:
        surrogate = clipped_policy_loss(
            log_probs, old[tokens][where], advantages[tokens][where], clip_low=config.clip_ratio
        )
        loss = aggregate_loss(surrogate.per_token, counts[tokens][where], total=total)
        if config.entropy_coefficient:  # its gradient costs two more passes over the logits
            bonus = aggregate_loss(entropies, counts[tokens][where], total=total)
            loss = loss - config.entropy_coefficient * bonus
        return loss

    def losses() -> Iterator[Tensor]:
        begin = 0
        for part in parts:
            tokens = slice(begin, begin + sum(len(rollout.responses[row]) for row in part))
            begin = tokens.stop
            now = model.response_loss(
                [rollout.prompts[row] for row in part],
                [rollout.responses[row] for row in part],
                partial(loss_of, tokens),
                temperature=config.temperature,
                with_entropies=True,
            )
            found.append(now)
            yield now.loss

    def approximate_kl() -> float:
        return float(masked_mean(k3(old, torch.cat([now.log_probs for now in found])), counts))

    def is_too_far() -> bool:
        return may_refuse and config.kl_early_stop is not None and approximate_kl() > config.kl_early_stop

    norm = descend(
        optimizer,
        losses(),
        model.actor_parameters(),
        config.max_grad_norm,
        "a step of the policy",
        is_vetoed=is_too_far,
    )
    if is_too_far():
        return None
    log_probs = torch.cat([now.log_probs for now in found])
    surrogate = clipped_policy_loss(log_probs, old, advantages, clip_low=config.clip_ratio)
    ratios = surrogate.ratios[counts] if bool(counts.any()) else torch.ones(1)
    return {
        "policy_loss": float(aggregate_loss(surrogate.per_token, counts)),
        "entropy": float(masked_mean(torch.cat([now.entropies for now in found]), counts)),
        "approx_kl": approximate_kl(),
        "ratio_min": float(ratios.min()),
        "ratio_max": float(ratios.max()),
        "clip_fraction": float(masked_mean(surrogate.clipped.float(), counts)),
        "actor_grad_norm": norm,
    }


def critic_step(
    model: ActorCritic, optimizer: Optimizer, config: PolicyConfig, rows: list[int], rollout: Rollout, lessons: Lessons
) -> dict[str, float]:
    """One step of the clipped value loss; with bins, of the cross-entropy to the smoothed return."""
    total = max(1, int(rollout.mask[rows].sum()))
    seen: list[tuple[float, float]] = []  # loss and clipped tokens of each part

    def losses() -> Iterator[Tensor]:
        for part in micro_batches(config.micro_batch_size, rows, rollout):
            sequences = join_sequences(
                [rollout.prompts[row] for row in part],
                [rollout.responses[row] for row in part],
                device=model.palm.device,
            )
            outputs = model.value_outputs(sequences)
            longest = outputs.shape[1]
            mask = rollout.mask[part, :longest]
            per_token, clipped = value_losses(
                model, outputs, rollout.values[part, :longest], lessons.returns[part, :longest], config.value_clip
            )
            loss = aggregate_loss(per_token, mask, total=total)
            seen.append((float(loss.detach()), float((clipped & mask).sum())))
            yield loss

    parameters = model.critic_parameters()
    norm = descend(optimizer, losses(), parameters, config.max_grad_norm, "a step of the critic")
    return {
        "value_loss": sum(loss for loss, _ in seen),
        "value_clip_fraction": sum(clipped for _, clipped in seen) / total,
        "critic_grad_norm": norm,
    }


def value_losses(
    model: ActorCritic, outputs: Tensor, old_values: Tensor, returns: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """(batch, response): the critic's loss a token, and where its clip was at work; with bins there is none."""
    if model.bins == 1:
        values = model.decode_values(outputs)
        return clipped_value_loss(values, old_values, returns, clip=clip)
    edges = model.value_edges
    sigma = model.value_smoothing * float(edges[1] - edges[0])
    targets = histogram_targets(returns, edges, sigma=sigma)
    per_token = -(targets * F.log_softmax(outputs, dim=-1)).sum(dim=-1)
    return per_token, torch.zeros_like(returns, dtype=torch.bool)


def micro_batches(size: int, rows: list[int], rollout: Rollout) -> list[list[int]]:
    """The rows of a minibatch in parts of ``size`` that are run together; of like length, so that little is padded.

    0 leaves them together, as they are.
    """
    if not 0 < size < len(rows):
        return [rows]
    rows = sorted(rows, key=lambda row: len(rollout.prompts[row]) + len(rollout.responses[row]))
    return [rows[at : at + size] for at in range(0, len(rows), size)]
