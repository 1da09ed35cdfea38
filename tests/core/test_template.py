import pytest

from rlhf_core.text.template import (
    TEMPLATE_SHA256,
    cut_response,
    encode_document,
    encode_prompt,
    frame_response,
    split_demonstration,
)
from rlhf_core.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a b c d"], 259)  # bytes alone: a token a character


def test_a_prompt_is_the_start_of_a_document(tokenizer):
    prompt, document = encode_prompt(tokenizer, "a b", 32), encode_document(tokenizer, "a b c")
    assert document[: len(prompt)] == prompt
    assert (document[0], document[-1]) == (tokenizer.begin, tokenizer.end)


def test_a_long_prompt_keeps_its_end_behind_the_begin_token(tokenizer):
    found = encode_prompt(tokenizer, "abcdef", 4)
    assert found == [tokenizer.begin, *tokenizer.encode("def")]


def test_whitespace_at_the_end_of_a_prompt_is_dropped(tokenizer):
    assert encode_prompt(tokenizer, "a b \n", 32) == encode_prompt(tokenizer, "a b", 32)


def test_a_prompt_needs_room_for_a_token(tokenizer):
    with pytest.raises(ValueError, match="max_prompt_tokens = 1"):
        encode_prompt(tokenizer, "a", 1)


def test_special_tokens_typed_by_a_person_stay_text(tokenizer):
    found = encode_prompt(tokenizer, "<|end|><|pad|>", 64)
    assert found[0] == tokenizer.begin
    assert min(found[1:]) > tokenizer.end


def test_a_response_ends_with_its_first_end_token():
    assert cut_response([5, 0, 7, 2, 9, 2], end=2) == [5, 0, 7, 2]
    assert cut_response([5, 0, 7], end=2) == [5, 0, 7]
    assert cut_response([], end=2) == []


@pytest.mark.parametrize(
    ("prompt", "response", "divided"),
    [
        ("A: ", "yes", ("A:", " yes")),
        ("A:", " yes\n", ("A:", " yes")),
        ("A:\n\n", "yes", ("A:", "\n\nyes")),
        ("A", "bc", ("A", "bc")),
    ],
)
def test_whitespace_between_prompt_and_response_belongs_to_the_response(prompt, response, divided):
    assert split_demonstration(prompt, response) == divided


def test_a_response_that_was_cut_has_no_end(tokenizer):
    assert frame_response(tokenizer, [7, 8], 3) == [7, 8, tokenizer.end]
    assert frame_response(tokenizer, [7, 8, 9], 3) == [7, 8, 9]
    assert frame_response(tokenizer, [7, 8, 9, 10], 3) == [7, 8, 9]


def test_the_template_has_the_hash_that_checkpoints_hold():
    # A new template needs new models: change this only together with the demo policy.
    assert TEMPLATE_SHA256 == "30c684c1643df6163a84b3bb3dd135c82da2df3345a78ef127a3475c6409ba86"
