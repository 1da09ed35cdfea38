"""Reads prompts from a file of lines: JSONL, CSV or plain text. Every fault is named with its line."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webapp.errors import ImportRefused, LineError
from webapp.projects.conversations import Turn, render, turns_of
from webapp.projects.prompt_texts import LineRefused, checked_text

FORMATS = ("jsonl", "csv", "text")
COLUMNS = ("text", "prompt")
MESSAGES = "messages"
PRIORITY = "priority"
PRIORITIES = range(-1000, 1001)
MAX_FILE_BYTES = 50 * 2**20
MAX_LINE_BYTES = 2**20
MAX_PROMPTS = 50_000  # of one file: a page must answer within seconds
MAX_DIGITS = 100  # of a whole number in JSON: Python refuses very long ones with a message that helps nobody
OLD_MAC = gettext_lazy(
    "a line ends with a carriage return alone, as on an old Mac; save the file with the line ends of today"
)
MAX_ERRORS = 200  # enough to mend by; a file of another format is wrong in every line


@dataclass(frozen=True, slots=True)
class PromptLine:
    """A prompt of a file; ``priority`` is None where its line says nothing of it.

    ``turns`` are those of a conversation, whose text is the one that a policy is given; else there are none.
    """

    text: str
    priority: int | None = None
    turns: tuple[Turn, ...] = ()


def read_prompts(stream: BinaryIO, format: str) -> list[PromptLine]:
    """The prompts of a file in UTF-8, in order, without the white space around them.

    jsonl: an object a line with a string under ``text`` or ``prompt``, or a conversation under ``messages``, and
    perhaps a whole number under ``priority`` (other keys are passed over), or a string alone; csv: a header with a
    column ``text`` or ``prompt`` and perhaps one named ``priority``, split at comma, semicolon or tab; text: a prompt a
    line. Blank lines are passed over; a byte order mark and Windows line ends do no harm.

    Raises:
        ImportRefused: any line is not right; its ``errors`` name each with its number.
        ValueError: ``format`` is none of FORMATS.
    """
    if format not in FORMATS:
        raise ValueError(f"{format=} is not one of {FORMATS}")
    errors: list[LineError] = []
    lines = text_lines(stream, errors)
    found = read_csv(lines, errors) if format == "csv" else read_lines(lines, errors, format)
    prompts = list(islice(found, MAX_PROMPTS + 1))
    if len(prompts) > MAX_PROMPTS:
        told = ngettext(
            "the file has more than %(most)s prompt; split it",
            "the file has more than %(most)s prompts; split it",
            MAX_PROMPTS,
        )
        errors.append(LineError(0, told % {"most": f"{MAX_PROMPTS:,}"}))
    if errors:
        raise ImportRefused(sorted(errors, key=lambda error: error.line)[:MAX_ERRORS])
    if not prompts:
        raise ImportRefused([LineError(0, _("the file has no prompts"))])
    return prompts


def text_lines(stream: BinaryIO, errors: list[LineError]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, decoded; one that is too long or no UTF-8 goes to ``errors`` and counts as blank."""
    number = size = 0
    while len(errors) < MAX_ERRORS and (line := stream.readline(MAX_LINE_BYTES + 1)):
        number += 1
        size += len(line)
        too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
        while too_long and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
            size += len(line)
            if not line or size > MAX_FILE_BYTES:
                break
        if size > MAX_FILE_BYTES:
            most = MAX_FILE_BYTES // 2**20
            told = ngettext(
                "the file is larger than %(most)s MB; split it", "the file is larger than %(most)s MB; split it", most
            )
            errors.append(LineError(number, told % {"most": most}))
            return
        if too_long:
            told = ngettext(
                "the line is longer than %(most)s byte", "the line is longer than %(most)s bytes", MAX_LINE_BYTES
            )
            errors.append(LineError(number, told % {"most": f"{MAX_LINE_BYTES:,}"}))
            yield number, "\n"
            continue
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                errors.append(LineError(1, _("the file is in UTF-16; save it as UTF-8")))
                return
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            reason = _("byte %(at)s (0x%(byte)s) is not UTF-8; save the file as UTF-8") % {
                "at": error.start + 1,
                "byte": f"{line[error.start]:02x}",
            }
            errors.append(LineError(number, reason))
            yield number, "\n"


def read_lines(lines: Iterator[tuple[int, str]], errors: list[LineError], format: str) -> Iterator[PromptLine]:
    """The prompts of JSONL or plain text."""
    for number, line in lines:
        if line.strip():
            try:
                yield prompt_of_json(line) if format == "jsonl" else PromptLine(checked_text(line))
            except LineRefused as refused:
                errors.append(LineError(number, str(refused)))


def read_csv(lines: Iterator[tuple[int, str]], errors: list[LineError]) -> Iterator[PromptLine]:
    """The prompts of a CSV file; a row that spans several lines is named by its last."""
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    header_number, header = first
    columns = find_columns(header_number, header, errors)
    if columns is None:
        return
    number = header_number

    def numbered() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007, B020 (the row reader below looks at the number)
            yield line

    rows = csv.reader(numbered(), delimiter=columns.delimiter, strict=True)
    while True:
        try:
            row = next(rows)
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != columns.width:
                told = ngettext(
                    "the row has %(count)s cell, and the header %(width)s",
                    "the row has %(count)s cells, and the header %(width)s",
                    len(row),
                )
                raise LineRefused(told % {"count": len(row), "width": columns.width})
            priority = None if columns.priority is None else row[columns.priority].strip()
            yield PromptLine(checked_text(row[columns.text]), priority_of_text(priority) if priority else None)
        except StopIteration:
            return
        except csv.Error as error:
            is_old_mac = "new-line character" in str(error)
            errors.append(
                LineError(number, str(OLD_MAC) if is_old_mac else _("this is no CSV: %(error)s") % {"error": error})
            )
            return  # where a quote is open, no later row can be told apart
        except LineRefused as refused:
            errors.append(LineError(number, str(refused)))


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a CSV file keeps what is read of it; ``priority`` is None where it has no such column."""

    delimiter: str
    text: int
    priority: int | None
    width: int


def find_columns(number: int, header: str, errors: list[LineError]) -> Columns | None:
    """What the header says; None where the file cannot be read by it."""
    for delimiter in ",;\t":
        try:
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        except csv.Error:
            continue
        texts = [index for index, name in enumerate(names) if name in COLUMNS]
        priorities = [index for index, name in enumerate(names) if name == PRIORITY]
        if not texts:
            continue
        if len(texts) > 1 or len(priorities) > 1:
            twice = "text or prompt" if len(texts) > 1 else PRIORITY
            errors.append(
                LineError(
                    number,
                    _("the header has more than one column named %(twice)s; keep one of them") % {"twice": twice},
                )
            )
            return None
        return Columns(delimiter, texts[0], priorities[0] if priorities else None, len(names))
    is_old_mac = "\r" in header.rstrip("\r\n")
    errors.append(LineError(number, str(OLD_MAC) if is_old_mac else _("the header has no column named text or prompt")))
    return None


def prompt_of_json(line: str) -> PromptLine:
    """The prompt in one line of JSON; strict where Python's reader is not (NaN, a key given twice)."""
    try:
        value = json.loads(
            line, object_pairs_hook=unique_pairs, parse_constant=refuse_constant, parse_int=bounded_integer
        )
    except RecursionError:
        raise LineRefused(_("this is nested too deeply")) from None
    except json.JSONDecodeError as error:
        raise LineRefused(
            _("this is no JSON: %(msg)s at character %(at)s")
            % {"msg": error.msg.removesuffix(" at"), "at": error.pos + 1}
        ) from None
    priority = None
    if isinstance(value, dict):
        priority = checked_priority(value.get(PRIORITY))
        columns = [name for name in (*COLUMNS, MESSAGES) if name in value]
        if not columns:
            raise LineRefused(_('the object has no key "text" or "prompt", nor "messages"'))
        if len(columns) > 1:
            raise LineRefused(
                _('the object has both "%(one)s" and "%(other)s"; keep one of them')
                % {"one": columns[0], "other": columns[1]}
            )
        if columns == [MESSAGES]:
            turns = turns_of(value[MESSAGES])
            return PromptLine(render(turns), priority, turns)
        value = value[columns[0]]
    if not isinstance(value, str):
        kinds = {dict: _("an object"), bool: _("true or false"), type(None): _("null")}
        if isinstance(value, list):
            raise LineRefused(_('the prompt is a list, not a string; a conversation stands under "messages"'))
        raise LineRefused(_("the prompt is %(kind)s, not a string") % {"kind": kinds.get(type(value), _("a number"))})
    return PromptLine(checked_text(value), priority)


def checked_priority(value: object) -> int | None:
    """A priority that can be stored, or None where there is none."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value not in PRIORITIES:
        raise LineRefused(
            _("the priority is not a whole number from %(least)s to %(most)s")
            % {"least": PRIORITIES[0], "most": PRIORITIES[-1]}
        )
    return value


def priority_of_text(text: str) -> int | None:
    """A priority in a cell of a CSV file."""
    is_number = text.lstrip("+-").isascii() and text.lstrip("+-").isdigit() and len(text) < MAX_DIGITS
    return checked_priority(int(text) if is_number and text.count("-") + text.count("+") < 2 else text)


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one with a key given twice is refused, since which of the two is meant cannot be known."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise LineRefused(_("the key %(key)s is given twice") % {"key": ascii(key[:40])})
        found[key] = value
    return found


def refuse_constant(name: str) -> None:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise LineRefused(_("this is no JSON: %(name)s is not a number there") % {"name": name})


def bounded_integer(digits: str) -> int:
    """A whole number of bearable length."""
    if len(digits) > MAX_DIGITS:
        told = ngettext(
            "a number has %(count)s digit; at most %(most)s are read",
            "a number has %(count)s digits; at most %(most)s are read",
            len(digits),
        )
        raise LineRefused(told % {"count": len(digits), "most": MAX_DIGITS})
    return int(digits)


def stream_of(text: str) -> BinaryIO:
    """Pasted text as a file of bytes; half a surrogate pair becomes a byte that ``read_prompts`` refuses by line."""
    return io.BytesIO(text.encode("utf-8", "surrogatepass"))
