"""The words that scripts say, for the page to carry: JSON that words.js reads, since scripts are the same for all."""

import json
from collections.abc import Callable, Mapping

COUNTS = {"zero": 0, "one": 1, "two": 2, "few": 3, "many": 11, "other": 100}
"""A number of each plural form that browsers tell apart (CLDR), right for every language that the pages have."""

Words = Mapping[str, str | dict[str, str]]


def forms(said: Callable[[int], str]) -> dict[str, str]:
    """A text that depends on a number, by the names of ``Intl.PluralRules`` for its forms; ``said`` asks ngettext."""
    return {name: said(count) for name, count in COUNTS.items()}


def as_json(words: Words) -> str:
    """``words`` as text for a ``<template>``, which a template of ours escapes like any other text."""
    return json.dumps(words, ensure_ascii=False, separators=(",", ":"))
