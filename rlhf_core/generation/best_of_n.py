"""Best-of-n: several responses to each prompt, and the one that a reward likes most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import ScoreError
from rlhf_core.generation.sampler import Generation, generate_batch
from rlhf_core.generation.stopping import Stopping
from rlhf_core.modules.palm import PaLM

# Prompts and their responses, row by row, to (batch,) scores: a reward model, a rule, anything.
Score: TypeAlias = Callable[[list[list[int]], list[list[int]]], Tensor]


@dataclass(frozen=True, slots=True)
class Best:
    """What was chosen for a prompt.

    Attributes:
        generation: the response with the highest score; of equal ones the first.
        score: its score.
        scores: of all responses to the prompt, in the order of their seeds.
    """

    generation: Generation
    score: float
    scores: list[float]


def best_of_n(
    palm: PaLM,
    prompts: Sequence[Sequence[int]],
    score: Score,
    *,
    samples: int,
    sampling: SamplingConfig,
    end_id: int | None,
    seeds: Sequence[int],
    finetune_scope: str | None = None,
    rows: int | None = None,
    stopping: Stopping | None = None,
) -> list[Best]:
    """Draw ``samples`` responses to each prompt and choose the best one by ``score``.

    Choosing costs log(n) - (n - 1) / n nats of KL at most (Beirami et al. 2024, arXiv 2401.01879). The other arguments
    are those of ``generate_batch``: ``seeds`` has one for each response, those of prompt 0 first.

    Raises:
        ValueError: as ``generate_batch``.
        ScoreError: the scores are not one finite number for each response.
    """
    generations = generate_batch(
        palm,
        prompts,
        sampling=sampling,
        end_id=end_id,
        seeds=seeds,
        finetune_scope=finetune_scope,
        samples_per_prompt=samples,
        rows=rows,
        stopping=stopping,
    )
    if not generations:
        return []
    repeated = [list(prompt) for prompt in prompts for _ in range(samples)]
    found = as_scores(score(repeated, [generation.tokens for generation in generations]), len(generations))
    if rows_not_finite(found):
        raise ScoreError(f"the score gave {found}; {len(generations)} finite numbers are needed")
    chosen = []
    for begin, scores in zip(range(0, len(generations), samples), found.view(-1, samples).tolist(), strict=True):
        place = max(range(samples), key=scores.__getitem__)
        chosen.append(Best(generations[begin + place], scores[place], scores))
    return chosen


def as_scores(found: Any, count: int) -> Tensor:
    """What a reward gave for ``count`` responses, a tensor, an array or a sequence of numbers, as (count,) float32.

    Raises:
        ScoreError: it is not one number for each response; says which row is none.
    """
    cure = f"{count} finite numbers are needed, one for each response: a tensor ({count},) or a list"
    if isinstance(found, Tensor | np.ndarray):
        if tuple(found.shape) != (count,):
            raise ScoreError(f"the reward gave the shape {tuple(found.shape)} for {count} responses; {cure}")
        if isinstance(found, Tensor) and not found.is_complex():
            return found.detach().float()
    elif not isinstance(found, Sequence) or isinstance(found, str):
        raise ScoreError(f"the reward gave a {type(found).__name__} for {count} responses; {cure}")
    elif len(found) != count:
        raise ScoreError(f"the reward gave {len(found)} scores for {count} responses; {cure}")
    numbers = []
    for row, one in enumerate(found):
        try:
            numbers.append(float(one))
        except (ArithmeticError, TypeError, ValueError, RuntimeError):
            raise ScoreError(f"the reward gave {one!r:.60} for row {row}, which is no number; {cure}") from None
    return torch.tensor(numbers)


def rows_not_finite(scores: Tensor) -> list[int]:
    """The rows whose score is not a finite number."""
    return (~torch.isfinite(scores)).nonzero().flatten().tolist()
