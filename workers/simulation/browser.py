"""A browser as small as the pages permit: it keeps cookies, reads what is shown, fills in forms and presses buttons.

It runs no script: the pages work without.
"""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import IO, Any

TIMEOUT_SECONDS = 60
VOID = {"area", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class BrowserError(Exception):
    """The studio did not answer, or refused; the message says what the page said."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form as it was filled in when the page came; ``buttons`` are pressed by name and value."""

    id: str
    action: str
    values: tuple[tuple[str, str], ...]
    buttons: frozenset[tuple[str, str]]

    def filled(self, **changes: str | Sequence[str]) -> list[tuple[str, str]]:
        """The values to send, with some of them changed; several where a name stands several times."""
        kept = [(name, value) for name, value in self.values if name not in changes]
        several = {name: [value] if isinstance(value, str) else value for name, value in changes.items()}
        return [*kept, *((name, value) for name, values in several.items() for value in values)]


@dataclass(frozen=True, slots=True)
class Item:
    """What a rater is shown, in the order in which it stands; ``kind`` is the rating mode."""

    prompt: str
    answers: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page as a person takes it in."""

    url: str
    forms: tuple[Form, ...]
    item: Item | None
    notices: tuple[str, ...]
    link: str
    """What a page offers for copying, such as an invitation's link; empty elsewhere."""

    def form(self, *names: str) -> Form:
        """The last form that has all these fields: where a page offers presets first, that is the full one.

        Without names, the last one that is sent to the page itself.

        Raises:
            BrowserError: there is none.
        """
        for form in reversed(self.forms):
            if {name for name, _ in form.values} >= set(names) and (names or not form.action):
                return form
        raise BrowserError(f"{self.url} has no form with {', '.join(names) or 'a button'}; it says: {self.says}")

    def named(self, name: str) -> Form:
        """The form with this id.

        Raises:
            BrowserError: there is none.
        """
        for form in self.forms:
            if form.id == name:
                return form
        raise BrowserError(f"{self.url} has no form named {name!r}; it says: {self.says}")

    @property
    def says(self) -> str:
        """The notices as one line."""
        return " ".join(self.notices) or "nothing"


class Browser:
    """One person's window on the studio.

    Args:
        url: the studio's address, such as http://127.0.0.1:8000.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar()), StayHere
        )

    def get(self, address: str) -> Page:
        """Open a page, following where it leads.

        Raises:
            BrowserError: no answer, or a refusal.
        """
        for _ in range(10):
            status, address, text = self.ask(address, None)
            if status // 100 != 3:
                return read_page(address, text)
        raise BrowserError(f"{address} leads round in circles")

    def send(self, form: Form, page: Page, **changes: str | Sequence[str]) -> str:
        """Send a form of a page; returns the address that the answer leads to, or the page's own.

        Raises:
            BrowserError: no answer, or a refusal: the message has what the page says.
        """
        data = urllib.parse.urlencode(form.filled(**changes)).encode()
        status, address, _ = self.ask(urllib.parse.urljoin(page.url, form.action), data)
        return address if status // 100 == 3 else page.url

    def ask(self, address: str, data: bytes | None) -> tuple[int, str, str]:
        """One request: status, the address it was answered at or, of a redirect, leads to, and the text."""
        url = urllib.parse.urljoin(self.url + "/", address)
        try:
            with self.opener.open(urllib.request.Request(url, data=data), timeout=TIMEOUT_SECONDS) as answer:
                target = urllib.parse.urljoin(url, answer.headers.get("Location") or "")
                return answer.status, target, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                page = read_page(url, error.read().decode(errors="replace"))
            raise BrowserError(f"{url} answers {error.code}: {page.says}") from None
        except (OSError, http.client.HTTPException) as error:
            raise BrowserError(f"{self.url} does not answer ({error}): is the studio up?") from error


class StayHere(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer: whoever asked decides whether to follow."""

    def http_error_302(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any) -> Any:
        return fp

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@dataclass
class OpenForm:
    id: str
    action: str
    values: list[tuple[str, str]] = field(default_factory=list)
    buttons: set[tuple[str, str]] = field(default_factory=set)


class Reader(HTMLParser):
    """Collects forms, the item and notices."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, Mapping[str, str]]] = []
        self.forms: list[OpenForm] = []
        self.kind = ""
        self.shown: list[tuple[bool, list[str]]] = []  # whether it is the prompt, and its text; no earlier turns
        self.notices: list[list[str]] = []
        self.select = self.textarea = self.link = ""
        self.chosen: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append((tag, found))
        if self.is_in("template"):
            return  # it stands on no page
        classes = found.get("class", "").split()
        if found.get("id") == "item":
            self.kind = found.get("data-kind", "")
        if "shown" in classes and self.kind and not self.has_class("earlier"):
            self.shown.append((any(one.get("id") == "shown-prompt" for _, one in self.open), []))
        if "notice" in classes or tag == "h1" or "errors" in classes:
            self.notices.append([])
        if tag == "form":
            self.forms.append(OpenForm(found.get("id", ""), found.get("action", "")))
        if found.get("id") == "link" and "readonly" in found:
            self.link = found.get("value", "")
        form = self.forms[-1] if self.is_in("form") else None
        name = found.get("name", "")
        if form is None:
            return
        if tag == "input" and name:
            kind = found.get("type", "text")
            if kind not in ("checkbox", "radio", "submit", "button", "file") or "checked" in found:
                form.values.append((name, found.get("value", "on" if kind == "checkbox" else "")))
        elif tag == "button" and name:
            form.buttons.add((name, found.get("value", "")))
        elif tag == "select":
            self.select, self.chosen = name, None
        elif tag == "option" and self.select and (self.chosen is None or "selected" in found):
            self.chosen = found.get("value", "")
        elif tag == "textarea" and name:
            form.values.append((name, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "select" and self.select:
            self.forms[-1].values.append((self.select, self.chosen or ""))
            self.select = ""
        while self.open and tag in {name for name, _ in self.open}:
            if self.open.pop()[0] == tag:
                break

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "template" in tags:
            return
        # an em within a text is the page's own word for nothing
        if self.shown and self.kind and "em" not in tags and self.has_class("shown") and not self.has_class("earlier"):
            self.shown[-1][1].append(data)
        if self.notices and (self.has_class("notice") or self.has_class("errors") or "h1" in tags):
            self.notices[-1].append(data)
        if tags and tags[-1] == "textarea" and self.forms and self.forms[-1].values:
            name, value = self.forms[-1].values[-1]
            text = data.removeprefix("\n") if not value else data  # the first line end belongs to the tag
            self.forms[-1].values[-1] = (name, value + text)

    def is_in(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.open)

    def has_class(self, name: str) -> bool:
        return any(name in attributes.get("class", "").split() for _, attributes in self.open)


def read_page(url: str, text: str) -> Page:
    """What stands on a page.

    Raises:
        BrowserError: it shows an item without its prompt, or with other than the answers that its mode has.
    """
    reader = Reader()
    reader.feed(text)
    reader.close()
    prompts = ["".join(words) for is_prompt, words in reader.shown if is_prompt]
    answers = ["".join(words) for is_prompt, words in reader.shown if not is_prompt]
    item = None
    if reader.kind:
        permitted = {"pair": (2, 2), "single": (1, 1), "ranking": (2, 6)}.get(reader.kind, (0, len(answers)))
        if len(prompts) != 1 or not permitted[0] <= len(answers) <= permitted[1]:
            raise BrowserError(f"{url} shows {len(prompts)} prompts and {len(answers)} answers as a {reader.kind!r}")
        item = Item(prompts[0], tuple(answers), reader.kind)
    said = (" ".join("".join(words).split()) for words in reader.notices)
    return Page(
        url=url,
        forms=tuple(Form(one.id, one.action, tuple(one.values), frozenset(one.buttons)) for one in reader.forms),
        item=item,
        notices=tuple(filter(None, said)),
        link=reader.link,
    )
