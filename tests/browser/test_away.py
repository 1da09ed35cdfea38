"""What a rater said is kept when item or log-in was lost meanwhile: a closed laptop, a retired policy, a long absence.

A number in a name is the row of the project's list of fault tests.
"""

import uuid
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Page, expect

from tests.browser.pages import READY, press, texts, type_name_and_password, wait_for_leases, wait_until_nothing_is_kept
from tests.studio import Studio, open_studio, sha256
from webapp.feedback import services as feedback
from webapp.feedback.models import Rating, Slot
from webapp.registry.models import Checkpoint
from webapp.registry.services import promote

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    for name in ("ada", "ben"):
        studio.add_rater(name)
    return studio


@pytest.fixture
def opened(page: Page, live_server, studio: Studio):
    """The rater page of ada, who was logged in before, with six pairs waiting."""

    def go() -> Page:
        client = Client()
        client.force_login(studio.raters["ada"], "django.contrib.auth.backends.ModelBackend")
        value = client.cookies[settings.SESSION_COOKIE_NAME].value
        page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": live_server.url}])
        page.goto(f"{live_server.url}/p/{studio.project.slug}/rate/")
        page.wait_for_selector(READY)
        return page

    studio.add_items(pairs=6)
    return go


def close_the_laptop(studio: Studio) -> None:
    """All leases run out, and ben judges whatever is free."""
    Slot.objects.filter(state="leased").update(lease_until=timezone.now() - timedelta(minutes=16))
    while shown := feedback.claim(rater=studio.raters["ben"], project=studio.project):
        feedback.submit(
            rater=studio.raters["ben"],
            project=studio.project,
            token=shown.token,
            submission_id=uuid.uuid4(),
            choice="4",
        )


def test_49_who_comes_back_to_a_closed_laptop_is_told_that_the_late_verdict_is_kept(opened, studio):
    page = opened()
    wait_for_leases(page, 2)
    close_the_laptop(studio)
    studio.add_items(pairs=3)
    page.keyboard.press("2")
    expect(page.locator("#told")).to_contain_text("Saved. The time for that item had run out")
    wait_until_nothing_is_kept(page)
    late = Rating.objects.get(rater=studio.raters["ada"])
    assert (abs(late.verdict), late.counts_toward_overlap, late.source) == (2, False, "human")
    assert Rating.objects.filter(comparison=late.comparison, counts_toward_overlap=True).count() == 1
    before = texts(page)
    press(page, "6")  # what was fetched ahead is lost as well, and kept all the same
    wait_until_nothing_is_kept(page)
    assert texts(page) != before
    press(page, "1")
    wait_until_nothing_is_kept(page)
    expect(page.locator("#progress")).to_have_text("3 rated today")
    counted = Rating.objects.filter(rater=studio.raters["ada"]).order_by("id")
    assert list(counted.values_list("counts_toward_overlap", flat=True)) == [False, False, True]


def test_the_heartbeat_tells_that_the_time_ran_out(page, opened, studio):
    page.clock.install()
    opened()
    wait_for_leases(page, 2)
    close_the_laptop(studio)
    page.mouse.move(300, 300)
    page.clock.fast_forward(60_000)
    expect(page.locator("#saved")).to_have_text("time ran out; a late verdict is kept")
    page.keyboard.press("2")
    expect(page.locator("#told")).to_contain_text("Saved. The time for that item had run out")
    assert not Rating.objects.get(rater=studio.raters["ada"]).counts_toward_overlap


def test_a_verdict_that_waited_for_a_new_log_in_is_sent_under_the_key_that_it_had(opened, studio):
    page = opened()
    shown = texts(page)
    Session.objects.all().delete()
    page.keyboard.press("2")
    expect(page.locator("#trouble")).to_contain_text("Log in again: your verdict is kept")
    (kept,) = page.evaluate("JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]))")
    page.click("#trouble a")
    type_name_and_password(page)
    page.wait_for_selector(READY)
    wait_until_nothing_is_kept(page)
    rating = Rating.objects.get()
    assert (str(rating.submission_id), str(rating.presentation.token)) == (kept["id"], kept["values"]["token"])
    assert {rating.comparison.first.text, rating.comparison.second.text} == set(shown[1:])
    assert rating.counts_toward_overlap


def test_a_policy_that_retires_takes_no_verdict_with_it_and_its_items_come_no_more(opened, studio):
    page = opened()
    wait_for_leases(page, 2)
    shown = texts(page)
    newer = Checkpoint.objects.create(
        project=studio.project, kind="policy", version=2, sha256=sha256("a better policy")
    )
    promote(project=studio.project, checkpoint=newer, actor=studio.admin, expected_epoch=1)
    studio.checkpoint = newer
    studio.add_items(pairs=3)  # of the new policy
    assert Slot.objects.filter(state="void").count() == 4
    assert texts(page) == shown, "what stands before the rater stays"
    for key in "263":  # the one on the page, the one that was fetched ahead, and the next
        press(page, key)
    wait_until_nothing_is_kept(page)
    given = Rating.objects.filter(rater=studio.raters["ada"]).order_by("id")
    assert list(given.values_list("comparison__first__checkpoint__version", flat=True)) == [1, 1, 2]
    assert all(given.values_list("counts_toward_overlap", flat=True)), "the rater held both when it retired"
