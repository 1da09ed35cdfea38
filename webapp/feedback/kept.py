"""What was begun in a plain form and not sent as a verdict: kept in the session, as no script keeps it."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.contrib.sessions.backends.base import SessionBase

from webapp.feedback.modes.base import REASON_LENGTH, Extras, cleaned
from webapp.feedback.modes.rewrite import LONGEST
from webapp.feedback.modes.rule import LONGEST_QUOTE, MOST_PASSAGES
from webapp.feedback.shown import ShownItem
from webapp.feedback.verdicts import SINGLE_CHOICES
from webapp.projects.models import Project

KEPT = "kept"  # under which the session has it: by token, the oldest first
MOST = 3  # items: a session is read at each request
LONGEST_CHOICE = 2000  # characters; the keys of 999 turns
LONGEST_PLACE = 20  # characters of a marked passage's place


def begun(item: ShownItem, said: Extras, choice: str | None, project: Project) -> dict[str, Any]:
    """What was ``said`` of an item by hand, as it can be kept; nothing that is empty or stood there before.

    ``choice``: what of the verdict was given piece by piece, if anything.
    """
    text = said.text if said.text.strip() != cleaned(item.answers[0]).strip() else ""
    found: dict[str, Any] = {
        "choice": choice if choice and len(choice) <= LONGEST_CHOICE else "",
        "text": text[:LONGEST] if text.strip() else "",
        "reason": said.reason[:REASON_LENGTH] if said.reason.strip() else "",
        "quote": said.quote[:LONGEST_QUOTE] if said.quote.strip() else "",
        "flags": [flag for flag in project.flags if flag in said.flags],
        "scores": {name: said.scores[name] for name in project.axes if said.scores.get(name) in SINGLE_CHOICES},
        "evidence": [place[:LONGEST_PLACE] for place in said.evidence[:MOST_PASSAGES]],
    }
    return {name: value for name, value in found.items() if value}


def keep(session: SessionBase, token: UUID, found: Mapping[str, Any]) -> bool:
    """Keep what was ``begun`` of an item until its rater comes back to it; False where that is nothing."""
    if not found:
        return False
    others: dict[str, Any] = session.get(KEPT, {})
    others.pop(str(token), None)
    session[KEPT] = dict([*others.items(), (str(token), found)][-MOST:])
    return True


def kept(session: SessionBase, token: UUID) -> tuple[str | None, Extras] | None:
    """What ``keep`` has of an item, the pieces of a verdict and what was said beside them; None: nothing."""
    found = session.get(KEPT, {}).get(str(token))
    return added(found, None, Extras()) if found else None


def added(found: Mapping[str, Any], choice: str | None, stored: Extras) -> tuple[str | None, Extras]:
    """What was ``begun``, beside a verdict that is stored: where one field has room for both, both stand there."""
    reasons = dict.fromkeys(reason for reason in (stored.reason, found.get("reason", "")) if reason)
    return found.get("choice") or choice, Extras(
        flags=tuple(dict.fromkeys([*stored.flags, *found.get("flags", [])])),
        reason="\n".join(reasons),
        text=found.get("text", stored.text),
        scores={**stored.scores, **found.get("scores", {})},
        evidence=tuple(found.get("evidence", stored.evidence)),
        quote=found.get("quote", stored.quote),
    )
