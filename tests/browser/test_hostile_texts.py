"""Two hundred hostile texts in a real browser: nothing runs, nothing is fetched, nothing moves."""

import pytest
from playwright.sync_api import expect

from benchmarks.rating_watch import WATCH
from tests.browser.pages import READY, is_within, open_rater
from tests.hostile import HOSTILE
from tests.studio import open_studio
from webapp.feedback.models import Rating

pytestmark = pytest.mark.django_db(transaction=True)

CANARY = """
window.ran = [];
window.canary = (what) => ran.push(String(what));
for (const name of ["alert", "confirm", "prompt", "print", "open"]) window[name] = () => canary(name);
"""


def grouped() -> list[str]:
    """The hostile texts, many to a page: short ones together, so that what one opens another may close."""
    groups: list[list[str]] = []
    for text in HOSTILE.values():
        fits = groups and sum(map(len, groups[-1])) + len(text) < 6000 and len(groups[-1]) < 16
        groups[-1].append(text) if fits else groups.append([text])
    return ["\n\n".join(group).replace("\0", "\ufffd") for group in groups]


def test_two_hundred_hostile_texts_do_nothing(context, live_server):
    context.add_init_script(CANARY + WATCH)
    studio = open_studio()
    studio.add_rater("ada")
    studio.project.name = HOSTILE["mutation 14"][:120]
    studio.project.question = HOSTILE["template 11"]
    studio.project.prompt_label = HOSTILE["template 6"][:60]
    studio.project.save()
    texts = grouped()
    while len(texts) % 3:
        texts.append("x")
    items = [texts[start : start + 3] for start in range(0, len(texts), 3)]
    for prompt, left, right in items:
        studio.add_item(prompt or "x", left, right + " ")
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = open_rater(context, live_server.url, studio)
    address = page.url
    asked.clear()
    for number in range(len(items)):
        page.wait_for_selector(READY)
        assert is_within(page), f"item {number}"
        bar = page.locator(".verdict").bounding_box()
        assert bar["y"] + bar["height"] <= 720.5, "the buttons stay where they are"
        token = page.input_value("[name=token]")
        page.keyboard.press("v")
        assert is_within(page), f"item {number} as written" if number % 2 else f"item {number} formatted"
        page.keyboard.press("3")
        page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)
    expect(page.locator("h1")).to_have_text("That is all for now")
    assert page.evaluate("ran") == []
    assert page.evaluate("seen.violations") == []
    assert page.url == address
    assert [url for url in asked if not url.startswith(address)] == []
    assert Rating.objects.count() == len(items)
