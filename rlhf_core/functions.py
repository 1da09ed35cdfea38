"""Functions that others wrote: found by name, and asked about texts with every mistake named; standard library only."""

import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias

from rlhf_core.errors import FunctionError

TextFunction: TypeAlias = Callable[..., Any]
EXAMPLE_REWARD = "my_reward:length"


def takes_batches(function: TextFunction) -> TextFunction:
    """Mark a function as one of two lists, (prompts, responses), that gives a number for each response; a decorator."""
    function.takes_batches = True  # type: ignore[attr-defined]
    return function


def load_function(name: str, role: str, example: str) -> TextFunction:
    """The function that ``module:function`` names, from the current folder, PYTHONPATH or what is installed.

    Args:
        role: what it is to be, for the messages: "reward", "taste".
        example: a name that would do, for the messages.

    Raises:
        FunctionError: there is none, or it cannot be called.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise FunctionError(f"the {role} {name!r} is not of the form module:function, for instance {example}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise FunctionError(f"the module {module_name!r} of the {role} needs {error.name!r}: install it") from error
        raise FunctionError(
            f"there is no module {module_name!r} to take the {role} from: start in the folder of "
            f"{module_name.split('.')[0]}.py, or name its folder in PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the module does when it is loaded
        raise FunctionError(f"the module {module_name!r} fails when it is loaded: {describe(error)}") from error
    found = getattr(module, function_name, None)
    if found is None:
        raise FunctionError(f"the module {module_name!r} has no {function_name!r}: is its name right?")
    if not callable(found):
        raise FunctionError(f"{name} is a {type(found).__name__}; a {role} is a function of (prompt, response)")
    function: TextFunction = found
    return function


def ask(function: TextFunction, role: str, prompt: str, response: str, row: int | None = None) -> float:
    """What a function of (prompt, response) says of one response, as a finite number.

    Args:
        row: place of the response among those that are asked about, from 0, for the messages.

    Raises:
        FunctionError: it fails, or says something else; names the row and how its texts begin.
    """
    of = place(prompt, response, row)
    try:
        value = function(prompt, response)
    except Exception as error:  # a stranger's code
        raise FunctionError(f"the {role} fails at {of}: {describe(error)}. It must take any text") from error
    return finite_number(value, role, of)


def ask_many(function: TextFunction, role: str, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """What a function of (prompts, responses), two equally long lists, says of each response.

    Raises:
        FunctionError: it fails, or gives another count of numbers, or one of them is no finite number.
    """
    try:
        values = list(function(list(prompts), list(responses)))
    except Exception as error:  # a stranger's code, or what it gave is no sequence
        of = place(prompts[0], responses[0], None) if responses else "no response"
        raise FunctionError(
            f"the {role} fails at {len(responses)} responses, the first of them {of}: {describe(error)}. "
            "It must take two lists of texts and give a number for each response"
        ) from error
    if len(values) != len(responses):
        raise FunctionError(
            f"the {role} gave {len(values)} numbers for {len(responses)} responses: it must give one for each, in order"
        )
    return [
        finite_number(value, role, place(prompt, response, row))
        for row, (value, prompt, response) in enumerate(zip(values, prompts, responses, strict=True))
    ]


def finite_number(value: Any, role: str, of: str) -> float:
    """``value`` as a finite float. Raises FunctionError, which says whose it is."""
    is_wrapped = getattr(value, "ndim", None) == 0  # a tensor of one number
    if not (isinstance(value, Real) or is_wrapped):
        raise FunctionError(f"the {role} says {value!r} of {of}: it must return a number")
    try:
        number = float(value)
    except (ArithmeticError, TypeError, ValueError, RuntimeError) as error:  # too large, or a tensor of something else
        raise FunctionError(f"the {role} says {value!r:.60} of {of}: it must return a finite number") from error
    if not math.isfinite(number):
        raise FunctionError(f"the {role} says {number} of {of}: it must return a finite number")
    return number


def place(prompt: str, response: str, row: int | None) -> str:
    """A response in words: how it begins, what it answers, and its row."""
    return f"the response {response[:60]!r} to {prompt[:40]!r}" + ("" if row is None else f" (row {row})")


def describe(error: Exception) -> str:
    """Kind and message of an error."""
    return f"{type(error).__name__}: {error}"
