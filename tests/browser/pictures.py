"""Screenshots for people to look at, kept under test-output/ (which git ignores)."""

from pathlib import Path

from playwright.sync_api import Page, ViewportSize

FOLDER = Path(__file__).resolve().parents[2] / "test-output" / "pictures"
DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 375, "height": 812}


def take(page: Page, name: str) -> None:
    """The page in light and dark; nothing is asserted."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=FOLDER / f"{name}-{scheme}.png", animations="disabled")  # else colours are caught midway
    page.emulate_media(color_scheme="light")
