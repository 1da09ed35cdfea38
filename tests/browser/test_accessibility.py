"""axe-core finds nothing serious on the pages of accounts, projects and rating, in light and in dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser import pictures
from tests.studio import PASSWORD, open_studio
from webapp.projects.services import create_invitation

pytestmark = pytest.mark.django_db(transaction=True)
ADMIN_PAGES = ["/", "/new/", "/account/password/", *(f"/p/film-reviews/{end}/" for end in (
    "ratings", "import", "raters", "guideline", "settings", "settings/modes", "history",
))]  # fmt: skip


def serious_findings(page: Page) -> list[str]:
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    return [
        f"{violation['id']}: {node['html'][:120]}"
        for violation in found.response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def log_in(page: Page, root: str, name: str) -> None:
    page.goto(f"{root}/login/")
    page.fill("#id_username", name)
    page.fill("#id_password", PASSWORD)
    page.click("main button")
    page.wait_for_url(lambda url: "/login/" not in url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_finding(new_context, live_server, scheme):
    studio = open_studio()
    studio.add_rater("ada")
    studio.add_items(pairs=1, singles=1)
    token = create_invitation(actor=studio.admin, project=studio.project)
    findings: dict[str, list[str]] = {}
    context = new_context(color_scheme=scheme, viewport=pictures.DESKTOP)
    page = context.new_page()

    def check(name: str) -> None:
        found = serious_findings(page)
        if found:
            findings[name] = found

    for address in ("/login/", f"/join/{token}/", "/link/unknown/", "/no/such/page/"):
        page.goto(live_server.url + address)
        check(address)
    log_in(page, live_server.url, "ada")
    for name in ("first item", "second item", "empty"):
        page.wait_for_selector("#item[aria-busy=false]")
        check(name)
        if name != "empty":
            for key, dialog in (("g", "guideline"), ("?", "keys")):
                page.keyboard.press(key)
                check(f"{name}, {dialog}")
                page.keyboard.press("Escape")
            token = page.input_value("[name=token]")
            page.keyboard.press("2")
            page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)
    page.keyboard.press("u")
    page.wait_for_selector("#item[data-judged][aria-busy=false]")
    check("undo")
    page.keyboard.press("p")
    page.wait_for_selector("#item[data-paused][aria-busy=false]")
    check("paused")
    page.goto(f"{live_server.url}/p/film-reviews/history/")
    check("own ratings")
    page.click("text=Open")
    page.wait_for_selector("#item[data-judged][aria-busy=false]")
    check("own rating")
    page = new_context(color_scheme=scheme, viewport=pictures.DESKTOP).new_page()
    log_in(page, live_server.url, "admin")
    for address in ADMIN_PAGES:
        page.goto(live_server.url + address)
        check(address)
        pictures.take(page, f"page-{address.strip('/').replace('/', '-') or 'home'}")
        page.emulate_media(color_scheme=scheme)
    assert findings == {}
