"""Feedback as a reward model learns from it: what is usable, what is held out, what a member of an ensemble sees."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_core.errors import DatasetError
from rlhf_core.masking import Sequences, join_sequences
from rlhf_core.modules.reward_head import WITH_BINS
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Feedback, ScoredResponse
from rlhf_core.seeds import derive_generator

RATING_STEPS = 5  # ScoredResponse.score is 1 to 5
MIDDLE_SCORE = 3


def usable_feedback(records: Sequence[Feedback], num_tokens: int, minimum: int) -> list[Feedback]:
    """The records that can teach something; comparisons of a response with itself are left out.

    Raises:
        DatasetError: too few, one-sided, or with tokens that the policy doesn't know.
    """
    usable = [item for item in records if not (isinstance(item, Comparison) and is_with_itself(item))]
    for item in usable:
        highest = max(max(tokens) for tokens in (item.prompt_tokens, *response_tokens(item)))
        if highest >= num_tokens:
            raise DatasetError(
                f"rating {item.rating_id!r} holds token {highest}; the policy knows 0 to {num_tokens - 1}"
            )
    if len(usable) < minimum:
        left_out = len(records) - len(usable)
        note = f" ({left_out} more compare a response with itself)" if left_out else ""
        raise DatasetError(f"found {len(usable)} usable ratings{note}; at least {minimum} are needed")
    check_informative(usable, "found")
    return usable


def is_with_itself(item: Comparison) -> bool:
    return item.chosen_tokens == item.rejected_tokens


def response_tokens(item: Feedback) -> list[tuple[int, ...]]:
    """The one response of a score, or chosen and rejected of a comparison."""
    return [item.response_tokens] if isinstance(item, ScoredResponse) else [item.chosen_tokens, item.rejected_tokens]


def check_informative(records: Sequence[Feedback], where: str) -> None:
    """Refuse feedback that says of nothing that it is better than something else.

    Two pieces of evidence at least: comparisons that are no ties, and scores that differ from the commonest one.

    Raises:
        DatasetError: names what was found and what is needed.
    """
    scores = [item.score for item in records if isinstance(item, ScoredResponse)]
    comparisons = [item for item in records if isinstance(item, Comparison)]
    preferences = sum(item.strength > 0 for item in comparisons)
    commonest = max(scores.count(score) for score in set(scores)) if scores else 0
    if preferences + len(scores) - commonest >= 2:
        return
    if comparisons and not scores:
        problem = f"{len(comparisons) - preferences} of {len(comparisons)} comparisons {where} are ties"
    elif scores and not comparisons:
        problem = f"{commonest} of {len(scores)} scores {where} are the same"
    else:
        problem = (
            f"{commonest} of {len(scores)} scores {where} are the same "
            f"and {len(comparisons) - preferences} of {len(comparisons)} comparisons are ties"
        )
    raise DatasetError(
        f"the feedback is one-sided: {problem}. Needed are at least two verdicts that tell better from worse: "
        "comparisons that are no ties, or scores that differ"
    )


def split_by_prompt(records: Sequence[Feedback], fraction: float, seed: int) -> tuple[list[Feedback], list[Feedback]]:
    """Training and holdout records; all records of a prompt stand on the same side.

    Records belong together when they share a prompt's id or its tokens. A hash of seed and prompt decides, so that a
    prompt that was held out stays so as feedback grows, and ``fraction`` is met on average. Where the hashes choose no
    prompt, or all, the one next to the border changes sides.
    """
    groups: dict[int, list[Feedback]] = {}
    for number, item in zip(prompt_groups(records), records, strict=True):
        groups.setdefault(number, []).append(item)

    def place(items: list[Feedback]) -> float:
        digests = (hashlib.sha256(f"{seed}/{item.prompt_tokens}".encode()).digest() for item in items)
        return min(int.from_bytes(digest[:8]) for digest in digests) / 2**64

    ordered = sorted(groups.values(), key=place)
    below = sum(place(items) < fraction for items in ordered)
    held = min(max(1, below), len(ordered) - 1) if fraction > 0 else 0
    training = [item for group in ordered[held:] for item in group]
    return training, [item for group in ordered[:held] for item in group]


def prompt_groups(records: Sequence[Feedback]) -> list[int]:
    """A number for each record; equal where two share a prompt id or prompt tokens, directly or by way of others."""
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for item in records:
        parent[root(item.prompt_id)] = root(item.prompt_tokens)
    roots = [root(item.prompt_tokens) for item in records]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(roots))}
    return [numbers[key] for key in roots]


def describe(training: Sequence[Feedback], holdout: Sequence[Feedback]) -> str:
    """One line for the log."""
    scores = sum(isinstance(item, ScoredResponse) for item in training)
    return (
        f"training on {len(training) - scores} comparisons and {scores} scores; "
        f"held out, of other prompts: {len(holdout)} ratings"
    )


def bootstrap_by_prompt(records: Sequence[Feedback], members: int, seed: int) -> Tensor:
    """(members, records) how often each member learns from each record: as many prompts as there are, drawn anew.

    All records of a prompt come together, so that members differ by whole prompts (Efron 1979; for reward models
    Coste et al. 2024). On average a member sees 63 % of the prompts.
    """
    groups = torch.tensor(prompt_groups(records))
    count = int(groups.max()) + 1
    drawn = [
        torch.bincount(
            torch.randint(count, (count,), generator=derive_generator(seed, "bootstrap", member)), minlength=count
        )
        for member in range(members)
    ]
    return torch.stack(drawn)[:, groups].float()


def join_responses(model: RewardModel, items: Sequence[Feedback]) -> Sequences:
    """Every response of ``items`` in order behind its prompt, on the model's device."""
    prompts = [item.prompt_tokens for item in items for _ in response_tokens(item)]
    responses = [response for item in items for response in response_tokens(item)]
    return join_sequences(prompts, responses, device=model.palm.device)


def labels_of(scores: Sequence[int], model: RewardModel) -> Tensor:
    """Scores of 1 to 5 as the head learns them: bins, or for a scalar head the distance from the middle."""
    if model.head.kind in WITH_BINS:
        return torch.tensor([score_to_bin(score, model.bins) for score in scores], dtype=torch.long)
    return torch.tensor([score - MIDDLE_SCORE for score in scores], dtype=torch.float32)


def score_to_bin(score: int, bins: int) -> int:
    """A score of 1 to 5 as a bin of 0 to ``bins`` - 1, spread evenly where the model has another number of bins."""
    return round((score - 1) * (bins - 1) / (RATING_STEPS - 1))
