"""Tables that a phone stacks: each cell carries the name that its column's head has."""

import re

import pytest
from django.test import Client

from tests.studio import open_studio
from tests.turns import ask_for_reward_run, finish, rate
from webapp import queue

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("end", ["", "runs/"])
def test_every_figure_of_the_table_of_runs_has_its_name_where_a_phone_stacks_them(monkeypatch, end):
    monkeypatch.setattr(queue, "send", lambda *args, **options: True)
    studio = open_studio()
    rate(studio, 20)
    finish(ask_for_reward_run(studio))
    client = Client()
    client.force_login(studio.admin)
    html = client.get(f"/p/{studio.project.slug}/{end}").content.decode()
    table = re.search(r'<table class="stacked runs">.*?</table>', html, re.S)
    assert table
    heads, cells = re.findall(r"<th\b[^>]*>([^<]*)<", table[0]), re.findall(r'<td[^>]*data-label="([^"]*)"', table[0])
    assert cells == [head for head in heads if head != "What"]
