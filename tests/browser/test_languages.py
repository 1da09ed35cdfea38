"""The pages in other languages: right to left in Arabic, by keyboard in German, nothing beside the screen in either."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser import pictures
from tests.browser.looks import findings, in_words
from tests.browser.pages import READY, is_within, open_rater, press
from webapp.accounts.languages import choose_language
from webapp.feedback.models import Rating

pytestmark = pytest.mark.django_db(transaction=True)
WIDTHS = (360, 1280)
RATER_PAGES = ("history/", "guideline/", "rate/welcome/", "rate/keys/")


def start_of(page: Page, selector: str) -> float:
    """Where an element begins, from the left edge of the screen, in pixels."""
    box = page.locator(selector).bounding_box()
    assert box is not None, selector
    return box["x"]


def too_wide(page: Page, name: str) -> list[str]:
    """At which widths a page reaches beyond the screen, with a picture of each."""
    found = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        pictures.take(page, f"{page.get_attribute('html', 'lang')}-{name}-{width}")
        if not is_within(page):
            found.append(f"{name} at {width} px")
    page.set_viewport_size(pictures.DESKTOP)
    return found


def test_the_rater_flow_in_arabic_is_mirrored_and_fits(context, live_server, studio):
    studio.add_items(pairs=2, singles=1)
    choose_language(user=studio.raters["ada"], language="ar")
    page = open_rater(context, live_server.url, studio)
    page.set_viewport_size(pictures.DESKTOP)
    assert (page.get_attribute("html", "lang"), page.get_attribute("html", "dir")) == ("ar", "rtl")
    assert start_of(page, "#pane-a") > start_of(page, "#pane-b") + 100, "A stands where a line begins"
    assert start_of(page, "#step-1") > start_of(page, "#step-4") > start_of(page, "#step-7")
    expect(page.locator("#step-1 kbd")).to_have_text("1")
    found, wide = {}, too_wide(page, "pair")
    found["pair"] = findings(page)
    press(page, "2")
    expect(page.locator("#progress")).to_contain_text("1")
    assert abs(Rating.objects.get().verdict) == 2
    expect(page.locator("#announce")).to_contain_text("التالي")
    page.keyboard.press("?")
    wide += too_wide(page, "keys")
    found["keys"] = findings(page)
    page.keyboard.press("Escape")
    for address in RATER_PAGES:
        assert page.goto(f"{live_server.url}/p/film-reviews/{address}").status == 200
        wide += too_wide(page, address.strip("/").replace("/", "-"))
        found[address] = findings(page)
    assert in_words(found) == ""
    assert not wide


def test_a_pair_is_judged_by_keyboard_in_german(context, live_server, studio):
    studio.add_items(pairs=2)
    ada = studio.raters["ada"]
    ada.page_settings = {"keys": {"2": "w", "u": "z"}}
    ada.save()
    choose_language(user=ada, language="de")
    page = open_rater(context, live_server.url, studio)
    expect(page.get_by_role("button", name="A ist klar besser, Taste W")).to_be_visible()
    expect(page.locator("#undo")).to_have_attribute("aria-label", "Rückgängig, Taste Z")
    wide = too_wide(page, "pair")
    press(page, "w")
    expect(page.locator("#saved")).to_have_text("gespeichert · Z: zurück")
    page.keyboard.press("z")
    page.wait_for_selector("#item[data-judged][aria-busy=false]")
    expect(page.locator(".said strong")).to_have_text("Sie haben gesagt: A ist klar besser.")
    page.keyboard.press("Escape")
    page.wait_for_selector(READY)
    assert abs(Rating.objects.get().verdict) == 2
    assert not wide


def test_the_language_is_switched_without_scripts(browser, live_server, studio):
    context = browser.new_context(java_script_enabled=False, locale="de-DE")
    page = context.new_page()
    page.goto(f"{live_server.url}/login/?next=/")
    expect(page.locator("h1")).to_have_text("Anmelden")
    page.get_by_role("button", name="العربية").click()
    expect(page.locator("h1")).to_have_text("تسجيل الدخول")
    assert page.url.endswith("/login/?next=/")
    page.get_by_role("button", name="English").click()
    expect(page.locator("h1")).to_have_text("Log in")
    context.close()
