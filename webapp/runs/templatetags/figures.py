"""Numbers in templates; the words are made in webapp/runs/figures.py."""

from typing import Any

from django import template

from webapp.runs import figures
from webapp.runs.agreement import agreement_of, doubt_about

register = template.Library()

register.filter("duration", figures.say_duration)
register.filter("left", figures.say_left)
register.filter("value", figures.say_value)
register.filter("difference", figures.say_difference)
register.filter("agreement", agreement_of)
register.filter("doubt", doubt_about)


@register.filter
def interval(share: Any, count: Any) -> str:
    """The 95 % interval of a share, with its sign of percent; empty where either is missing."""
    if not isinstance(share, int | float) or not isinstance(count, int):
        return ""
    return figures.say_interval(share, count)


@register.filter
def ends(estimate: Any) -> str:
    """The 95 % interval of an estimate of rlhf_core.evaluation; empty where there is none."""
    return figures.say_ends(estimate.get("low"), estimate.get("high")) if isinstance(estimate, dict) else ""


@register.filter
def signed(value: int) -> str:
    """A whole number with its sign, a true minus."""
    return f"+{value}" if value > 0 else str(value).replace("-", "\N{MINUS SIGN}")
