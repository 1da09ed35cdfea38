import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_core.errors import ConfigError, DatasetError
from rlhf_core.text import corpus
from rlhf_core.text.corpus import Corpus, TokenFile, is_held_out
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


def write_lines(path, texts) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def all_documents(*paths) -> list[str]:
    found = Corpus(paths)
    return sorted([*found.documents("train"), *found.documents("validation")])


def test_documents_come_from_lines_or_from_blank_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one\n\nstill one"}) + "\n\n" + json.dumps({"text": "two"}))
    (tmp_path / "b.txt").write_bytes(b"three\r\nstill three\r\n\r\n\r\ntwo\n")
    found = all_documents(tmp_path / "a.jsonl", tmp_path / "b.txt")
    assert found == ["one\n\nstill one", "three\nstill three", "two"]  # each text once


def test_documents_keep_the_order_of_the_files_and_can_be_read_again(tmp_path):
    texts = [f"document {number}" for number in range(500)]
    found = Corpus([write_lines(tmp_path / "a.jsonl", texts), write_lines(tmp_path / "b.jsonl", texts[::-1])])
    assert list(found.documents("train")) == [text for text in texts if not is_held_out(text)]
    assert list(found.documents("validation")) == [text for text in texts if is_held_out(text)]
    assert found.count("train") + found.count("validation") == 500


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\ntwo")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "three"}')
    assert all_documents(tmp_path / "a.txt", tmp_path / "b.jsonl") == ["one", "three", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no json", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"txt": "a"}', 'no "text"; there are txt'),
        (b'{"text": 3}', '"text" is 3, no text'),
        (b'{"text": "\\ud800"}', "half a character"),
        (b'{"text": "caf\xe9"}', "no UTF-8"),
        (b'{"text": ' + b"[" * 100_000, "no JSON"),
        (b'{"text": ' + b"9" * 5_000 + b"}", "no JSON"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    with pytest.raises(DatasetError, match=f"a.jsonl, line 3: .*{message}"):
        Corpus([tmp_path / "a.jsonl"])


def test_a_text_in_another_encoding_is_refused_by_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n\ncaf\xe9\n")
    with pytest.raises(DatasetError, match="a.txt, line 3: no UTF-8"):
        Corpus([tmp_path / "a.txt"])


def test_a_missing_or_empty_text_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="missing.txt: No such file"):
        Corpus([tmp_path / "missing.txt"])
    (tmp_path / "empty.txt").write_text(" \n\n ")
    with pytest.raises(DatasetError, match="no text"):
        Corpus([tmp_path / "empty.txt"])


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ["one", "two", "three"])
    found = Corpus([path])
    write_lines(path, ["one", "two", "three", "four"])
    with pytest.raises(DatasetError, match="changed"):
        list(found.documents("train"))


def test_a_documents_own_hash_decides_where_it_belongs(tmp_path):
    texts = [f"document {number}" for number in range(2000)]
    found = Corpus([write_lines(tmp_path / "a.jsonl", texts)])
    held_out = list(found.documents("validation"))
    assert 20 <= len(held_out) <= 60  # 2 % of 2000
    assert all(map(is_held_out, held_out))
    backwards = Corpus([write_lines(tmp_path / "b.jsonl", texts[::-1])])
    assert list(backwards.documents("validation")) == held_out[::-1]


def test_a_handful_of_documents_still_splits(tmp_path):
    found = Corpus([write_lines(tmp_path / "a.jsonl", ["a", "b", "c", "a"])])
    assert list(found.documents("train")) == ["a", "b"]
    assert list(found.documents("validation")) == ["c"]
    with pytest.raises(DatasetError, match="one document"):
        Corpus([write_lines(tmp_path / "b.jsonl", ["a", "a"])])


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


def test_a_token_file_is_made_a_batch_at_a_time_and_shuffled_by_its_seed(tokenizer, tmp_path, monkeypatch):
    texts = [f"film {number}" for number in range(25)]
    monkeypatch.setattr(corpus, "DOCUMENTS_A_BATCH", 10)
    counts: list[int] = []
    plain = TokenFile.write(tmp_path / "plain.tokens", texts, tokenizer, on_batch=counts.append)
    assert counts == [10, 20, 25]

    def rows(path, described) -> list[str]:
        tokens = described.open(path).tolist()
        ends = [place + 1 for place, token in enumerate(tokens) if token == tokenizer.end]
        return [tokenizer.decode(tokens[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    assert rows(tmp_path / "plain.tokens", plain) == texts
    shuffled = TokenFile.write(tmp_path / "shuffled.tokens", texts, tokenizer, shuffle_seed=0)
    order = np.random.default_rng(0).permutation(25)
    assert rows(tmp_path / "shuffled.tokens", shuffled) == [texts[place] for place in order]
    assert sorted(path.name for path in tmp_path.glob("shuffled*")) == ["shuffled.json", "shuffled.tokens"]


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_a_token_file_cut_short_or_altered_is_refused(tokenizer, tmp_path, spoil):
    path = tmp_path / "train.tokens"
    written = TokenFile.write(path, ["good film"], tokenizer)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DatasetError, match="cut short or altered"):
        written.open(path)


def test_a_document_fills_a_batch_of_its_own_where_it_is_long():
    found = list(corpus.batches(["a" * 3_000_000, "b" * 3_000_000, "c"], len))
    assert [len(batch) for batch in found] == [2, 1]
