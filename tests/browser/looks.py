"""What axe-core finds on a page as people see it: in light and in dark, on a desktop and on a phone."""

from typing import Literal

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, ViewportSize

from tests.browser.pictures import DESKTOP, PHONE

STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
Look = tuple[Literal["light", "dark"], ViewportSize]
LOOKS: tuple[Look, ...] = (("light", DESKTOP), ("dark", PHONE), ("dark", DESKTOP), ("light", PHONE))
ALL_STILL = """() => {
  for (const one of document.getAnimations()) if (one.effect.getComputedTiming().endTime !== Infinity) one.finish();
}"""
OF_COLOUR_AND_SIZE = ["color-contrast", "link-in-text-block", "target-size", "scrollable-region-focusable"]


def in_words(found: dict[str, list[str]]) -> str:
    """What was found, page by page, for a test's last line; nothing where nothing was."""
    return "\n".join(f"{name}: {finding}" for name, these in found.items() for finding in these)


def findings(page: Page) -> list[str]:
    """All that axe finds, of whatever weight; of the last two looks only what they can change.

    The page's size, colours and motion are put back as they were.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    before = page.viewport_size
    found = []
    for number, (scheme, size) in enumerate(LOOKS):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # else colours are caught midway
        page.set_viewport_size(size)
        page.evaluate(ALL_STILL)
        rules = {"runOnly": STANDARD if number < 2 else {"type": "rule", "values": OF_COLOUR_AND_SIZE}}
        report = page.evaluate("options => axe.run(document, options)", {**rules, "resultTypes": ["violations"]})
        found += [
            f"{scheme}, {size['width']} px: {violation['id']} ({violation['impact']}): {node['html'][:120]}"
            for violation in report["violations"]
            for node in violation["nodes"]
        ]
    page.emulate_media(color_scheme="null", reduced_motion="null")
    if before:
        page.set_viewport_size(before)
    return found
