import json

import numpy as np
import pytest

from rlhf_core.errors import ConfigError, DatasetError
from rlhf_core.text.corpus import TokenFile, is_held_out, read_documents, split_documents
from rlhf_core.text.tokenizer import Tokenizer

TEXTS = ["the film was good, the film was long", "a film, a good film, and a long one", "the end of the film"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.mark.parametrize(
    "text",
    [
        "the good film",
        " two  spaces ",
        "line\nend\ttab",
        "naïve café – ünï",
        "日本 🎬",
        "",
        "\x00\x07",
        "<|end|> <|pad|>",
    ],
)
def test_any_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_text_can_spell_a_special_token(tokenizer):
    for text in ("<|end|>", "good <|begin|>film", "<|pad|>", TEXTS[0] + "<|end|>"):
        assert min(tokenizer.encode(text)) > 2


def test_special_tokens_are_three_and_leave_no_text(tokenizer):
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end) == (0, 1, 2)
    assert tokenizer.decode([1, *tokenizer.encode("good film"), 2, 0, 0]) == "good film"


def test_frequent_words_become_one_token(tokenizer):
    assert len(tokenizer.encode(" film")) == 1
    assert len(tokenizer.encode("qzx")) == 3  # bytes, where nothing was learnt
    assert tokenizer.vocab_size <= 300


def test_a_cut_character_decodes_to_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("🎬")[:-1]) == "\ufffd"


def test_saving_and_loading_gives_the_same_bytes_and_hash(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.sha256 == tokenizer.sha256
    assert loaded.encode("the long film") == tokenizer.encode("the long film")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    assert Tokenizer.train(TEXTS, 300).sha256 == tokenizer.sha256


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="at least 259"):
        Tokenizer.train(TEXTS, 258)


def test_a_foreign_file_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="tokenizer.json of this library"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_documents_come_from_lines_or_from_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one\n\nstill one"}) + "\n\n" + json.dumps({"text": "two"}))
    (tmp_path / "b.txt").write_text("three\nstill three\n\n\ntwo\n")
    found = read_documents([tmp_path / "a.jsonl", tmp_path / "b.txt"])
    assert found == ["one\n\nstill one", "two", "three\nstill three"]  # each text once


@pytest.mark.parametrize("line", ["no json", "[1]", '{"txt": "a"}', '{"text": 3}'])
def test_a_malformed_line_is_named_by_its_number(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(DatasetError, match="a.jsonl, line 3"):
        read_documents([tmp_path / "a.jsonl"])


def test_a_missing_or_empty_text_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="missing.txt"):
        read_documents([tmp_path / "missing.txt"])
    (tmp_path / "empty.txt").write_text(" \n\n ")
    with pytest.raises(DatasetError, match="no text"):
        read_documents([tmp_path / "empty.txt"])


def test_a_documents_own_hash_decides_where_it_belongs():
    documents = [f"document {number}" for number in range(2000)]
    train, held_out = split_documents(documents)
    assert sorted(train + held_out) == sorted(documents)
    assert 20 <= len(held_out) <= 60  # 2 % of 2000
    assert all(map(is_held_out, held_out))
    assert split_documents(documents[::-1])[1] == held_out[::-1]


def test_a_handful_of_documents_still_splits():
    train, held_out = split_documents(["a", "b", "c"])
    assert len(train) == 2
    assert len(held_out) == 1
    with pytest.raises(DatasetError, match="one document"):
        split_documents(["a"])


def test_a_token_file_holds_documents_between_begin_and_end(tokenizer, tmp_path):
    path = tmp_path / "train.tokens"
    assert TokenFile.describe(path) is None
    written = TokenFile.write(path, ["good film", "é"], tokenizer)
    assert TokenFile.describe(path) == written
    tokens = written.open(path)
    expected = [1, *tokenizer.encode("good film"), 2, 1, *tokenizer.encode("é"), 2]
    assert tokens.tolist() == expected
    assert tokens.dtype == np.uint16
    assert (written.documents, written.characters, written.tokens) == (2, 10, len(expected))
