"""Times in templates as one says them."""

from datetime import datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

register = template.Library()


@register.filter
def when(moment: datetime | None) -> str:
    """``today 14:02``, ``yesterday 14:02``, ``Tuesday 14:02`` within a week, else the date."""
    if moment is None:
        return "–"
    here, today = timezone.localtime(moment), timezone.localdate()
    days = (today - here.date()).days
    if days == 0:
        day = _("today")
    elif days == 1:
        day = _("yesterday")
    elif 1 < days < 7:
        day = date_format(here, "l")
    else:
        day = date_format(here, _("j M Y") if here.year != today.year else _("j M"))
    return f"{day} {here:%H:%M}"


@register.filter
def ago(moment: datetime | None) -> str:
    """``just now``, ``4 minutes ago``, ``3 hours ago``, ``2 days ago``."""
    if moment is None:
        return "–"
    gone = timezone.now() - moment
    if (count := gone // timedelta(days=1)) >= 1:
        return ngettext("%(count)s day ago", "%(count)s days ago", count) % {"count": count}
    if (count := gone // timedelta(hours=1)) >= 1:
        return ngettext("%(count)s hour ago", "%(count)s hours ago", count) % {"count": count}
    if (count := gone // timedelta(minutes=1)) >= 1:
        return ngettext("%(count)s minute ago", "%(count)s minutes ago", count) % {"count": count}
    return _("just now")
