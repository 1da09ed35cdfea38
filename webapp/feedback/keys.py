"""The keys of the rater page: what each does, and how a rater may choose others.

A rater's own key stands for one of the page's: scripts and templates speak of the page's keys alone, ``keys.js`` turns
one into the other. Enter, Escape, Tab and Space belong to the browser and stay.
"""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.accounts.models import User

KEYS = {
    "1": gettext_lazy("A is much better; of one answer: bad; the first of what is ranked or listed"),
    "2": gettext_lazy("A is clearly better; weak; the second"),
    "3": gettext_lazy("A is slightly better; fair; the third"),
    "4": gettext_lazy("both are equal; good; the fourth"),
    "5": gettext_lazy("B is slightly better; excellent; the fifth"),
    "6": gettext_lazy("B is clearly better; the sixth"),
    "7": gettext_lazy("B is much better; the seventh"),
    "8": gettext_lazy("the eighth of what is listed"),
    "9": gettext_lazy("the ninth of what is listed"),
    "0": gettext_lazy("both are bad, or all"),
    "=": gettext_lazy("in a ranking: the next shares the place; in a pair: equal"),
    "x": gettext_lazy("flags"),
    "r": gettext_lazy("a reason in my own words"),
    "m": gettext_lazy("mark a passage as evidence"),
    "e": gettext_lazy("write an answer anew"),
    "s": gettext_lazy("skip; with Shift: say why"),
    "f": gettext_lazy("report; with Shift: say why"),
    "u": gettext_lazy("undo; with Shift: redo"),
    "p": gettext_lazy("pause, and go on"),
    "j": gettext_lazy("scroll down"),
    "k": gettext_lazy("scroll up"),
    "l": gettext_lazy("scroll the answers apart or together"),
    "d": gettext_lazy("mark the sentences that differ"),
    "[": gettext_lazy("the turn before, in a conversation"),
    "]": gettext_lazy("the turn after, in a conversation"),
    "o": gettext_lazy("open or close the earlier turns of a conversation"),
    "v": gettext_lazy("the texts as written or formatted"),
    "g": gettext_lazy("guideline"),
    "?": gettext_lazy("all keys"),
}
"""The page's own keys and what they do, in the order of the settings page."""

TOGGLES = ("as-written", "unlinked")  # what of the page's look is kept from item to item and from day to day
REST_MINUTES = 45  # of rating, after which the page reminds of a break


def own_keys(user: User) -> dict[str, str]:
    """The keys that ``user`` has changed, by the page's key; what is no key of the page any more is left out."""
    stored = user.page_settings.get("keys", {})
    return {key: own for key, own in stored.items() if key in KEYS and own != key}


def problems_with(chosen: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with these keys for each of ``KEYS``, in words, by the page's key; empty where nothing is."""
    found = {}
    for key, own in chosen.items():
        others = [KEYS[other] for other, same in chosen.items() if same == own and other != key]
        if len(own) != 1 or not own.isprintable() or own.isspace():
            found[key] = _("It takes one letter, digit or sign.")
        elif others:
            found[key] = _("“%(key)s” is also the key for “%(other)s”: give one of them another.") % {
                "key": own.upper(),
                "other": others[0],
            }
    return found


def page_context(user: User) -> dict[str, Any]:
    """What the rater page is told of its rater's settings; ``own_keys`` as JSON."""
    settings = user.page_settings
    return {
        "own_keys": json.dumps(own_keys(user)),
        "toggles": [name for name in settings.get("toggles", []) if name in TOGGLES],
        "rest_minutes": settings.get("rest_minutes", REST_MINUTES),
    }
