"""Steps that tests of the rater page share, by Django's client."""

import re

from django.test import Client

from tests import studio as studios
from tests.studio import Studio

HTMX = {"HX-Request": "true"}


def enter(studio: Studio, name: str) -> Client:
    """A browser in which a rater of this name, who may be new, is logged in."""
    return studios.enter(studio.raters.get(name) or studio.add_rater(name))


def url(studio: Studio, end: str = "rate/") -> str:
    return f"/p/{studio.project.slug}/{end}"


def field_of(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found, f"the page has no field {name}"
    return found[1]


def look(client: Client, studio: Studio) -> tuple[str, dict[str, str]]:
    """The page, and the hidden fields that a verdict sends with it."""
    html = client.get(url(studio)).content.decode()
    return html, {name: field_of(html, name) for name in ("token", "submission_id")}


def texts_of(html: str) -> list[str]:
    return re.findall(r'class="shown"[^>]*>([^<]*)<', html)


def checked(html: str) -> list[str]:
    return re.findall(r'value="([^"]*)"[^>]* checked', html)
