"""Prompts from files: faults are named by line, and a file goes in whole or not at all."""

import io
import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from webapp.errors import ImportRefused, SettingsRefused
from webapp.feedback.services import make_items
from webapp.projects.models import Prompt
from webapp.projects.prompt_files import read_prompts
from webapp.projects.selectors import prompt_counts, prompts_to_sample
from webapp.projects.services import import_prompts


def take(studio, project, content, format="jsonl", **more):
    if isinstance(content, bytes):
        return import_prompts(actor=studio.admin, project=project, stream=io.BytesIO(content), format=format, **more)
    return import_prompts(actor=studio.admin, project=project, text=content, format=format, **more)


GOOD = b'{"text": "good"}\n'
BAD_LINES = {
    "NUL": (b'{"text": "a\\u0000b"}', "NUL"),
    "lone surrogate": (b'{"text": "a\\ud800b"}', "surrogate"),
    "NaN": (b'{"text": "a", "score": NaN}', "NaN"),
    "infinity": (b'{"text": "a", "score": -Infinity}', "Infinity"),
    "depth 100,000": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "key twice": (b'{"text": "a", "text": "b"}', "twice"),
    "both columns": (b'{"text": "a", "prompt": "b"}', "both"),
    "neither column": (b'{"title": "a"}', 'no key "text" or "prompt"'),
    "latin-1": ('{"text": "café"}'.encode("latin-1"), "0xe9"),
    "lost letter": ('{"text": "caf\ufffd"}'.encode(), "character 4 of the prompt is U+FFFD"),
    "5000 digits": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "5000 digits"),
    "1 MB prompt": (b'{"text": "' + b"a" * 2**20 + b'"}', "bytes"),
    "40 KB prompt": (b'{"text": "' + b"a" * 40_000 + b'"}', "40,000 bytes; at most 32,768"),
    "number": (b'{"text": 5}', "a number, not a string"),
    "null": (b'{"prompt": null}', "null, not a string"),
    "list": (b'["a"]', "a list, not a string"),
    "empty prompt": (b'{"text": "  \\n "}', "empty"),
    "half a line": (b'{"text": "a', "no JSON"),
    "plain text": (b"a prompt", "no JSON"),
    "priority in words": (b'{"text": "a", "priority": "high"}', "not a whole number from -1000 to 1000"),
    "priority out of range": (b'{"text": "a", "priority": 1001}', "not a whole number"),
    "half a priority": (b'{"text": "a", "priority": 1.5}', "not a whole number"),
    "priority true": (b'{"text": "a", "priority": true}', "not a whole number"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_and_nothing_is_written(studio, name):
    line, reason = BAD_LINES[name]
    project = studio.project()
    with pytest.raises(ImportRefused) as refused:
        take(studio, project, GOOD + b"\n" + line + b"\n" + GOOD)
    assert [error.line for error in refused.value.errors] == [3]
    assert reason in refused.value.errors[0].reason
    assert "line 3" in str(refused.value)
    assert Prompt.objects.count() == 0


def test_all_bad_lines_are_named_up_to_200(studio):
    project = studio.project()
    with pytest.raises(ImportRefused) as refused:
        take(studio, project, b'{"text": 1}\n' + GOOD + b'{"text": 2}\n')
    assert [error.line for error in refused.value.errors] == [1, 3]
    assert "and 1 more" in str(refused.value)
    with pytest.raises(ImportRefused) as refused:
        take(studio, project, b"x\n" * 1000)
    assert len(refused.value.errors) == 200


@pytest.mark.parametrize("content", [b"", b"\n\n  \r\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
def test_a_file_without_prompts_is_refused(studio, content, format):
    with pytest.raises(ImportRefused, match="no prompts"):
        take(studio, studio.project(), content, format)


def test_a_csv_of_a_header_alone_is_refused(studio):
    with pytest.raises(ImportRefused, match="no prompts"):
        take(studio, studio.project(), b"text\n", "csv")


def test_utf_16_is_named(studio):
    with pytest.raises(ImportRefused, match="UTF-16"):
        take(studio, studio.project(), '{"text": "a"}'.encode("utf-16"))


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(studio):
    project = studio.project()
    report = take(studio, project, b'\xef\xbb\xbf{"text": "one"}\r\n{"prompt": "two", "id": 7}\r\n"three"\r\n')
    assert (report.created, report.duplicates) == (3, 0)
    assert set(Prompt.objects.values_list("text", flat=True)) == {"one", "two", "three"}
    assert take(studio, project, b"\xef\xbb\xbftext\r\none\r\nfour\r\n", "csv").created == 1


def test_odd_but_honest_texts_go_in_as_they_are(studio):
    project = studio.project()
    texts = ["🎬🎬", "مرحبا بالعالم", "e" + "\u0301" * 1000, "a\ttab", "<script>alert(1)</script>", "=cmd|'/c calc'!A0"]
    take(studio, project, "\n".join(json.dumps({"text": text}) for text in texts))
    assert set(Prompt.objects.values_list("text", flat=True)) == set(texts)


def test_pasted_text_with_half_a_surrogate_pair_is_refused_by_line(studio):
    with pytest.raises(ImportRefused, match="line 2"):
        take(studio, studio.project(), "good\nbad \ud83d\n", "text")


@pytest.mark.parametrize(
    "content",
    [
        "text\none\ntwo\n",
        "id,Prompt\n1,one\n2,two\n",
        "prompt;note\none;x\ntwo;y\n",
        'note\ttext\nx\tone\n"y"\t"two"\n',
        'text,note\n"one",""\n\n"two","a ""quoted"" word, and\nanother line"\n',
    ],
)
def test_csv_is_read_by_its_header(studio, content):
    project = studio.project()
    assert take(studio, project, content, "csv").created == 2
    assert set(Prompt.objects.values_list("text", flat=True)) == {"one", "two"}


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("title\none\n", 1, "no column"),
        ("text,prompt\na,b\n", 1, "more than one"),
        ("text,id\none,1\ntwo\n", 3, "1 cell, and the header 2"),
        ("text,id\none,1\n,2\n", 3, "empty"),
        ('text\none\n"open\nquote\n', 4, "no CSV"),
        ("text\none\na\0b\n", 3, "NUL"),
        ("text\rone\rtwo\r", 1, "old Mac"),
        ("text\none\rtwo\n", 2, "old Mac"),
        ("text\n" + "a" * 40_000 + "\n", 2, "32,768"),
        ("text\n" + "a" * 200_000 + "\n", 2, "no CSV"),
    ],
)
def test_a_fault_in_csv_is_named_by_line(studio, content, line, reason):
    with pytest.raises(ImportRefused) as refused:
        take(studio, studio.project(), content, "csv")
    assert refused.value.errors[0].line == line
    assert reason in refused.value.errors[0].reason
    assert Prompt.objects.count() == 0


@pytest.mark.parametrize(
    ("language", "cells", "said"),
    [
        ("en", 1, "the row has 1 cell, and the header 20"),
        ("de", 1, "die Zeile hat 1 Zelle und die Kopfzeile 20"),
        ("de", 2, "die Zeile hat 2 Zellen und die Kopfzeile 20"),
        ("ar", 1, "في الصف خلية واحدة، وفي الرأس 20"),
        ("ar", 2, "في الصف خليتان، وفي الرأس 20"),
        ("ar", 3, "في الصف 3 خلايا، وفي الرأس 20"),
        ("ar", 11, "في الصف 11 خلية، وفي الرأس 20"),
    ],
)
def test_a_fault_says_its_number_in_the_form_that_the_number_asks_for(language, cells, said):
    header = ",".join(["text", *(f"n{index}" for index in range(19))])
    content = f"{header}\n{','.join('x' * cells)}\n".encode()
    with translation.override(language), pytest.raises(ImportRefused) as refused:
        read_prompts(io.BytesIO(content), "csv")
    assert refused.value.errors[0].reason == said


def test_other_faults_say_their_numbers_in_the_forms_of_arabic():
    by_line = {
        '{"text": "a", "n": ' + "9" * 5003 + "}": "في عدد 5003 أرقام؛",
        '{"text": "a", "n": ' + "9" * 5012 + "}": "في عدد 5012 رقمًا؛",
        json.dumps({"text": "a" * 40_003}): "بايتات؛",
        json.dumps({"text": "a" * 40_012}): "بايتًا؛",
        json.dumps({"messages": []}): "لا رسائل في",
        json.dumps({"messages": [{}] * 303}): "303 رسائل:",
        json.dumps({"messages": [{}] * 312}): "312 رسالة:",
    }
    with translation.override("ar"), pytest.raises(ImportRefused) as refused:
        read_prompts(io.BytesIO("\n".join(by_line).encode()), "jsonl")
    for error, said in zip(refused.value.errors, by_line.values(), strict=True):
        assert said in error.reason


def test_a_line_or_a_file_without_end_is_cut_off(studio):
    project = studio.project()
    with pytest.raises(ImportRefused) as refused:
        take(studio, project, b"short\n" + b"a" * 3 * 2**20 + b"\nshort too\n", "text")
    assert [(error.line, "longer than" in error.reason) for error in refused.value.errors] == [(2, True)]

    class Endless(io.RawIOBase):
        asked = 0

        def readline(self, size=-1):
            self.asked += size
            assert self.asked < 100 * 2**20
            return b"a" * size

    with pytest.raises(ImportRefused, match="larger than 50 MB"):
        import_prompts(actor=studio.admin, project=project, stream=Endless(), format="text")


def test_a_file_of_more_prompts_than_a_page_can_take_in_is_refused_unread(studio):
    project = studio.project()
    content = b"a\n" * 1_000_000
    for format, header in (("text", b""), ("csv", b"text\n")):
        stream = io.BytesIO(header + content)
        with pytest.raises(ImportRefused) as refused:
            import_prompts(actor=studio.admin, project=project, stream=stream, format=format)
        assert "more than 50,000 prompts; split it" in str(refused.value)
        assert stream.tell() < 110_000
    stream = io.BytesIO(content)
    with pytest.raises(ImportRefused) as refused:  # wrong in every line
        import_prompts(actor=studio.admin, project=project, stream=stream, format="jsonl")
    assert (len(refused.value.errors), stream.tell()) == (200, 400)


def test_many_prompts_are_written_a_thousand_at_a_time(studio):
    project = studio.project()
    content = "".join(f"prompt {number}\n" for number in range(2500))
    with CaptureQueriesContext(connection) as queries:
        assert take(studio, project, content, "text").created == 2500
    assert sum('INSERT INTO "projects_prompt"' in query["sql"] for query in queries) == 3
    again = take(studio, project, content + "one more\n", "text")
    assert (again.created, again.duplicates) == (1, 2500)
    assert prompt_counts(project).total == 2501


def test_importing_again_gives_duplicates_only(studio):
    project = studio.project()
    content = "".join(f"prompt {number}\n" for number in range(50))
    assert take(studio, project, content, "text").created == 50
    before = list(Prompt.objects.order_by("id").values())
    again = take(studio, project, content + "prompt 0\n  prompt 1  \nprompt 50\n", "text")
    assert (again.created, again.duplicates) == (1, 52)
    assert list(Prompt.objects.order_by("id").values())[:50] == before


def test_two_imports_at_once_write_each_prompt_once(live_studio, at_once):
    project = live_studio.project()
    content = "".join(f"prompt {number}\n" for number in range(30))
    one, two = at_once(*[lambda: take(live_studio, project, content, "text")] * 2)
    assert sorted([one.created, two.created]) == [0, 30]
    assert Prompt.objects.count() == 30


def test_the_split_follows_from_the_text_alone(studio):
    content = "".join(f"prompt {number}\n" for number in range(1000))
    here, there = studio.project(), studio.project()
    take(studio, here, content, "text", held_out_percent=20)
    take(studio, there, "".join(reversed(content.splitlines(keepends=True))), "text", held_out_percent=20)
    split = [dict(Prompt.objects.filter(project=project).values_list("text", "split")) for project in (here, there)]
    assert split[0] == split[1]
    assert 150 < prompt_counts(here).held_out < 250
    assert prompt_counts(here).total == 1000
    # by hand: the SHA-256 of "prompt 0" begins with these 8 digits
    first = Prompt.objects.get(project=here, text="prompt 0")
    assert first.split == ("held_out" if int(first.sha256[:8], 16) % 100 < 20 else "train")


@pytest.mark.parametrize(("percent", "held_out"), [(0, 0), (100, 20)])
def test_none_or_all_can_be_held_out(studio, percent, held_out):
    project = studio.project()
    take(studio, project, "".join(f"prompt {number}\n" for number in range(20)), "text", held_out_percent=percent)
    assert prompt_counts(project).held_out == held_out


def test_a_share_above_100_is_refused(studio):
    with pytest.raises(SettingsRefused, match="0 to 100"):
        take(studio, studio.project(), "a\n", "text", held_out_percent=101)


def test_prompts_are_sampled_in_turn_and_held_out_ones_never(studio):
    project = studio.ready_project()
    studio.items(project, pairs=3)
    take(studio, project, "held out\n", "text", held_out_percent=100)
    fresh = studio.prompts(project, 4)
    urgent = fresh[2]
    Prompt.objects.filter(pk=urgent.pk).update(priority=1)
    chosen = prompts_to_sample(project, 5)
    assert chosen[0] == urgent
    assert set(chosen[:4]) == set(fresh)  # nobody was asked about these
    assert len(prompts_to_sample(project, 100)) == 7


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b'{"text": "one", "priority": 5}\n{"text": "two"}\n{"text": "three", "priority": -2}\n', "jsonl"),
        (b"prompt,priority\none,5\ntwo,\nthree, -2\n", "csv"),
    ],
)
def test_a_prompt_brings_its_priority(studio, content, format):
    project = studio.project()
    take(studio, project, content, format)
    assert dict(Prompt.objects.values_list("text", "priority")) == {"one": 5, "two": 0, "three": -2}


@pytest.mark.parametrize("cell", ["high", "1.5", "1001", "--5", "+", "٣"])
def test_a_priority_in_a_csv_that_is_none_is_refused_by_its_line(studio, cell):
    with pytest.raises(ImportRefused, match="line 3: the priority is not a whole number"):
        take(studio, studio.project(), f"text,priority\ngood,+1\nbad,{cell}\n", "csv")
    assert Prompt.objects.count() == 0


def test_a_csv_with_two_priorities_is_refused(studio):
    with pytest.raises(ImportRefused, match="more than one column named priority"):
        take(studio, studio.project(), "text,priority,Priority\na,1,2\n", "csv")


def test_importing_a_prompt_again_changes_its_priority_and_nothing_else(studio):
    project = studio.project()
    take(studio, project, '{"text": "one", "priority": 1}\n{"text": "two", "priority": 2}\n', source="first")
    report = take(
        studio, project, '{"text": "one", "priority": 9}\n{"text": "two"}\n{"text": "three"}\n', source="second"
    )
    assert (report.created, report.duplicates, report.reprioritised) == (1, 2, 1)
    assert dict(Prompt.objects.values_list("text", "priority")) == {"one": 9, "two": 2, "three": 0}
    assert Prompt.objects.get(text="one").source == "first"


def test_of_prompts_asked_equally_often_the_higher_priority_is_answered_and_rated_first(studio):
    project = studio.ready_project()
    lines = [{"text": f"prompt {n}", "priority": n} for n in range(6)]
    take(studio, project, "\n".join(json.dumps(line) for line in lines), held_out_percent=0)
    first = prompts_to_sample(project, 3)
    assert [prompt.text for prompt in first] == ["prompt 5", "prompt 4", "prompt 3"]
    by_prompt = {prompt.pk: studio.samples(prompt, 1) for prompt in reversed(first)}
    make_items(project=project, samples_by_prompt=by_prompt)
    assert [prompt.text for prompt in prompts_to_sample(project, 3)] == ["prompt 2", "prompt 1", "prompt 0"]
    rater = studio.rater(project)
    rated = studio.rate_all(rater, project, "3")
    assert [rating.comparison.prompt.text for rating in rated] == ["prompt 5", "prompt 4", "prompt 3"]


# --- Seen afterwards -------------------------------------------------------------------------------------------------


def test_the_prompts_can_be_read_and_found_again(studio, client):
    project = studio.project()
    take(studio, project, "\n".join(f"prompt number {number}" for number in range(25)).encode(), format="text")
    take(studio, project, b'{"text": "<b>an odd one</b>", "priority": -3}', source="letters")
    client.force_login(studio.admin)
    first = client.get(f"/p/{project.slug}/import/").content.decode()
    assert "&lt;b&gt;an odd one&lt;/b&gt;" in first
    assert "<b>an odd one" not in first
    assert "\N{MINUS SIGN}3" in first
    assert first.count("prompt number") == 19
    assert client.get(f"/p/{project.slug}/import/?page=2").content.decode().count("prompt number") == 6
    for words in ("ODD one", "letter"):
        found = client.get(f"/p/{project.slug}/import/", {"words": words}).content.decode()
        assert "an odd one" in found
        assert "prompt number" not in found
    assert "No prompt has these words" in client.get(f"/p/{project.slug}/import/", {"words": "100 %"}).content.decode()


def test_reading_the_prompts_takes_as_many_queries_for_many_as_for_few(studio, client):
    project = studio.project()
    client.force_login(studio.admin)
    seen = []
    for count in (2, 18):
        take(studio, project, "\n".join(f"{count} {number}" for number in range(count)).encode(), format="text")
        with CaptureQueriesContext(connection) as queries:
            assert client.get(f"/p/{project.slug}/import/").status_code == 200
        seen.append(len(queries))
    assert seen[0] == seen[1]


def test_lines_of_json_below_a_line_of_text_are_not_taken_for_texts_unasked(studio, client):
    project = studio.project()
    client.force_login(studio.admin)
    sent = {"text": 'My aunt said\n{"prompt": "So"}', "format": "", "held_out_percent": 20}
    refused = client.post(f"/p/{project.slug}/import/", sent)
    assert refused.status_code == 422
    assert "Line 2 is an object of JSON" in refused.content.decode()
    assert not Prompt.objects.exists()
    assert client.post(f"/p/{project.slug}/import/", {**sent, "format": "text"}).status_code == 302
    assert Prompt.objects.count() == 2
