"""Markdown of anybody to HTML that is safe to show, within a budget of work."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import nh3
from django.utils.html import escape
from markdown_it import MarkdownIt
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from webapp.typeset import formulas
from webapp.typeset.code import highlighted
from webapp.typeset.marks import mark_unseen

MAX_CHARACTERS = 30_000
MAX_LINE = 10_000
MAX_STEPS = 60_000  # of the parser: what a text of MAX_CHARACTERS with markup at every tenth takes, several times over
MAX_NESTING = 40
MAX_GROWTH = 12  # characters of HTML for each of the text
TAGS = {
    *("p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "hr", "br", "pre", "div", "span"),
    *("strong", "em", "s", "code", "table", "thead", "tbody", "tr", "th", "td"),
    *formulas.TAGS,
}
OF_BLOCKS = dict.fromkeys(("p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "th", "td"), {"dir", "class"})
ATTRIBUTES = {
    **formulas.ATTRIBUTES,
    **OF_BLOCKS,
    "ol": {"start", "dir", "class"},
    "span": {"class"},
    "div": {"class"},
    "code": {"class"},
    "pre": {"dir"},
}


class TooMuchWork(ValueError):
    """A text whose markup takes more steps than a page may wait for."""


def spend(env: MutableMapping[str, Any]) -> None:
    env["steps"] = env.get("steps", 0) + 1
    if env["steps"] > MAX_STEPS:
        raise TooMuchWork


def count_block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    spend(state.env)
    return False


def count_inline(state: StateInline, silent: bool) -> bool:
    spend(state.env)
    return False


class CountedInline(ParserInline):
    """Brackets are looked for by skipping over what is known already, which no rule gets to see."""

    def skipToken(self, state: StateInline) -> None:  # noqa: N802
        spend(state.env)
        super().skipToken(state)


def make_parser() -> MarkdownIt:
    """CommonMark with tables and strike-through; without what would hide a part of the text or fetch anything."""
    parser = MarkdownIt("commonmark")
    parser.inline = CountedInline()
    parser.configure("commonmark", {"html": False, "breaks": True, "maxNesting": MAX_NESTING, "xhtmlOut": False})
    parser.enable(["table", "strikethrough"])
    parser.disable(["reference", "image", "autolink", "html_block", "html_inline"])
    formulas.add_formulas(parser)
    parser.block.ruler.before("table", "count", count_block)
    parser.inline.ruler.before("text", "count", count_inline)
    for name, rule in {
        "fence": render_code,
        "code_block": render_code,
        "link_open": render_link_open,
        "link_close": render_link_close,
    }.items():
        parser.add_render_rule(name, rule)
    return parser


def render_code(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    info = token.info.strip()
    language = info.split()[0] if info else ""
    named = f'<p class="language">{escape(info[:200])}</p>' if info else ""
    code = f'<pre dir="ltr"><code>{highlighted(token.content, language)}</code></pre>'
    return f'<div class="code">{named}{code}</div>'


def render_link_open(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return '<span class="link">'


def render_link_close(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    opened = next(token for token in reversed(tokens[:index]) if token.type == "link_open")  # links do not nest
    title = opened.attrGet("title")
    target = f"{opened.attrGet('href')}" + (f' "{title}"' if title else "")
    return f' <span class="target">({escape(target)})</span></span>'


PARSER = make_parser()
FAR = 90  # a list that begins after it needs more room for its numbers
ALIGNMENTS = {"text-align:left": "left", "text-align:center": "middle", "text-align:right": "right"}


def to_html(text: str) -> str | None:
    """``text`` formatted, or None where that would change nothing or is beyond the limits."""
    if len(text) > MAX_CHARACTERS or max(map(len, text.split("\n"))) > MAX_LINE:
        return None
    env: dict[str, Any] = {}
    try:
        tokens = PARSER.parse(text, env)
    except TooMuchWork:
        return None
    # At the greatest depth the parser goes on to the end and drops what stands there.
    if is_plain(text, tokens) or any(token.level >= MAX_NESTING - 1 for token in tokens):
        return None
    for token in tokens:
        adapt(token)
    html = PARSER.renderer.render(tokens, PARSER.options, env)
    if len(html) > MAX_GROWTH * len(text) + 2000:
        return None
    return mark_unseen(nh3.clean(html, tags=TAGS, attributes=ATTRIBUTES, link_rel=None))


def is_plain(text: str, tokens: Sequence[Token]) -> bool:
    """Whether nothing but paragraphs came of ``text``, and nothing was taken for a mark of something else."""
    if "\\" in text or "&" in text:
        return False
    for token in tokens:
        if token.type not in ("paragraph_open", "paragraph_close", "inline"):
            return False
        if any(child.type not in ("text", "softbreak") for child in token.children or ()):
            return False
    return True


def adapt(token: Token) -> None:
    """Each block finds its own direction; headings stand below those of the page; no inline style."""
    if token.nesting != 1:
        if token.type == "heading_close":
            token.tag = lowered(token.tag)
        return
    if token.type == "heading_open":
        token.tag = lowered(token.tag)
    if token.tag in OF_BLOCKS:
        token.attrSet("dir", "auto")
    if token.type == "ordered_list_open" and int(token.attrs.get("start", 1)) > FAR:
        token.attrSet("class", "far")
    style = token.attrs.pop("style", None)
    if style in ALIGNMENTS:
        token.attrSet("class", ALIGNMENTS[str(style)])


def lowered(tag: str) -> str:
    return f"h{min(int(tag[1:]) + 2, 6)}"
