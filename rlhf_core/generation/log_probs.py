"""Log-probabilities of given responses, as the trainer needs them: the same numbers that sampling recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf_core.generation.batch import check_tokens, pad_tokens
from rlhf_core.generation.filters import CUT, scores_to_draw_from
from rlhf_core.masking import length_mask
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.token_loss import LossOf, TokenLoss, token_loss

LOGITS_AT_ONCE = 2**23  # numbers; 32 MiB in float32
WIDTH_STEP = 8  # rows are padded to a multiple of it: attention over 95 tokens took longer than over 96


@dataclass(frozen=True, slots=True)
class SequenceLogProbs:
    """What ``sequence_log_probs`` returns; each tensor is 0 (or False) where a row has no token.

    Attributes:
        log_probs: (batch, response) float32, of each response token given all before it.
        mask: (batch, response) bool, True for a response token, the end token included.
        entropies: (batch, response) float32 of the distribution each token was drawn from, in nats; None unless asked.
        states: (batch, response, dim) the model's final embedding just *before* each response token, from which a
            critic reads the value of the state; None unless asked.
    """

    log_probs: Tensor
    mask: Tensor
    entropies: Tensor | None
    states: Tensor | None


class ResponseStates(NamedTuple):
    """What predicts the response tokens of some rows, without any padding, row after row.

    Attributes:
        states: (tokens, dim) the model's final embedding just before each response token.
        targets: (tokens,) the ids of those tokens.
        mask: (batch, response) bool, True for a response token, the end token included.
    """

    states: Tensor
    targets: Tensor
    mask: Tensor


def response_states(
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    finetune_scope: str | None = None,
    disable_lora: bool = False,
) -> ResponseStates:
    """Run ``palm`` over the rows, as far as it predicts a response token; makes no logits.

    Raises:
        ValueError: the rows differ in number, one is empty, or a token lies outside the vocabulary.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
    check_tokens(prompts, palm.num_tokens)
    check_tokens(responses, palm.num_tokens)
    # The last response token is predicted but never read, so it needs no place in the input.
    rows = [[*a, *b[:-1]] for a, b in zip(prompts, responses, strict=True)]
    inputs, _ = pad_tokens(rows, palm.device, multiple=WIDTH_STEP)
    targets, response_lengths = pad_tokens(responses, palm.device)
    mask = length_mask(response_lengths, targets.shape[1])
    before_response = torch.tensor([len(prompt) - 1 for prompt in prompts], device=palm.device)
    row, column = mask.nonzero(as_tuple=True)
    states = palm(
        inputs,
        finetune_scope=finetune_scope,
        disable_lora=disable_lora,
        return_only_embedding=True,
        places=row * inputs.shape[1] + before_response[row] + column,
    )
    return ResponseStates(states, targets[row, column], mask)


def response_loss(
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    loss_of: LossOf,
    *,
    temperature: float = 1.0,
    with_entropies: bool = False,
    finetune_scope: str | None = None,
    keep_states: Callable[[Tensor], object] | None = None,
) -> TokenLoss:
    """A loss of the log-probabilities of the response tokens, row after row; its gradient needs no second pass.

    What ``sequence_log_probs`` gives with filters off, at the price of saying at once what the loss is: see
    ``token_loss``, whose ``loss_of`` gets the tokens of all responses one after the other, without padding.

    Args:
        keep_states: given the final embedding just before each of these tokens, (tokens, dim), through which a
            gradient flows as well.

    Raises:
        ValueError: as ``response_states``.
    """
    found = response_states(palm, prompts, responses, finetune_scope=finetune_scope)
    if keep_states is not None:
        keep_states(found.states)
    return token_loss(
        found.states,
        palm.token_emb.weight,
        found.targets,
        loss_of,
        temperature=temperature,
        with_entropies=with_entropies,
    )


def sequence_log_probs(
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    finetune_scope: str | None = None,
    disable_lora: bool = False,
    with_entropies: bool = False,
    with_states: bool = False,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> SequenceLogProbs:
    """Log-probabilities of the responses under the distribution that sampling with these settings draws from.

    Differentiable where gradients are on. Logits are made for response positions alone, in float32, and never more than
    ``logits_at_once`` of them are held: beyond that they are made in chunks and once more in the backward pass.
    Training has the cheaper ``response_loss``; this one gives the log-probabilities themselves, and with any filter.

    Args:
        prompts, responses: token ids, row by row; no row is empty.
        temperature, top_k, top_p, min_p: those of the sampling.
        finetune_scope, disable_lora: which adapters to use; the frozen reference of a LoRA policy is
            ``disable_lora=True``.
        with_entropies, with_states: whether to return those too.

    Raises:
        ValueError: the rows differ in number, one is empty, or a token lies outside the vocabulary.
    """
    states, targets, mask = response_states(
        palm, prompts, responses, finetune_scope=finetune_scope, disable_lora=disable_lora
    )
    chunk = max(1, logits_at_once // palm.num_tokens)
    settings = (temperature, top_k, top_p, min_p, with_entropies)
    pieces = []
    for part, wanted in zip(states.split(chunk), targets.split(chunk), strict=True):
        if torch.is_grad_enabled() and len(states) > chunk:
            pieces.append(checkpoint(token_log_probs, palm, part, wanted, *settings, use_reentrant=False))
        else:
            pieces.append(token_log_probs(palm, part, wanted, *settings))
    found = torch.cat(pieces, dim=1)
    return SequenceLogProbs(
        log_probs=spread(found[0], mask),
        mask=mask,
        entropies=spread(found[1], mask) if with_entropies else None,
        states=spread(states, mask) if with_states else None,
    )


def token_log_probs(
    palm: PaLM,
    states: Tensor,
    targets: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    with_entropies: bool,
) -> Tensor:
    """(tokens, dim) states and (tokens,) targets -> (1 or 2, tokens): log-probabilities and, if asked, entropies."""
    logits = palm.to_logits(states).float()
    scores = scores_to_draw_from(logits, temperature, top_k, top_p, min_p)
    if top_k or top_p < 1.0 or min_p > 0.0:
        # A token on the very edge of a filter may fall out by rounding; it was drawn, so it was kept.
        drawn = targets[:, None]
        scores = scores.scatter(1, drawn, logits.gather(1, drawn) / temperature)
    log_probs = scores.log_softmax(dim=-1, dtype=torch.float32)
    chosen = log_probs.gather(1, targets[:, None])[:, 0]
    if not with_entropies:
        return chosen[None]
    entropies = -(log_probs.exp() * log_probs.masked_fill(log_probs == CUT, 0.0)).sum(dim=-1)
    return torch.stack((chosen, entropies))


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """(tokens, ...) in the order of ``mask``'s True places -> (batch, response, ...), 0 elsewhere."""
    out = values.new_zeros(*mask.shape, *values.shape[1:])
    return out.index_put(mask.nonzero(as_tuple=True), values)
