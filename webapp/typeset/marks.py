"""Visible marks for characters that cannot be seen, or that change how others are seen.

A mark keeps the characters in the page, out of sight: what is copied or compared is the text as it was written, and an
override of the writing direction has nothing to act on.

The titles of marks are English in every language of the pages: a text is marked once and kept for all readers.
"""

import re
import unicodedata
from functools import cache

from django.utils.html import escape

MAX_COMBINING = 8  # marks on one letter; the scripts of the world need six at most
BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
BLANKS = (
    "\xad\u034f\u115f\u1160\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"
)
SMUGGLERS = "\U000e0000-\U000e0fff"  # tags and variation selectors by which a text can carry another one unseen
FLAG = "\U0001f3f4[\U000e0061-\U000e007a]{1,8}\U000e007f"  # of a region: here the tags are seen
JOINERS = "\u200c\u200d"  # needed by Persian, by Indic scripts and by emoji, never beside plain Latin
MATH = re.compile(r"(<math\b.*?</math>)", re.DOTALL)


@cache
def unseen() -> re.Pattern[str]:
    """What ``mark_unseen`` marks; put together on first use."""
    combining = combining_marks()
    return re.compile(
        f"(?P<flag>{FLAG})"
        f"|(?P<one>[{BIDI}{CONTROLS}{BLANKS}{SMUGGLERS}\\ufffe\\uffff])(?P=one)*"
        rf"|[{JOINERS}]{{2,}}|(?<![^\0-\x7f])[{JOINERS}]|[{JOINERS}](?![^\0-\x7f])|[\ufe0e\ufe0f]{{2,}}"
        f"|(?<=[{combining}]{{{MAX_COMBINING}}})(?P<heap>[{combining}]+)"
    )


def combining_marks() -> str:
    """The characters that stand on the one before, as the inside of a character class of a regular expression."""
    points = [
        point
        for point in range(0x300, 0x20000)
        if unicodedata.category(chr(point)) in ("Mn", "Me") and not 0xFE00 <= point <= 0xFE0F and point != 0x34F
    ]
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def mark_unseen(html: str) -> str:
    """``html``, whose attributes hold nothing of the text, with a mark for each run of such characters.

    Formulas are left alone: ``formulas`` takes none that holds any, and MathML has invisible signs of its own.
    """
    if html.isascii() and html.isprintable():
        return html
    parts = MATH.split(html)
    return "".join(part if index % 2 else unseen().sub(mark_of, part) for index, part in enumerate(parts))


def unseen_places(text: str) -> list[tuple[int, int, str, str]]:
    """Where ``mark_unseen`` sets a mark: the first character, the one after the last, its label, its title."""
    if text.isascii() and text.isprintable():
        return []
    return [(*found.span(), *words_of(found)) for found in unseen().finditer(text) if not found["flag"]]


def words_of(found: re.Match[str]) -> tuple[str, str]:
    """Label and title of a mark."""
    count = len(found[0])
    if found["heap"]:
        return f"+{count}", f"{count} more combining marks"
    name = unicodedata.name(found[0][0], "control character").lower()
    codes = dict.fromkeys(f"U+{ord(char):04X}" for char in found[0][:3])
    label = " ".join(codes) + (f" ×{count}" if count > 1 else "")
    return label, name if count == 1 else f"{name}, a run of {count}"


def mark_of(found: re.Match[str]) -> str:
    if found["flag"]:
        return found[0]
    label, title = words_of(found)
    return f'<span class="mark" data-mark="{label}" title="{escape(title)}"><span hidden>{found[0]}</span></span>'
