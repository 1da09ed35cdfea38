"""The languages of the pages, for templates."""

from collections.abc import Sequence

from django import template
from django.conf import settings

register = template.Library()


@register.simple_tag
def languages() -> Sequence[tuple[str, str]]:
    """Each language's code and its own name, as settings have them; Django's own tags would translate the names."""
    return tuple(settings.LANGUAGES)
