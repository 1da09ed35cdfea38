"""Tastes: what a simulated rater likes, as a function of prompt and response, and how its scale is measured."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from rlhf_core.errors import FunctionError
from rlhf_core.functions import ask, load_function
from workers.simulated import worth

Taste: TypeAlias = Callable[[str, str], float]

SHIPPED = f"{__name__}:sentiment"


class TasteError(ValueError):
    """A taste cannot be used; the message names cause and cure."""


def sentiment(prompt: str, response: str) -> float:
    """How much the response praises, by a lexicon; -4 to 4."""
    return worth(response)


def load_taste(name: str) -> Taste:
    """The function that ``module:function`` names, from the current folder, PYTHONPATH or what is installed.

    Raises:
        TasteError: there is none, or it cannot be called.
    """
    try:
        return load_function(name, "taste", SHIPPED)
    except FunctionError as error:
        raise TasteError(str(error)) from error


def judge(taste: Taste, prompt: str, response: str) -> float:
    """What the taste says of a response, as a finite number.

    Raises:
        TasteError: it fails, or says something else.
    """
    try:
        return ask(taste, "taste", prompt, response)
    except FunctionError as error:
        raise TasteError(str(error)) from error


def as_shown(text: str) -> str:
    """A response as the rater page shows it: without leading blanks; a blank one is empty."""
    return text.lstrip()


@dataclass(frozen=True, slots=True)
class Scale:
    """The unit of a taste: mean and standard deviation over the base policy's responses, and how many there were."""

    mean: float
    sd: float
    count: int


def measure_scale(taste: Taste, responses: Iterable[tuple[str, str]]) -> Scale:
    """The scale of a taste over pairs of prompt and response, as the pages show them.

    Raises:
        TasteError: it says the same of all of them, so that no rater could prefer anything; or there are none.
    """
    values = [judge(taste, prompt, as_shown(response)) for prompt, response in responses]
    if len(values) < 2:
        raise TasteError(f"the taste's scale takes at least 2 responses of the base policy; there are {len(values)}")
    sd = statistics.pstdev(values)
    if not sd > 1e-12 * max(1.0, *map(abs, values)):
        raise TasteError(
            f"the taste says {values[0]:g} of all {len(values)} responses of the base policy, so that nobody could "
            "prefer one: take a taste that tells them apart"
        )
    return Scale(statistics.fmean(values), sd, len(values))
