"""What an independent reward model thinks of a round of a run that learns to please another (over-optimisation.md)."""

from collections.abc import Callable
from functools import partial

import torch

from rlhf_core.checkpoint import load_reward_model
from rlhf_core.distributed import ALONE, Group
from rlhf_core.errors import CheckpointError
from rlhf_core.evaluation import estimate
from rlhf_core.rewards import Reward, Rows, reward_of
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.run_directory import RunDirectory

Watch = Callable[[Rows, Rows], dict[str, float]]


def load_judge(run: RunDirectory, tokenizer: Tokenizer, device: torch.device) -> Watch | None:
    """``judged`` by the reward model that a run names as its judge; None where it names none.

    Raises:
        CheckpointError: it is damaged, or reads other tokens than ``tokenizer`` writes.
    """
    if not run.inputs.get("judge"):
        return None
    judge, judge_tokenizer, _ = load_reward_model(run.inputs["judge"])
    if judge_tokenizer.sha256 != tokenizer.sha256:
        raise CheckpointError("the judge reads other tokens than the policy writes: their tokenizers differ")
    return partial(judged, reward_of(judge.to(device), tokenizer.end), group=run.group)


@torch.no_grad()
def judged(judge: Reward, prompts: Rows, responses: Rows, *, group: Group = ALONE) -> dict[str, float]:
    """``judge_score`` and ``judge_score_error``: mean score of the responses, and its standard error.

    Nothing learns from it. The error is 0 for a single response, of which nothing is known. Each process of ``group``
    has its share of the responses judged.
    """
    mine = group.share(len(responses))
    scores = [float(score) for score in judge(prompts[mine], responses[mine])] if responses[mine] else []
    found = estimate(group.gather_rows(scores))
    return {"judge_score": found.value, "judge_score_error": found.error or 0.0}
