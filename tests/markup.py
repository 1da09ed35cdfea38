"""What a browser would make of a piece of HTML."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "hr", "link", "meta", "input"}


@dataclass
class Seen(HTMLParser):
    """Its elements, its text, and whether each end has its beginning."""

    elements: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(sorted(name for name, _ in attrs))))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag):
        if not self.opened or self.opened.pop() != tag:
            self.strays.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        self.strays.append(f"comment {data}")

    @property
    def text(self) -> str:
        return "".join(self.words)


def see(html: str) -> Seen:
    seen = Seen()
    seen.feed(html)
    seen.close()
    return seen
