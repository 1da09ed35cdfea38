"""A loss of the log-probabilities of tokens, with its gradient, without ever holding the logits of all of them."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf_core.modules.linear import multiply

LossOf: TypeAlias = Callable[[Tensor, Tensor, slice], Tensor]  # log-probs, entropies, which tokens -> their loss
TOKENS_AT_ONCE = 256  # enough for a fast multiplication at any vocabulary
LOGITS_AT_ONCE = 2**20  # numbers; a smaller vocabulary takes more tokens at once


class TokenLoss(NamedTuple):
    """What ``token_loss`` returns.

    Attributes:
        loss: a number; its gradient flows to states and weight.
        log_probs: (tokens,) float32, without a gradient.
        entropies: (tokens,) float32, in nats, without a gradient; 0 unless asked for.
    """

    loss: Tensor
    log_probs: Tensor
    entropies: Tensor


def token_loss(
    states: Tensor,
    weight: Tensor,
    targets: Tensor,
    loss_of: LossOf,
    *,
    temperature: float = 1.0,
    with_entropies: bool = False,
) -> TokenLoss:
    """The sum of ``loss_of`` over all tokens.

    Logits are made for a few hundred tokens at a time, and while they are there both their loss and its gradients are
    taken: nothing is made twice, as it would be by checkpointing, and only gradients of the size of ``states`` and
    ``weight`` are kept. A gradient of the gradient is not to be had.

    Args:
        states: (tokens, dim) final embeddings, each just before its token.
        weight: (num_tokens, dim) the output matrix.
        targets: (tokens,) ids of the tokens.
        loss_of: given log-probabilities (part,), entropies (part,) and the slice of tokens that they stand for, the
            part's share of the loss; what it divides by must be that of the whole.
        temperature: divides the logits.
        with_entropies: work out the entropies, which are 0 else. Where the loss only reports them, detach them in it:
            their gradient takes further passes over the logits.

    Source: the idea of taking gradients in the chunk pass is that of Hsu et al. 2024, https://arxiv.org/abs/2410.10989
    """
    with torch.autocast(states.device.type, enabled=False):
        states = states.to(weight.dtype)
        return TokenLoss(*ChunkedLoss.apply(states, weight, targets, loss_of, temperature, with_entropies))


class ChunkedLoss(torch.autograd.Function):
    """See ``token_loss``."""

    @staticmethod
    def forward(ctx, states, weight, targets, loss_of, temperature, with_entropies):  # type: ignore[no-untyped-def]
        at_once = max(TOKENS_AT_ONCE, LOGITS_AT_ONCE // len(weight))
        exact = torch.promote_types(states.dtype, torch.float32)
        loss = states.new_zeros((), dtype=exact)
        log_probs, entropies = states.new_zeros(2, len(states), dtype=exact)
        needs_states, needs_weight = ctx.needs_input_grad[:2]
        grad_states = torch.empty_like(states) if needs_states else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for start in range(0, len(states), at_once):
            part = slice(start, start + at_once)
            scores = multiply(states[part], weight).to(exact)
            if temperature != 1.0:
                scores /= temperature
            wanted = targets[part, None]
            probs = scores.softmax(dim=-1)
            log_total = scores.amax(dim=-1) - probs.amax(dim=-1).log()  # of exp(scores); the largest loses no digits
            log_probs[part] = scores.gather(1, wanted)[:, 0] - log_total
            if with_entropies:
                entropies[part] = log_total - torch.linalg.vecdot(probs, scores)
            with torch.enable_grad():
                found = [x[part].detach().requires_grad_() for x in (log_probs, entropies)]
                value = loss_of(*found, part)
            loss += value.detach()
            if not (needs_states or needs_weight):
                continue
            by_log_prob, by_entropy = torch.autograd.grad(value, found, allow_unused=True)
            if (
                by_entropy is None
            ):  # the gradient by the scores is g · (one at the token - p); g waits for smaller tensors
                scale = by_log_prob[:, None]
                less_gradient = probs.scatter_add_(1, wanted, torch.full_like(scale, -1.0))
            else:  # and less e · p · (log p + entropy)
                scores -= (log_total - entropies[part])[:, None]
                scores *= by_entropy[:, None]
                if by_log_prob is not None:
                    scores += by_log_prob[:, None]
                less_gradient = probs.mul_(scores)
                if by_log_prob is not None:
                    less_gradient.scatter_add_(1, wanted, -by_log_prob[:, None])
                scale = 1.0
            del scores
            less_gradient = less_gradient.to(weight.dtype)
            if grad_states is not None:
                grad_states[part] = multiply(less_gradient, weight.T) * (scale / -temperature)
            if grad_weight is not None:
                scaled = (states[part] * (scale / -temperature)).to(weight.dtype)
                grad_weight.addmm_(less_gradient.T, scaled)
        ctx.save_for_backward(grad_states, grad_weight)
        ctx.mark_non_differentiable(log_probs, entropies)
        return loss, log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
        return *(None if kept is None else kept * grad.to(kept.dtype) for kept in ctx.saved_tensors), *[None] * 4


def mean_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean nats of the tokens ``targets`` (tokens,) after ``states`` (tokens, dim), see ``token_loss``."""
    return token_loss(states, weight, targets, lambda log_probs, _, __: -log_probs.sum() / len(targets)).loss
