"""Redo leads forward again through the acts that undo went back through."""

import pytest
from django.test import Client

from tests.studio import open_studio
from tests.web.rater_pages import HTMX, enter, look, url

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio():
    studio = open_studio()
    studio.add_items(pairs=4)
    return studio


def judge(rater: Client, studio, act: str) -> str:
    """Rate or skip the next item; its token."""
    _, fields = look(rater, studio)
    if act == "skip":
        rater.post(url(studio, "rate/skip/"), {"token": fields["token"]}, headers=HTMX)
    else:
        rater.post(url(studio), {**fields, "choice": act}, headers=HTMX)
    return fields["token"]


def test_redo_leads_to_the_act_after_and_from_the_last_to_the_item_in_hand(studio, rater):
    first, second, third = (judge(rater, studio, act) for act in ("2", "skip", "6"))
    undo = url(studio, "rate/undo/")
    assert second in rater.get(f"{undo}?after={first}").headers["Location"], "a skip is an act too"
    assert third in rater.get(f"{undo}?after={second}").headers["Location"]
    assert rater.get(f"{undo}?after={third}").headers["Location"] == url(studio)
    assert rater.get(f"{undo}?after={third}", headers=HTMX).status_code == 204
    assert first in rater.get(f"{undo}?before={second}").headers["Location"]
    page = rater.get(f"{undo}?before={second}", follow=True).content.decode()
    assert f'href="{undo}?after={first}"' in page
    assert "Later" in page


def test_redo_from_what_is_no_act_of_ones_own_leads_to_the_item_in_hand(studio, rater):
    judge(rater, studio, "2")
    stranger = enter(studio, "bea")
    token = judge(stranger, studio, "3")
    assert rater.get(url(studio, f"rate/undo/?after={token}")).headers["Location"] == url(studio)
