"""Texts in a real browser: formatted or as written, and code that is copied."""

import pytest
from playwright.sync_api import expect

from benchmarks.rating_watch import WATCH
from tests.browser import pictures
from tests.browser.looks import findings
from tests.browser.pages import READY, is_within, open_rater

pytestmark = pytest.mark.django_db(transaction=True)

FULL = """# A title

Some **bold** words, a [link](http://example.test/path), and $\\frac{a}{b} + x^2$.

```python
def f(x):
    return x + 1  # one more
```

| name | value |
|------|------:|
| a    |     1 |

1. first
2. second

> quoted

$$\\int_0^1 x^2 \\,dx = \\frac{1}{3}$$

\u05e9\u05dc\u05d5\u05dd, \u05d6\u05d4 \u05d8\u05e7\u05e1\u05d8. A \u202eword\u202c turned.
"""


def test_a_key_shows_the_texts_as_they_were_written_and_it_stays_so(context, live_server, studio):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(WATCH)
    studio.add_item("*One* prompt", FULL, "Plain.")
    studio.add_item("*Another* prompt", FULL + "!", "Also plain.")
    page = open_rater(context, live_server.url, studio)
    pictures.take(page, "texts-formatted-desktop")
    assert page.locator(".formatted math mfrac").first.is_visible()
    assert page.locator(".formatted .c-k").first.is_visible()
    assert findings(page) == []
    code = page.locator(".code > button").first
    code.focus()
    page.keyboard.press("Enter")
    expect(code).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "def f(x):\n    return x + 1  # one more\n"
    page.keyboard.press("v")
    expect(page.locator("#as-written")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".formatted").first).to_be_hidden()
    assert page.locator(".answer .shown").get_by_text("# A title").is_visible()
    pictures.take(page, "texts-as-written-desktop")
    page.keyboard.press("3")
    expect(page.locator("#progress")).to_have_text("1 rated today")
    page.wait_for_selector(READY)
    expect(page.locator("#as-written")).to_have_attribute("aria-pressed", "true")
    assert page.locator("#shown-prompt .shown").inner_text() == "*Another* prompt"
    page.click("#as-written")
    expect(page.locator("#shown-prompt em")).to_be_visible()
    assert page.evaluate("seen.violations") == []


def test_on_a_phone_formatted_texts_are_no_wider_than_the_screen(new_context, live_server, studio):
    studio.add_item("*One* prompt", FULL + "\n`" + "w" * 900 + "`\n\n|" + "abc|" * 60 + "\n|" + "-|" * 60, "Plain.")
    context = new_context(viewport=pictures.PHONE, has_touch=True, is_mobile=True)
    page = open_rater(context, live_server.url, studio)
    assert is_within(page)
    pictures.take(page, "texts-formatted-phone")
    page.tap("#as-written")
    expect(page.locator(".formatted").first).to_be_hidden()
    assert is_within(page)
