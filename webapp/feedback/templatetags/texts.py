"""What people and models wrote, in templates; how it is made safe is told in webapp/typeset."""

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from webapp.typeset import typeset
from webapp.typeset.marks import mark_unseen

register = template.Library()

register.filter("typeset", typeset)


@register.filter
def marked(text: str) -> SafeString:
    """``text`` word for word, with a mark for what cannot be seen: for lists, where a text is cut short."""
    return mark_safe(mark_unseen(escape(text)))
