"""A rater's own keys and other settings of the page: kept for all projects, without two meanings for one key."""

import json
import re
from html import unescape

import pytest
from django.test import Client

from tests.studio import open_studio
from tests.web.rater_pages import url
from webapp.accounts.models import User
from webapp.feedback.keys import KEYS, own_keys, problems_with

pytestmark = pytest.mark.django_db
USUAL = {key: key for key in KEYS}


@pytest.fixture
def studio():
    studio = open_studio()
    studio.add_items(pairs=2)
    return studio


def settings_of(rater: Client, studio, **changed):
    return rater.post(url(studio, "rate/keys/"), {**USUAL, "rest_minutes": "45", **changed}, follow=True)


def stored(studio) -> dict:
    return User.objects.get(pk=studio.raters["ada"].pk).page_settings


def test_each_key_of_the_page_can_be_chosen_and_is_told_to_the_page(studio, rater):
    page = rater.get(url(studio, "rate/keys/")).content.decode()
    assert all(f'name="{key}"' in page for key in KEYS)
    answer = settings_of(rater, studio, **{"1": "A", "u": "z", "k": "u"})
    assert "Saved. It holds in all your projects." in answer.content.decode()
    assert stored(studio)["keys"] == {"1": "a", "u": "z", "k": "u"}
    html = rater.get(url(studio)).content.decode()
    told = re.search(r'<span id="own-keys" hidden>(.*?)</span>', html)
    assert json.loads(unescape(told[1])) == {"1": "a", "u": "z", "k": "u"}
    answer = rater.post(url(studio, "rate/keys/"), {"reset": "yes"}, follow=True)
    assert "the usual ones" in answer.content.decode()
    assert stored(studio) == {"keys": {}, "rest_minutes": 45}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"u": "k"}, "“K” is also the key for “scroll up”"),
        ({"u": "ab"}, "It takes one letter, digit or sign."),
        ({"u": " "}, "It takes one letter, digit or sign."),
        ({"u": ""}, "This field is required."),
        ({"rest_minutes": "241"}, "less than or equal to 240"),
        ({"rest_minutes": "-1"}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_kept(studio, rater, changed, said):
    answer = settings_of(rater, studio, **changed)
    assert answer.status_code == 422
    assert said in answer.content.decode()
    assert stored(studio) == {}


def test_two_that_change_places_are_no_conflict_and_three_in_one_place_are():
    assert problems_with({**USUAL, "j": "k", "k": "j"}) == {}
    found = problems_with({**USUAL, "j": "z", "k": "z", "l": "z"})
    assert set(found) == {"j", "k", "l"}


def test_what_is_no_key_of_the_page_any_more_is_left_out():
    assert own_keys(User(page_settings={"keys": {"%": "x", "u": "z", "s": "s"}})) == {"u": "z"}


def test_how_the_texts_were_looked_at_is_kept(studio, rater):
    assert rater.post(url(studio, "rate/toggle/"), {"name": "as-written", "is_on": "yes"}).status_code == 204
    assert rater.post(url(studio, "rate/toggle/"), {"name": "unlinked", "is_on": "yes"}).status_code == 204
    assert 'class="rating as-written unlinked"' in rater.get(url(studio)).content.decode()
    rater.post(url(studio, "rate/toggle/"), {"name": "as-written", "is_on": ""})
    assert stored(studio)["toggles"] == ["unlinked"]
    assert rater.post(url(studio, "rate/toggle/"), {"name": "no-such", "is_on": "yes"}).status_code == 422


def test_the_page_is_told_when_to_remind_of_a_break(studio, rater):
    assert 'data-rest="45"' in rater.get(url(studio)).content.decode()
    settings_of(rater, studio, rest_minutes="0")
    assert 'data-rest="0"' in rater.get(url(studio)).content.decode()
