import math

import pytest
import torch

from rlhf_core.errors import FunctionError
from rlhf_core.functions import ask, ask_many, load_function
from rlhf_core.generation.best_of_n import as_scores


@pytest.mark.parametrize("value", [2, 2.0, True, torch.tensor(2.0), torch.tensor(2)])
def test_any_finite_number_is_taken(value):
    assert ask(lambda prompt, response: value, "reward", "p", "r") == float(value)


@pytest.mark.parametrize("value", ["good", None, math.nan, -math.inf, 1j, [1.0], torch.tensor([1.0])])
def test_what_is_no_finite_number_is_refused_with_row_and_text(value):
    with pytest.raises(FunctionError, match=r"the reward says .* of the response 'r' to 'p' \(row 7\): it must return"):
        ask(lambda prompt, response: value, "reward", "p", "r", row=7)


@pytest.mark.parametrize("value", [10**400, torch.tensor(1j)], ids=["too-large", "complex"])
def test_a_number_that_is_no_float_is_refused_and_does_not_fail(value):
    with pytest.raises(FunctionError, match=r"the reward says .* of the response 'r' to 'p': it must return a finite"):
        ask(lambda prompt, response: value, "reward", "p", "r")
    with pytest.raises(FunctionError):
        as_scores([value], 1)


def test_a_failure_names_the_row_and_how_the_text_begins():
    with pytest.raises(FunctionError, match=r"fails at the response 'x{60}' to 'p' \(row 3\): ZeroDivisionError"):
        ask(lambda prompt, response: 1 / 0, "reward", "p", "x" * 70, row=3)


def test_lists_are_asked_about_together():
    calls = []

    def lengths(prompts, responses):
        calls.append((prompts, responses))
        return torch.tensor([len(response) for response in responses])

    assert ask_many(lengths, "reward", ["a", "b"], ["four", "three"]) == [4.0, 5.0]
    assert calls == [(["a", "b"], ["four", "three"])]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda prompts, responses: [1.0], "gave 1 numbers for 2 responses"),
        (lambda prompts, responses: 1.0, "fails at 2 responses, the first of them the response 'r' to 'p': TypeError"),
        (lambda prompts, responses: [1.0, math.nan], r"says nan of the response 's' to 'q' \(row 1\)"),
        (lambda prompts, responses: prompts[9], "IndexError.*two lists of texts"),
    ],
)
def test_what_lists_may_not_bring_is_refused(function, said):
    with pytest.raises(FunctionError, match=said):
        ask_many(function, "reward", ["p", "q"], ["r", "s"])


def test_a_name_without_a_colon_is_refused_with_an_example():
    with pytest.raises(FunctionError, match="the reward 'length' is not of the form module:function, for instance a:b"):
        load_function("length", "reward", "a:b")
