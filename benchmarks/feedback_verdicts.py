"""What a rater's browser sends of an item of any rating mode, read from the page that shows it."""

import html
import random
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

Fields = dict[str, str | list[str]]
"""What is sent, by the names of the form; a list where a name stands several times."""

KIND = re.compile(r'id="item" data-kind="(\w+)"')
BUTTON = re.compile(r'name="choice" value="([0-9])"')
PLACE = re.compile(r'<select name="place"')
AXIS = re.compile(r'type="radio" name="(axis:[^"]+)" value="1"')
TURN = re.compile(r'name="(turn:\d+)" value="1"')
FLAG = re.compile(r'name="flags" value="([^"]+)"')
EVIDENCE = re.compile(r'id="evidence-of" data-lead="(\d+)" data-text="([^"]*)"')


def verdict_on(page: str, dice: random.Random) -> Fields:
    """A verdict on the item of a page: any that its mode permits, with a flag and a reason now and then.

    Raises:
        ValueError: the page shows no item.
    """
    found = KIND.search(page)
    if found is None:
        raise ValueError(f"the page shows no item: {page[:200]!r}")
    fields = VERDICTS.get(found[1], press_a_button)(page, dice)
    if (flags := names(FLAG, page)) and dice.random() < 0.3:
        fields |= {"flags": [flag for flag in flags if dice.random() < 0.5], "reason": f"Reason {dice.random()}"}
    return fields


def press_a_button(page: str, dice: random.Random) -> Fields:
    """Any of the keys that end an item at once."""
    return {"choice": dice.choice(BUTTON.findall(page))}


def score(page: str, dice: random.Random) -> Fields:
    """1 to 5, and where there are axes, of some of them too."""
    axes = names(AXIS, page)
    if not axes:
        return press_a_button(page, dice)
    scores: Fields = {name: str(dice.randint(1, 5)) for name in axes if dice.random() < 0.8}
    return {"choice": "scored", "overall": str(dice.randint(1, 5)), **scores}


def rank(page: str, dice: random.Random) -> Fields:
    """A place for each answer, ties permitted; one in ten: all are bad."""
    count = len(PLACE.findall(page))
    if dice.random() < 0.1:
        return {"choice": "0"}
    return {"choice": "ranked", "place": [str(dice.randint(1, count)) for _ in range(count)]}


def hold_against_rule(page: str, dice: random.Random) -> Fields:
    """Yes, no or unsure; every other time with a passage as evidence."""
    fields = press_a_button(page, dice)
    found = EVIDENCE.search(page)
    if found is not None and dice.random() < 0.5:
        lead, length = int(found[1]), len(unquote(found[2]))
        start = dice.randrange(length)
        fields["evidence"] = f"{lead + start}-{lead + dice.randint(start + 1, length)}"
    return fields


def rewrite(page: str, dice: random.Random) -> Fields:
    """A text of one's own; one in five is good as it is."""
    return {"choice": "1"} if dice.random() < 0.2 else {"choice": "rewritten", "text": f"My own text, {dice.random()}."}


def judge_turns(page: str, dice: random.Random) -> Fields:
    """A verdict on each turn of the assistant."""
    return {"choice": "judged", **{name: str(dice.randint(1, 3)) for name in names(TURN, page)}}


VERDICTS: Mapping[str, Callable[[str, random.Random], Fields]] = {
    "single": score,
    "ranking": rank,
    "rule": hold_against_rule,
    "rewrite": rewrite,
    "turns": judge_turns,
}
"""By mode; of one that is not here, a key ends it."""


def names(pattern: re.Pattern[str], page: str) -> list[str]:
    """What a pattern finds in attributes, as it is meant."""
    return [html.unescape(name) for name in pattern.findall(page)]
