"""Texts of models, prompts and people as they stand on a page: formatted where they are Markdown, and word for word.

Nothing a text holds is executed, fetched or followed, and nothing it holds is left out: raw HTML is shown as it was
written, the target of a link stands beside its words, characters that cannot be seen get a visible mark. What takes
too much work is shown word for word alone, so that no text can hold a page up. The same text always looks the same:
the limits count characters and steps, not time.
"""

import sys
from dataclasses import dataclass

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from webapp.typeset.cache import WeighedCache
from webapp.typeset.markdown import MAX_CHARACTERS, to_html
from webapp.typeset.marks import mark_unseen

KEPT_BYTES = 32 * 2**20  # a thousand texts of ordinary length; marks can make one of MAX_CHARACTERS weigh 6 MB


@dataclass(frozen=True, slots=True)
class Typeset:
    """A text in HTML. ``formatted`` is None where it would look the same as ``raw``, or is beyond the limits."""

    raw: SafeString
    formatted: SafeString | None


def typeset(text: str) -> Typeset:
    """``text`` for a page, of which it is the content of one block."""
    return kept(text) if len(text) <= MAX_CHARACTERS else typeset_anew(text)


def typeset_anew(text: str) -> Typeset:
    formatted = to_html(text)
    raw = mark_safe(mark_unseen(escape(text)))
    return Typeset(raw, None if formatted is None else mark_safe(formatted))


def weight_of(text: str, made: Typeset) -> int:
    """Bytes in memory: a character takes one to four, whichever of a string takes most."""
    return sum(sys.getsizeof(one) for one in (text, made.raw, made.formatted or ""))


kept = WeighedCache(KEPT_BYTES, typeset_anew, weight_of)
