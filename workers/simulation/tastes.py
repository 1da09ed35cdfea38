"""Tastes: what a simulated rater likes, as a function of prompt and response, and how its scale is measured."""

import importlib
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

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
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise TasteError(f"the taste {name!r} is not of the form module:function, for instance {SHIPPED}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise TasteError(f"the module {module_name!r} of the taste needs {error.name!r}: install it") from error
        raise TasteError(
            f"there is no module {module_name!r} to take the taste from: start in the folder of "
            f"{module_name.split('.')[0]}.py, or name its folder in PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the module does when it is loaded
        raise TasteError(f"the module {module_name!r} fails when it is loaded: {describe(error)}") from error
    taste = getattr(module, function_name, None)
    if taste is None:
        raise TasteError(f"the module {module_name!r} has no {function_name!r}: is its name right?")
    if not callable(taste):
        raise TasteError(f"{name} is a {type(taste).__name__}; a taste is a function of (prompt, response)")
    found: Taste = taste
    return found


def judge(taste: Taste, prompt: str, response: str) -> float:
    """What the taste says of a response, as a finite number.

    Raises:
        TasteError: it fails, or says something else.
    """
    of = f"the response {response[:60]!r} to {prompt[:40]!r}"
    try:
        value = taste(prompt, response)
    except Exception as error:  # the taste is a stranger's code
        raise TasteError(f"the taste fails at {of}: {describe(error)}. It must take any text") from error
    if not isinstance(value, Real):
        raise TasteError(f"the taste says {value!r} of {of}: it must return a number")
    number = float(value)
    if not math.isfinite(number):
        raise TasteError(f"the taste says {number} of {of}: it must return a finite number")
    return number


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


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
