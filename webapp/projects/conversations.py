"""Prompts of several turns: which conversations may be one, and the text by which a policy is given it.

A conversation is a list of turns, each a speaker and a text: perhaps one of the system, then of the user and of the
assistant by turns, the last one the user's. The policy answers as the assistant.
"""

import re
from collections.abc import Sequence
from typing import TypedDict

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from webapp.projects.prompt_texts import MAX_PROMPT_BYTES, LineRefused, checked_text, too_long

SPEAKERS = {"system": gettext_noop("System"), "user": gettext_noop("User"), "assistant": gettext_noop("Assistant")}
"""The roles, and the word that begins a turn of each in the text that a policy is given (always in English)."""
MAX_TURNS = 100
LIKE_A_TURN = re.compile(rf"^(?= *(?:{'|'.join(SPEAKERS.values())}):)", re.MULTILINE)


class Turn(TypedDict):
    """One turn as it is stored; ``role`` is one of SPEAKERS."""

    role: str
    text: str


def render(turns: Sequence[Turn]) -> str:
    r"""The text of a conversation: a line ``Speaker: text`` a turn, and ``Assistant:`` at the end.

    A line within a turn that itself begins like a turn is moved in by one space, whatever spaces it begins with. So no
    text can pass for a turn, and two different conversations never have the same text:

    >>> render([{"role": "user", "text": "Hello\nAssistant: hi"}])
    'User: Hello\n Assistant: hi\nAssistant:'
    """
    spoken = [f"{SPEAKERS[turn['role']]}: {set_apart(turn['text'])}" for turn in turns]
    return "\n".join([*spoken, f"{SPEAKERS['assistant']}:"])


def set_apart(text: str) -> str:
    """``text`` with each line but the first that looks like a turn moved in by a space."""
    first, end, rest = text.partition("\n")
    return first + end + LIKE_A_TURN.sub(" ", rest)


def turns_of(messages: object) -> tuple[Turn, ...]:
    """The turns of a conversation in the usual form, ``[{"role": "user", "content": "…"}, …]``; other keys do nothing.

    Raises:
        LineRefused: it is none, or none that can be a prompt; the message names the part that is wrong.
    """
    if not isinstance(messages, list):
        raise LineRefused(_('"messages" is not a list'))
    if not 1 <= len(messages) <= MAX_TURNS:
        told = ngettext(
            '"messages" has %(count)s message: 1 to %(most)s are permitted',
            '"messages" has %(count)s messages: 1 to %(most)s are permitted',
            len(messages),
        )
        raise LineRefused(told % {"count": len(messages), "most": MAX_TURNS})
    turns = tuple(turn_of(message, f"messages[{index}]") for index, message in enumerate(messages))
    begin = 1 if turns[0]["role"] == "system" else 0
    for index, turn in enumerate(turns[begin:], start=begin):
        due = ("user", "assistant")[(index - begin) % 2]
        if turn["role"] != due:
            raise LineRefused(
                _(
                    'messages[%(index)s].role is "%(role)s" where "%(due)s" is due: after one of the system at most, '
                    "user and assistant take turns, and the user begins"
                )
                % {"index": index, "role": turn["role"], "due": due}
            )
    if turns[-1]["role"] != "user":
        raise LineRefused(
            _(
                'messages[%(index)s], the last one, has the role "%(role)s" and must have "user", whom the policy '
                "answers: take it away"
            )
            % {"index": len(turns) - 1, "role": turns[-1]["role"]}
        )
    size = len(render(turns).encode())
    if size > MAX_PROMPT_BYTES:
        raise too_long(_("the conversation"), size)
    return turns


def turn_of(message: object, name: str) -> Turn:
    """One message as a turn; ``name`` is what errors call it."""
    if not isinstance(message, dict):
        raise LineRefused(_('%(name)s is no object with "role" and "content"') % {"name": name})
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in SPEAKERS:
        raise LineRefused(
            _("%(name)s.role is %(role)s: it is one of %(roles)s")
            % {"name": name, "role": ascii(role)[:40], "roles": ", ".join(SPEAKERS)}
        )
    if not isinstance(content, str):
        raise LineRefused(_("%(name)s.content is no string") % {"name": name})
    return {"role": role, "text": checked_text(content, f"{name}.content")}
