"""How far a policy in training has gone from the one that it began from, on responses of its own."""

from collections.abc import Sequence

import torch

from rlhf_core.config import SamplingConfig
from rlhf_core.evaluation import Estimate, sequence_kl_estimate
from rlhf_core.generation.log_probs import sequence_log_probs
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.kl import k1
from rlhf_core.modules.palm import PaLM

ROWS_AT_ONCE = 32


@torch.no_grad()
def drift_from(
    parent: PaLM,
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    *,
    end_id: int,
    max_new_tokens: int,
    seeds: Sequence[int],
    finetune_scope: str | None = None,
) -> Estimate:
    """KL of ``palm`` to ``parent`` in nats a response, from one response of ``palm`` to each prompt at temperature 1.

    Args:
        parent: may be ``palm`` itself: what it is without the adapters of ``finetune_scope``.
        prompts: token ids, row by row.
        end_id, max_new_tokens: where a response ends.
        seeds: one a prompt; equal ones draw equal responses, whatever else is random.
        finetune_scope: the adapters of ``palm`` that learn, if any.

    Raises:
        ValueError: there is no prompt, or the seeds differ from them in number.
    """
    per_token: list[list[float]] = []
    for at in range(0, len(prompts), ROWS_AT_ONCE):
        asked = prompts[at : at + ROWS_AT_ONCE]
        drawn = generate_batch(
            palm,
            asked,
            sampling=SamplingConfig(max_new_tokens=max_new_tokens),
            end_id=end_id,
            seeds=seeds[at : at + ROWS_AT_ONCE],
            finetune_scope=finetune_scope,
        )
        responses = [generation.tokens for generation in drawn]
        ours = sequence_log_probs(palm, asked, responses, finetune_scope=finetune_scope)
        theirs = sequence_log_probs(parent, asked, responses)
        ratios = k1(ours.log_probs, theirs.log_probs).tolist()
        per_token += [row[: len(response)] for row, response in zip(ratios, responses, strict=True)]
    return sequence_kl_estimate(per_token)
