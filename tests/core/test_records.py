"""Records: what was written is read back, and what is malformed is named by line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.errors import DatasetError
from rlhf_core.records import (
    Comparison,
    Prompt,
    ScoredResponse,
    feedback_from_line,
    feedback_to_line,
    read_feedback,
    read_prompts,
    write_feedback,
    write_prompts,
)

tokens = st.lists(st.integers(0, 100_000), min_size=1, max_size=20).map(tuple)
weights = st.floats(min_value=1e-6, max_value=1e6)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scored = st.builds(
    ScoredResponse,
    prompt_id=words,
    prompt_tokens=tokens,
    response_tokens=tokens,
    score=st.integers(1, 5),
    weight=weights,
    rating_id=words,
)
compared = st.builds(
    Comparison,
    prompt_id=words,
    prompt_tokens=tokens,
    chosen_tokens=tokens,
    rejected_tokens=tokens,
    strength=st.integers(0, 3),
    weight=weights,
    rating_id=words,
)


@given(st.one_of(scored, compared))
def test_a_record_survives_its_line(record):
    line = feedback_to_line(record)
    assert "\n" not in line
    assert feedback_from_line(line, 1) == record
    assert feedback_to_line(feedback_from_line(line, 1)) == line


@given(st.lists(st.one_of(scored, compared), max_size=5))
def test_records_survive_a_file(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "feedback.jsonl"
    write_feedback(path, records)
    assert read_feedback(path) == records


@given(st.lists(st.builds(Prompt, prompt_id=words, text=words.filter(str.strip)), max_size=5))
def test_prompts_survive_a_file(tmp_path_factory, prompts):
    path = tmp_path_factory.mktemp("records") / "prompts.jsonl"
    write_prompts(path, prompts)
    assert read_prompts(path) == prompts


GOOD = json.loads(feedback_to_line(ScoredResponse("p", (1,), (2,), 3)))


@pytest.mark.parametrize(
    "line",
    ["", "{", "[1]", "null", '"text"', "{}", '{"kind":"praise"}', json.dumps({**GOOD, "score": 6})]
    + [json.dumps({**GOOD, "score": None}), json.dumps({**GOOD, "weight": 0}), json.dumps({**GOOD, "weight": -1})]
    + [json.dumps({**GOOD, "weight": float("nan")}), json.dumps({**GOOD, "response_tokens": []})]
    + [json.dumps({**GOOD, "prompt_tokens": [-1]}), json.dumps({**GOOD, "prompt_tokens": None})]
    + [
        json.dumps({**GOOD, "score": True}),
        json.dumps({**GOOD, "prompt_id": [1]}),
        json.dumps({**GOOD, "rating_id": 7}),
    ]
    + [json.dumps({**GOOD, "response_tokens": [7.5]}), json.dumps({**GOOD, "prompt_tokens": [True]})]
    + [json.dumps({**GOOD, "weight": "1"}), json.dumps({**GOOD, "weight": True})]
    + [json.dumps({**GOOD, "surprise": 1}), json.dumps({**GOOD, "response_tokens": ["a"]})],
)
def test_a_malformed_line_is_refused_by_number(line):
    with pytest.raises(DatasetError, match="line 7"):
        feedback_from_line(line, 7)


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt_id":"a"}', '{"prompt_id":"a","text":"  "}'])
def test_a_malformed_prompt_is_refused_by_file_and_line(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt_id":"a","text":"fine"}\n\n' + line + "\n")
    with pytest.raises(DatasetError, match=r"prompts.jsonl, line 3"):
        read_prompts(path)


def test_a_comparison_checks_its_strength():
    with pytest.raises(DatasetError, match="strength 4"):
        Comparison("p", (1,), (2,), (3,), strength=4)
