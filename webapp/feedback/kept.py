"""What was written into a plain form and left by a skip: kept in the session, where there is no script to keep it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib.sessions.backends.base import SessionBase

from webapp.feedback.modes.base import REASON_LENGTH, Extras, cleaned
from webapp.feedback.modes.rewrite import LONGEST
from webapp.feedback.shown import ShownItem

KEPT = "kept"  # under which the session has it: by token, the oldest first
MOST = 3  # items: a session is read at each request


def keep(session: SessionBase, item: ShownItem, said: Extras, flags: Sequence[str]) -> bool:
    """Keep what was ``said`` of an item until its rater comes back to it; False where nothing was written."""
    text = said.text if said.text.strip() != cleaned(item.answers[0]).strip() else ""
    found = {
        "text": text[:LONGEST] if text.strip() else "",
        "reason": said.reason[:REASON_LENGTH],
        "flags": [flag for flag in flags if flag in said.flags],
    }
    if not any(found.values()):
        return False
    others: dict[str, Any] = session.get(KEPT, {})
    others.pop(str(item.token), None)
    session[KEPT] = dict([*others.items(), (str(item.token), found)][-MOST:])
    return True


def kept(session: SessionBase, token: UUID) -> Extras | None:
    """What ``keep`` has of an item; None: nothing."""
    found = session.get(KEPT, {}).get(str(token))
    return Extras(tuple(found["flags"]), found["reason"], found["text"]) if found else None
