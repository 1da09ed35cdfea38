"""Steps that tests of the rater page share."""

import re

from django.conf import settings
from django.test import Client
from playwright.sync_api import BrowserContext, Page, expect

from tests.studio import PASSWORD, Studio
from webapp.feedback.models import Slot

READY = "#item[aria-busy=false]"
SAVED = re.compile("^saved")  # what the strip says then


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


def wait_until_nothing_is_kept(page: Page) -> None:
    """Until the server has all that was pressed, and the page keeps nothing at all."""
    page.wait_for_function("() => localStorage.length === 0")


def log_in(page: Page, address: str) -> Page:
    """By keyboard: the name has the focus, Tab leads to the password, Enter sends."""
    page.goto(address)
    type_name_and_password(page)
    page.wait_for_url(address)
    page.wait_for_selector("#item")
    return page


def type_name_and_password(page: Page) -> None:
    expect(page.locator("#id_username")).to_be_focused()
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")


def texts(page: Page) -> list[str]:
    return page.locator(".shown").all_text_contents()


def wait_for_leases(page: Page, count: int) -> None:
    for _ in range(100):
        if Slot.objects.filter(state="leased").count() == count:
            page.wait_for_timeout(100)  # from the row to the page
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{Slot.objects.filter(state='leased').count()} slots are leased, not {count}")
