"""Two halves of the feedback that share no prompt: one for a reward model, one for the judge that watches it."""

import hashlib
from collections.abc import Sequence

from rlhf_core.config import FeedbackPart
from rlhf_core.errors import DatasetError
from rlhf_core.records import Feedback


def take_part(records: Sequence[Feedback], groups: Sequence[int], part: FeedbackPart) -> list[Feedback]:
    """The records of a part: "all", or the "first" or "second" half of the prompts.

    A prompt's own hash decides, whatever the seed: the halves of any two runs on the same feedback fit together, and a
    prompt stays in its half as feedback grows. It is another hash than the one that holds prompts out, so a share of
    each half is held out.

    Args:
        groups: a number for each record, equal where two must stand together (``prompt_groups``).

    Raises:
        DatasetError: the half is empty.
    """
    if part == "all":
        return list(records)
    halves: dict[int, str] = {}
    for group, item in sorted(zip(groups, records, strict=True), key=lambda pair: pair[1].prompt_tokens):
        halves.setdefault(group, half_of(item.prompt_tokens))
    taken = [item for group, item in zip(groups, records, strict=True) if halves[group] == part]
    if not taken:
        raise DatasetError(
            f"none of the {len(records)} usable ratings falls into the {part} half of the prompts: "
            "collect ratings of more prompts, or train on all"
        )
    return taken


def half_of(prompt_tokens: Sequence[int]) -> str:
    """ "first" or "second", each for half of all prompts."""
    digest = hashlib.sha256(f"half/{tuple(prompt_tokens)}".encode()).digest()
    return "first" if digest[0] < 128 else "second"
