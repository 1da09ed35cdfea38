"""Steps that tests of the admin's pages share."""

import re

from django.test import Client

from tests.studio import Studio


def url(studio: Studio, end: str = "") -> str:
    return f"/p/{studio.project.slug}/{end}"


def read(client: Client, studio: Studio, end: str = "", status: int = 200) -> str:
    """The source of a page of the project."""
    answer = client.get(url(studio, end))
    assert answer.status_code == status
    return answer.content.decode()


def words_of(html: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def next_step(html: str) -> str:
    """What the board says to do next."""
    found = re.search(r'aria-label="Next step">(.*?)</section>', html, re.S)
    assert found
    return words_of(found[1])
