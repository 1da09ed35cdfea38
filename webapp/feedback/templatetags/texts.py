"""What people and models wrote, in templates; how it is made safe is told in webapp/typeset."""

from django import template

from webapp.typeset import typeset

register = template.Library()

register.filter("typeset", typeset)
