"""axe-core finds nothing on any page, in light and dark, on a desktop and on a phone; the keyboard reaches it all."""

from collections.abc import Iterator
from functools import partial

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.urls import URLPattern, get_resolver, resolve
from playwright.sync_api import Page, Route, expect

from tests.browser import pictures, test_admin_pages
from tests.browser.looks import findings, in_words
from tests.browser.pages import READY, press
from tests.studio import PASSWORD
from webapp.accounts.services import create_login_link
from webapp.feedback.models import Rating
from webapp.projects.models import PracticePair
from webapp.projects.services import create_invitation

pytestmark = pytest.mark.django_db(transaction=True)

LOGGED_OUT = ["/login/", "/join/{invitation}/", "/join/unknown/", "/link/{link}/", "/link/unknown/", "/no/such/page/"]
ADMIN_PAGES = ["/", "/new/", "/account/password/", *(f"/p/film-reviews/{end}/" for end in (
    "ratings", "import", "raters", "guideline", "settings", "settings/modes", "settings/first-visit",
    "settings/first-visit/new", "settings/first-visit/1", "history",
))]  # fmt: skip
RATER_PAGES = ["/", *(f"/p/film-reviews/{end}/" for end in ("history", "guideline", "rate/welcome", "rate/keys"))]
BROKEN = {"400": {}, "400 long": {"is_long": True}, "403": {}, "403_csrf": {}, "500": {}, "503": {}}
NOT_PAGES = {  # fragments, files, and what is only sent
    "healthz", "accounts:language", "accounts:logout", "projects:guideline_read", "feedback:skip", "feedback:heartbeat",
    "feedback:release",
    "feedback:pause", "feedback:undo", "feedback:report", "feedback:settle", "feedback:toggle", "feedback:export",
    "runs:simulate", "runs:adopt_policy", "runs:live", "runs:curves", "runs:promote",
    "projects:withdraw_invitation",
}  # fmt: skip


def log_in(page: Page, root: str, name: str) -> None:
    page.goto(f"{root}/login/")
    page.fill("#id_username", name)
    page.fill("#id_password", PASSWORD)
    page.click("main button")
    page.wait_for_url(lambda url: "/login/" not in url)


def answer_with(text: str, route: Route) -> None:
    route.fulfill(body=text, content_type="text/html")


def route_names(patterns: list, prefix: str = "") -> Iterator[str]:
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            yield f"{prefix}{pattern.name}"
        else:
            yield from route_names(pattern.url_patterns, f"{pattern.namespace}:" if pattern.namespace else prefix)


def test_every_address_is_looked_at_or_is_no_page():
    ends = [*test_admin_pages.PAGES.values(), *test_admin_pages.MADE_PAGES.values()]
    uuid = "00000000-0000-0000-0000-000000000000"
    addresses = [*LOGGED_OUT, *ADMIN_PAGES, *RATER_PAGES, *(f"/p/film-reviews/{end.format(uuid)}" for end in ends)]
    addresses += ["/p/film-reviews/rate/", f"/p/film-reviews/history/{uuid}/"]  # below, by keyboard
    addresses += ["/p/film-reviews/rate/practice/"]  # by test_first_visit
    looked_at = {resolve(address).view_name for address in addresses if address != "/no/such/page/"}
    assert looked_at.isdisjoint(NOT_PAGES)
    assert looked_at | NOT_PAGES == set(route_names(get_resolver().url_patterns))


def test_axe_finds_nothing_where_nobody_is_logged_in_or_something_went_wrong(page, live_server, studio):
    page.set_viewport_size(pictures.DESKTOP)
    invitation = create_invitation(actor=studio.admin, project=studio.project)
    link = create_login_link(user=studio.raters["ada"])
    found = {}
    for address in LOGGED_OUT:
        page.goto(live_server.url + address.format(invitation=invitation, link=link))
        found[address] = findings(page)
    page.goto(f"{live_server.url}/login/")
    page.fill("#id_username", "ada")
    page.fill("#id_password", "wrong")
    page.click("main button")
    page.wait_for_selector(".errors, .notice.error")
    found["a wrong password"] = findings(page)
    for _ in range(8):
        Client().post("/login/", {"username": "ada", "password": "wrong"})
    page.fill("#id_password", PASSWORD)
    page.click("main button")
    expect(page.locator("h1")).to_have_text("Too many wrong passwords")
    found["locked"] = findings(page)
    for name, context in BROKEN.items():
        text = render_to_string(f"{name.split()[0]}.html", context)
        address = f"{live_server.url}/broken/{name.replace(' ', '-')}/"
        page.route(address, partial(answer_with, text))
        page.goto(address)
        found[name] = findings(page)
    assert in_words(found) == ""


def test_axe_finds_nothing_on_a_raters_pages(page, live_server, studio):
    page.set_viewport_size(pictures.DESKTOP)
    studio.add_items(pairs=1, singles=1)
    found = {}
    log_in(page, live_server.url, "ada")
    page.goto(f"{live_server.url}/p/film-reviews/rate/")
    for name in ("first item", "second item", "empty"):
        page.wait_for_selector(READY)
        found[name] = findings(page)
        if name == "empty":
            continue
        if name == "first item":
            for key, dialog in (("g", "guideline"), ("?", "keys")):
                page.keyboard.press(key)
                found[dialog] = findings(page)
                page.keyboard.press("Escape")
            page.keyboard.press("Shift+S")
            found["reasons to skip"] = findings(page)
            page.keyboard.press("Shift+S")
            page.click(".menu summary")
            found["menu"] = findings(page)
            page.keyboard.press("Escape")
        press(page, "2")
    page.keyboard.press("u")
    page.wait_for_selector("#item[data-judged][aria-busy=false]")
    found["undo"] = findings(page)
    page.keyboard.press("p")
    page.wait_for_selector("#item[data-paused][aria-busy=false]")
    found["paused"] = findings(page)
    for address in RATER_PAGES:
        assert page.goto(live_server.url + address).status == 200, address
        found[address] = findings(page)
    page.goto(f"{live_server.url}/p/film-reviews/history/")
    page.click("text=Open")
    page.wait_for_selector("#item[data-judged][aria-busy=false]")
    found["own rating"] = findings(page)
    page.route("**/rate/", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    studio.add_items(pairs=2)
    page.goto(f"{live_server.url}/p/film-reviews/rate/")
    page.wait_for_selector(READY)
    page.context.set_offline(True)
    page.keyboard.press("2")
    page.keyboard.press("2")
    page.wait_for_selector("#trouble:not([hidden])")
    found["offline"] = findings(page)
    assert in_words(found) == ""


def test_axe_finds_nothing_on_an_admins_pages(page, live_server, studio):
    page.set_viewport_size(pictures.DESKTOP)
    studio.add_items(pairs=1)
    PracticePair.objects.create(pk=1, project=studio.project, prompt="A film", left="Good.", right="Bad.", best="a")
    log_in(page, live_server.url, "admin")
    found = {}
    for address in ADMIN_PAGES:
        assert page.goto(live_server.url + address).status == 200, address
        found[address] = findings(page)
        pictures.take(page, f"page-{address.strip('/').replace('/', '-') or 'home'}")
    for address in ("/new/", "/account/password/", "/p/film-reviews/import/"):
        page.goto(live_server.url + address)
        page.evaluate("document.querySelector('main form').noValidate = true")
        page.click("main form button")
        page.wait_for_selector(".errors, .notice.error")
        found[f"{address} refused"] = findings(page)
    assert in_words(found) == ""


def test_a_pair_is_judged_by_tab_and_enter_and_each_part_has_its_name(page, live_server, studio):
    studio.add_items(pairs=3)
    log_in(page, live_server.url, "ada")
    page.goto(f"{live_server.url}/p/film-reviews/rate/")
    page.wait_for_selector(READY)
    tree = page.locator("body").aria_snapshot()
    for part in (
        '- link "Go to the content"',
        '- heading "Which continuation is the better review?" [level=1]',
        '- heading "The review begins" [level=2]',
        '- article "Answer A"',
        '- article "Answer B"',
        '- group "Your verdict"',
        *(f'- button "{name}' for name in ("A is much better", "both are equal", "B is much better", "both are bad")),
        *(f'- button "{name}' for name in ("Undo", "Skip", "Guideline", "Pause", "Keys")),
    ):
        assert part in tree, part

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main", "the first link leads past the strip"
    steps = 0
    while "A is clearly better" not in (page.evaluate("document.activeElement.ariaLabel") or ""):
        page.keyboard.press("Tab")
        steps += 1
        assert steps < 10, "from the content to the verdicts"
    token = page.input_value("[name=token]")
    page.keyboard.press("Enter")
    page.wait_for_function("old => document.querySelector('[name=token]').value !== old", arg=token)
    expect(page.locator("#announce")).to_contain_text("Next pair.")
    assert "A is clearly better" in page.evaluate("document.activeElement.ariaLabel"), "the focus stays where it was"
    page.wait_for_selector(READY)
    page.keyboard.press("Space")
    expect(page.locator("#progress")).to_have_text("2 rated today")
    assert {abs(verdict) for verdict in Rating.objects.values_list("verdict", flat=True)} == {2}

    page.focus("#open-guideline")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Guideline")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('dialog')?.id") == "guideline"
    page.keyboard.press("Escape")
    expect(page.locator("#open-guideline")).to_be_focused()


MOVING = """
[...document.querySelectorAll("*")]
  .flatMap((one) => [null, "::before", "::after"].map((part) => getComputedStyle(one, part)))
  .filter((style) => style.animationName !== "none" || style.scrollBehavior === "smooth"
    || style.transitionDuration.split(", ").some((time) => parseFloat(time) > 0)).length
"""


def test_who_wants_little_motion_gets_none(page, live_server, studio):
    studio.add_items(pairs=2)
    log_in(page, live_server.url, "admin")
    for address in ("/", "/p/film-reviews/", "/p/film-reviews/settings/", "/p/film-reviews/rate/"):
        page.emulate_media(reduced_motion="no-preference")
        page.goto(live_server.url + address)
        assert page.evaluate(MOVING) > 0, "else there is nothing to be seen here"
        page.emulate_media(reduced_motion="reduce")
        assert page.evaluate(MOVING) == 0, address
