"""Times in templates as one says them."""

from datetime import datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.formats import date_format

register = template.Library()


@register.filter
def when(moment: datetime | None) -> str:
    """``today 14:02``, ``yesterday 14:02``, ``Tuesday 14:02`` within a week, else the date."""
    if moment is None:
        return "–"
    here, today = timezone.localtime(moment), timezone.localdate()
    days = (today - here.date()).days
    if days == 0:
        day = "today"
    elif days == 1:
        day = "yesterday"
    elif 1 < days < 7:
        day = date_format(here, "l")
    else:
        day = date_format(here, "j M Y" if here.year != today.year else "j M")
    return f"{day} {here:%H:%M}"


@register.filter
def ago(moment: datetime | None) -> str:
    """``just now``, ``4 minutes ago``, ``3 hours ago``, ``2 days ago``."""
    if moment is None:
        return "–"
    gone = timezone.now() - moment
    for unit, size in (("day", timedelta(days=1)), ("hour", timedelta(hours=1)), ("minute", timedelta(minutes=1))):
        count = gone // size
        if count >= 1:
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
