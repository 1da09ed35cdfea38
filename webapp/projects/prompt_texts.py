"""Which texts may be part of a prompt: such as can be stored, shown and given to a policy."""

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

MAX_PROMPT_BYTES = 32 * 2**10
LOST = "\ufffd"  # what programs write in place of a letter that they could not read


class LineRefused(Exception):
    """What is wrong with the line at hand."""


def checked_text(text: str, name: str = "") -> str:
    """``text`` without the white space around it, where it can be stored and shown.

    ``name`` is what errors call it: the prompt, unless it is a part of one.
    """
    name = name or _("the prompt")
    text = text.strip()
    if not text:
        raise LineRefused(_("%(name)s is empty") % {"name": name})
    if "\0" in text:
        at = text.index("\0") + 1
        raise LineRefused(_("character %(at)s of %(name)s is NUL, which cannot be stored") % {"at": at, "name": name})
    if LOST in text:
        raise LineRefused(
            _("character %(at)s of %(name)s is U+FFFD: the letter there was lost; save it as UTF-8 anew")
            % {"at": text.index(LOST) + 1, "name": name}
        )
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise LineRefused(
            _("character %(at)s of %(name)s is half of a surrogate pair") % {"at": error.start + 1, "name": name}
        ) from None
    if size > MAX_PROMPT_BYTES:
        raise too_long(name, size)
    return text


def too_long(name: str, size: int) -> LineRefused:
    """That a text has more bytes than a prompt may have."""
    told = ngettext(
        "%(name)s has %(size)s byte; at most %(most)s are permitted",
        "%(name)s has %(size)s bytes; at most %(most)s are permitted",
        size,
    )
    return LineRefused(told % {"name": name, "size": f"{size:,}", "most": f"{MAX_PROMPT_BYTES:,}"})
