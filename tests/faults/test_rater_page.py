"""The rater page in Chromium when a verdict is sent more than once: by hand, or because the network lost the answer.

A number in a name is the row of the project's list of fault tests.
"""

import re
from urllib.parse import parse_qsl, urlsplit

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import BrowserContext, Page, Request, expect

from tests.faults.cut import Network
from tests.faults.watching import until
from tests.studio import Studio, open_studio
from webapp.feedback.models import Rating

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

REFUSED = re.compile("answered .*already")
NOT_SENT = re.compile("not saved|offline|sent again|resend", re.IGNORECASE)
READY = "#item:not([aria-busy=true]) button[name=choice]"


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.add_rater("ada")
    studio.add_items(pairs=6)
    return studio


@pytest.fixture
def log_in(context: BrowserContext, studio: Studio):
    """Log the rater in at an address, and give a page that shows the first pair."""

    def open_page(origin: str) -> Page:
        client = Client()
        client.force_login(studio.raters["ada"], "django.contrib.auth.backends.ModelBackend")
        value = client.cookies[settings.SESSION_COOKIE_NAME].value
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": origin}])
        return show(context.new_page(), f"{origin}/p/{studio.project.slug}/rate/")

    return open_page


def show(page: Page, address: str) -> Page:
    page.goto(address)
    page.wait_for_selector(READY)
    return page


def texts(page: Page) -> list[str]:
    return page.locator(".answer .shown").all_text_contents()


def is_another(page: Page, before: list[str]) -> bool:
    """Whether another pair than ``before`` is shown."""
    return bool(texts(page)) and texts(page) != before


def judge(page: Page, step: int) -> None:
    """Press a step until the next pair is there: the page takes none for an instant after a pair has come."""
    before = texts(page)

    def is_through() -> bool:
        if is_another(page, before):
            return True
        page.keyboard.press(str(step))  # one too many falls on a page that is sending, or on a pair just come
        page.wait_for_timeout(700)
        return is_another(page, before)

    until(is_through, 30, "the next pair is shown")


def verdicts(page: Page) -> list[Request]:
    """A list that grows by each verdict the page sends."""
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if "choice=" in (request.post_data or "") else None)
    return sent


def test_47_double_click_back_and_two_tabs_give_one_rating_and_a_changed_one_is_refused(context, live_server, log_in):
    page = log_in(live_server.url)
    sent = verdicts(page)

    # A double click: one rating, and the next pair is not hit.
    first = texts(page)
    page.locator("button[name=choice]").nth(1).dblclick()
    until(lambda: is_another(page, first), 30, "the next pair is shown")
    until(Rating.objects.count, 10, "the verdict is stored")
    expect(page.locator("#progress")).to_contain_text("1 ")

    # Back after leaving the page: what is to be judged now, nothing sent anew.
    second = texts(page)
    page.goto(f"{live_server.url}/p/film-reviews/history/")
    page.go_back()
    page.wait_for_selector(READY)
    assert texts(page) == second
    assert Rating.objects.count() == 1

    # The very form of the double click once more, as a browser sends it after "back" or in a copied tab.
    form = dict(parse_qsl(sent[0].post_data or "", keep_blank_values=True))
    headers = {name: value for name, value in sent[0].headers.items() if name.startswith(("hx-", "x-", "referer"))}
    same = context.request.post(sent[0].url, form=form, headers=headers)
    assert same.status == 200
    changed = context.request.post(sent[0].url, form=form | {"choice": "7"}, headers=headers)
    assert changed.status == 409
    stored = Rating.objects.get()

    # Two tabs before one pair: both may give the same verdict, and one rating comes of it.
    other = show(context.new_page(), page.url)
    assert texts(other) == second
    for tab in (page, other):
        judge(tab, 3)
        expect(tab.get_by_text(REFUSED)).to_have_count(0)
    until(lambda: Rating.objects.count() == 2, 10, "the verdict is stored once")

    # Another verdict in the second tab: it is refused, the first one stands, and the tab says so.
    third = texts(page)
    other.goto(page.url)
    other.wait_for_selector(READY)
    assert texts(other) == third
    judge(page, 1)
    until(lambda: Rating.objects.count() == 3, 10, "the first tab's verdict is stored")
    newest = Rating.objects.latest("created_at")
    with other.expect_response(lambda answer: "choice=" in (answer.request.post_data or "")) as refusal:
        other.locator("button[name=choice]").nth(5).click()
    assert refusal.value.status == 409
    expect(other.get_by_text(REFUSED).first).to_be_visible()
    assert Rating.objects.count() == 3
    for rating in (stored, newest):
        assert Rating.objects.get(pk=rating.pk).verdict == rating.verdict


def test_48_a_verdict_whose_answer_the_network_lost_is_sent_again_and_stored_once(live_server, log_in):
    network = Network(urlsplit(live_server.url).port or 0)
    try:
        page = log_in(f"http://127.0.0.1:{network.port}")
        sent = verdicts(page)
        before = texts(page)
        network.is_cut.set()
        page.keyboard.press("2")
        until(Rating.objects.count, 10, "the server has stored the verdict")
        until(lambda: network.lost, 10, "its answer is lost")
        trouble = page.get_by_text(NOT_SENT).filter(visible=True)
        expect(trouble.first).to_be_visible()  # as far as the page can know
        until(lambda: (page.wait_for_timeout(50), len(sent) >= 2)[1], 30, "the page tries again by itself")
        network.is_cut.clear()
        until(lambda: is_another(page, before), 40, "the next pair is shown")
        expect(page.locator("#progress")).to_contain_text("1 ")
        expect(trouble).to_have_count(0)
        rating = Rating.objects.get()  # one, though it came several times
        assert abs(rating.verdict) == 2
        judge(page, 6)  # and the page goes on as ever
        until(lambda: Rating.objects.count() == 2, 10, "the next verdict is stored")
    finally:
        network.close()
