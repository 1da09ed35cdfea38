"""Numbers as pages say them: durations, intervals, values with their unit, in the reader's language."""

from datetime import datetime, timedelta
from math import floor, log10, sqrt
from typing import Any

from django.utils.formats import get_format
from django.utils.translation import get_language_bidi
from django.utils.translation import gettext as _

EMPTY = "–"
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"  # before a percent sign: it would begin a line of its own
ISOLATE, END_ISOLATE = "\N{LEFT-TO-RIGHT ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"


def in_figures(text: str) -> str:
    """A number written as in English, ``1,234.5``, with the separators of the reader's language."""
    marks = {",": get_format("THOUSAND_SEPARATOR"), ".": get_format("DECIMAL_SEPARATOR")}
    return text.translate(str.maketrans(marks))


def signed(number: str) -> str:
    """A number with its minus as print has it; between right-to-left words its signs would go to the wrong end."""
    shown = number.replace("-", MINUS)
    return f"{ISOLATE}{shown}{END_ISOLATE}" if MINUS in shown and get_language_bidi() else shown


def say_duration(seconds: float | None) -> str:
    """``221.4`` -> ``3 min 41 s``; below ten seconds one decimal, above a day hours."""
    if seconds is None:
        return EMPTY
    if seconds < 9.95:
        return _("%(seconds)s s") % {"seconds": in_figures(f"{max(seconds, 0.0):.1f}")}
    whole = round(seconds)
    if whole < 60:
        return _("%(seconds)s s") % {"seconds": whole}
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return (_("%(minutes)s min %(seconds)s s") if rest else _("%(minutes)s min")) % {
            "minutes": minutes,
            "seconds": rest,
        }
    hours, minutes = divmod(minutes, 60)
    values = {"hours": in_figures(f"{hours:,}"), "minutes": minutes}
    return (_("%(hours)s h %(minutes)s min") if minutes else _("%(hours)s h")) % values


def say_left(seconds: float | None) -> str:
    """The time to an end, which is only estimated: ``about 4 min left``, never to the second above a minute."""
    if seconds is None:
        return ""
    if seconds < 55:
        duration = _("%(seconds)s s") % {"seconds": max(5, 5 * round(seconds / 5))}
    else:
        duration = say_duration(60 * max(1, round(seconds / 60)))
    return _("about %(duration)s left") % {"duration": duration}


def say_value(value: Any, unit: str = "") -> str:
    """A metric's value, short: three figures or so, shares in percent, the unit left to the caller."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return EMPTY
    if value != value:
        return _("not a number")
    if unit == "share":
        return signed(f"{in_figures(f'{100 * value:.1f}')}{NO_BREAK}%")
    if isinstance(value, int) or (unit == "verdicts" and value.is_integer()):
        return signed(in_figures(f"{value:,.0f}"))
    return signed(in_figures(say_number(value)))


def say_number(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits}e{int(power)}"
    if size < 0.01:
        return f"{value:.{1 - floor(log10(size))}f}"
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def say_difference(value: Any) -> str:
    """A value that may be negative, with its sign: ``+0.412``."""
    if not isinstance(value, int | float) or not value > 0:
        return say_value(value)
    said = say_value(value)
    return f"{ISOLATE}+{said}{END_ISOLATE}" if get_language_bidi() else f"+{said}"


def say_ends(low: Any, high: Any) -> str:
    """An interval's ends: ``0.31 to 0.52``; empty where it has none."""
    return (
        ""
        if low is None or high is None
        else _("%(low)s to %(high)s") % {"low": say_value(low), "high": say_value(high)}
    )


def interval_of_share(share: float, count: int) -> tuple[float, float] | None:
    """The 95 % Wilson interval of a share seen in ``count`` independent cases; none without cases.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if count <= 0:
        return None
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def say_interval(share: float, count: int) -> str:
    """``62–80 %``: the interval's ends."""
    ends = interval_of_share(share, count)
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}{NO_BREAK}%" if ends else ""


def seconds_left(started_at: datetime | None, now: datetime, step: int, total_steps: int | None) -> float | None:
    """Time to the end if the rest goes as fast as what is done; none before the first step."""
    if started_at is None or not total_steps or step < 1 or step >= total_steps:
        return None
    return (now - started_at) / timedelta(seconds=1) / step * (total_steps - step)
