"""The optimiser steps of a policy run: of the policy and, with PPO, of the critic, each on a minibatch of responses."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from rlhf_core.buffer import Rollout
from rlhf_core.config import PolicyConfig
from rlhf_core.distributed import ALONE, Group
from rlhf_core.kl import k3
from rlhf_core.losses import aggregate_loss, clipped_policy_loss, clipped_value_loss, histogram_targets
from rlhf_core.masking import join_sequences
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.token_loss import TokenLoss
from rlhf_core.training.descent import descend
from rlhf_core.training.groups import token_weights
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
    states: list[Tensor] | None = None,
    group: Group = ALONE,
) -> dict[str, float] | None:
    """One step of the clipped surrogate, with entropy bonus and any KL penalty of the loss.

    Each process of ``group`` takes its share of ``rows``. ``states`` gets, for each micro-batch, the states
    (tokens, dim) just before its response tokens, without a gradient, as the policy had them before this step.
    With ``value_loss_coefficient`` the value loss read off these states is part of the loss.

    With ``may_refuse`` it is not taken, and the answer is None, where the policy is ``kl_early_stop`` away from the
    one that drew the responses already: the mean of k3 over the tokens, an estimate of KL(old ‖ new).
    """
    counted = rollout.mask & rollout.ended[:, None] if config.exclude_truncated else rollout.mask
    total = max(1, int(counted[rows].sum()))
    parts = micro_batches(config.micro_batch_size, rows[group.share(len(rows))], rollout)
    mine = [row for part in parts for row in part]
    kept = rollout.mask[mine]
    old, advantages, reference, counts = (  # of the tokens of this process's rows, one after the other
        of_token[mine][kept]
        for of_token in (rollout.log_probs, lessons.advantages, rollout.reference_log_probs, counted)
    )
    weights = token_weights(counted[rows], config)
    if weights is not None:
        weights = torch.zeros_like(rollout.log_probs).index_copy(0, torch.tensor(rows, device=old.device), weights)
        weights = weights[mine][kept]
    found: list[TokenLoss] = []
    valued = max(1, int(rollout.mask[rows].sum()))

    def loss_of(tokens: slice, log_probs: Tensor, entropies: Tensor, where: slice) -> Tensor:
        surrogate = clipped_policy_loss(
            log_probs, old[tokens][where], advantages[tokens][where], clip_low=config.clip_ratio
        )
        per_token = surrogate.per_token
        if lessons.loss_coefficient:
            per_token = per_token + lessons.loss_coefficient * k3(log_probs, reference[tokens][where])
        if weights is not None:
            per_token = per_token * weights[tokens][where]
        loss = aggregate_loss(per_token, counts[tokens][where], total=total)
        if config.entropy_coefficient:  # its gradient costs two more passes over the logits
            bonus = aggregate_loss(entropies, counts[tokens][where], total=total)
            loss = loss - config.entropy_coefficient * bonus
        return loss

    def losses() -> Iterator[Tensor]:
        begin = 0
        for part in parts:
            kept_states: list[Tensor] = []
            tokens = slice(begin, begin + sum(len(rollout.responses[row]) for row in part))
            begin = tokens.stop
            now = model.response_loss(
                [rollout.prompts[row] for row in part],
                [rollout.responses[row] for row in part],
                partial(loss_of, tokens),
                temperature=config.temperature,
                with_entropies=True,
                keep_states=kept_states.append,
            )
            found.append(now)
            loss = now.loss
            if config.value_loss_coefficient:  # what reaches the head by it goes with the critic's own zero_grad
                value_loss, _ = loss_of_values(model, config, part, rollout, lessons, valued, kept_states[0])
                loss = loss + config.value_loss_coefficient * value_loss
            if states is not None:
                states.append(kept_states[0].detach())
            yield loss

    nothing = old.new_empty(0)  # all that a process has whose share of a small minibatch is no row

    def log_probs_now() -> Tensor:
        return torch.cat([nothing, *(now.log_probs for now in found)])

    is_refused = False

    def is_too_far() -> bool:  # asked once, for all processes together
        nonlocal is_refused
        if may_refuse and config.kl_early_stop is not None:
            (distance,) = group.sums(float(aggregate_loss(k3(old, log_probs_now()), counts, total=total)))
            is_refused = distance > config.kl_early_stop
        return is_refused

    norm = descend(
        optimizer,
        losses(),
        model.actor_parameters(),
        config.max_grad_norm,
        "a step of the policy",
        is_vetoed=is_too_far,
        group=group,
    )
    if is_refused:
        return None
    surrogate = clipped_policy_loss(log_probs_now(), old, advantages, clip_low=config.clip_ratio)
    entropies = torch.cat([nothing, *(now.entropies for now in found)])
    of_token = {
        "policy_loss": surrogate.per_token,
        "entropy": entropies,
        "approx_kl": k3(old, log_probs_now()),
        "clip_fraction": surrogate.clipped.float(),
    }
    means = group.sums(*(float(aggregate_loss(x, counts, total=total)) for x in of_token.values()))
    ratios = group.gather_rows([float(x) for x in surrogate.ratios[counts].aminmax()] if bool(counts.any()) else [])
    return {
        **dict(zip(of_token, means, strict=True)),
        "ratio_min": min(ratios, default=1.0),
        "ratio_max": max(ratios, default=1.0),
        "actor_grad_norm": norm,
    }


def critic_step(
    model: ActorCritic,
    optimizer: Optimizer,
    config: PolicyConfig,
    rows: list[int],
    rollout: Rollout,
    lessons: Lessons,
    *,
    states: Sequence[Tensor] | None = None,
    group: Group = ALONE,
) -> dict[str, float]:
    """One step of the clipped value loss; with bins, of the cross-entropy to the smoothed return.

    Each process of ``group`` takes its share of ``rows``. Where the value head reads the policy's states, ``states``
    are those that ``policy_step`` kept of the same rows; None runs the critic's trunk.
    """
    total = max(1, int(rollout.mask[rows].sum()))
    parts = micro_batches(config.micro_batch_size, rows[group.share(len(rows))], rollout)
    seen: list[tuple[float, float]] = []  # loss and clipped tokens of each part

    def losses() -> Iterator[Tensor]:
        for number, part in enumerate(parts):
            found = None if states is None else states[number]
            loss, clipped = loss_of_values(model, config, part, rollout, lessons, total, found)
            seen.append((float(loss.detach()), clipped))
            yield loss

    parameters = model.critic_parameters()
    norm = descend(optimizer, losses(), parameters, config.max_grad_norm, "a step of the critic", group=group)
    loss, clipped = group.sums(sum(loss for loss, _ in seen), sum(clipped for _, clipped in seen))
    return {"value_loss": loss, "value_clip_fraction": clipped / total, "critic_grad_norm": norm}


def loss_of_values(
    model: ActorCritic,
    config: PolicyConfig,
    part: list[int],
    rollout: Rollout,
    lessons: Lessons,
    total: int,
    states: Tensor | None,
) -> tuple[Tensor, float]:
    """The value loss of some rows as their share of ``total`` tokens, and how many of their tokens were clipped.

    ``states``: as ``ActorCritic.value_outputs`` takes them; a gradient flows into them if they have one.
    """
    sequences = join_sequences(
        [rollout.prompts[row] for row in part], [rollout.responses[row] for row in part], device=model.palm.device
    )
    outputs = model.value_outputs(sequences, states)
    longest = outputs.shape[1]
    mask = rollout.mask[part, :longest]
    per_token, clipped = value_losses(
        model, outputs, rollout.values[part, :longest], lessons.returns[part, :longest], config.value_clip
    )
    return aggregate_loss(per_token, mask, total=total), float((clipped & mask).sum())


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
        return [rows] if rows else []
    rows = sorted(rows, key=lambda row: len(rollout.prompts[row]) + len(rollout.responses[row]))
    return [rows[at : at + size] for at in range(0, len(rows), size)]
