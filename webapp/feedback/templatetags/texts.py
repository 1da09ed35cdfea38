"""What people and models wrote, in templates; how it is made safe is told in webapp/typeset."""

import json

from django import template
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from webapp.typeset import marks, typeset
from webapp.typeset.marks import mark_unseen

register = template.Library()

register.filter("typeset", typeset)


@register.filter
def marked(text: str) -> SafeString:
    """``text`` word for word, with a mark for what cannot be seen: for lists, where a text is cut short."""
    return mark_safe(mark_unseen(escape(text)))


@register.filter
def unseen_places(text: str) -> str:
    """Where ``marked`` sets marks, as JSON, for a page that cuts the text into passages: see static/modes/rule.js."""
    return json.dumps(marks.unseen_places(text), ensure_ascii=False)
