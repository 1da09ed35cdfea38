"""Steps that tests of the rater page share."""

from django.conf import settings
from django.test import Client
from playwright.sync_api import BrowserContext, Page

from tests.studio import Studio

READY = "#item[aria-busy=false]"


def open_rater(context: BrowserContext, root: str, studio: Studio, name: str = "ada", *, wait_for: str = READY) -> Page:
    """The rater page, opened by a rater who is logged in already, or where that leads."""
    client = Client()
    client.force_login(studio.raters[name], "django.contrib.auth.backends.ModelBackend")
    value = client.cookies[settings.SESSION_COOKIE_NAME].value
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": root}])
    page = context.new_page()
    page.goto(f"{root}/p/{studio.project.slug}/rate/")
    page.wait_for_selector(wait_for)
    return page


def is_within(page: Page) -> bool:
    """Whether nothing reaches beyond the screen sideways."""
    fits: bool = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return fits


def press(page: Page, key: str) -> None:
    """Press a key once the item may be judged, and wait for the next one."""
    page.wait_for_selector(READY)
    token = page.input_value("[name=token]")
    page.keyboard.press(key)
    page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)


def press_in_turn(page: Page, *keys: str) -> None:
    """Press some keys once the item may be judged, whatever they lead to."""
    page.wait_for_selector(READY)
    for key in keys:
        page.keyboard.press(key)


def wait_until_sent(page: Page) -> None:
    """Until the server has every verdict; what else the page keeps may stay."""
    page.wait_for_function("() => !Object.keys(localStorage).some((key) => key.startsWith('steersman-unsent'))")
