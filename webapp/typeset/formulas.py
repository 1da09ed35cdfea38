r"""LaTeX between ``$ $``, ``$$ $$``, ``\( \)`` or ``\[ \]`` as MathML; what is broken stays as it was written."""

import re
from html import escape, unescape
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from webapp.typeset.marks import unseen

MAX_CHARACTERS = 2000  # of one formula
MAX_DEPTH = 60  # elements within one another
CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
CHILDREN = {
    "mfrac": 2,
    "mroot": 2,
    "msub": 2,
    "msup": 2,
    "msubsup": 3,
    "munder": 2,
    "mover": 2,
    "munderover": 3,
}
TAGS = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "mtext",
        "mspace",
        "msqrt",
        "mtable",
        "mtr",
        "mtd",
        "mpadded",
        "menclose",
        "mstyle",
    ]
)
TAGS |= frozenset(CHILDREN)  # no mphantom, which hides what it holds
HIDING = {"href", "mathcolor", "mathbackground", "mathsize"}  # where a click leads, or what nobody can read
ATTRIBUTES = {
    "math": {"display"},
    "mo": {"stretchy", "fence", "form", "largeop", "movablelimits", "separator", "minsize", "maxsize"},
    "mi": {"mathvariant"},
    "mfrac": {"linethickness"},
    "mspace": {"width"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "mtable": {"columnalign"},
}
# Words, and lengths of a few letters; none below zero, by which one part of a text could be drawn over another.
HARMLESS = re.compile(r"[a-z -]{1,40}|\+?[0-4]?(\.\d{1,4})?(em|ex)?", re.ASCII)


class FormulaBroken(ValueError):
    """The source is not LaTeX that can be shown as a formula."""


def to_mathml(source: str, *, is_display: bool) -> str | None:
    """The formula as a ``math`` element, or None where ``source`` is too long, broken or holds unseen characters."""
    if len(source) > MAX_CHARACTERS or unseen().search(source):
        return None
    try:
        root = convert_to_element(source, display="block" if is_display else "inline")
        return serialised(root)
    except Exception:  # a parser of others on text of anybody: whatever it stumbles over, the source is shown instead
        return None


def serialised(element: Element, depth: int = 0) -> str:
    """The tags and attributes that a formula needs, and no others; raises FormulaBroken."""
    tag, text = element.tag, unescape(element.text or "")  # the library writes its signs as character references
    if tag not in TAGS or depth > MAX_DEPTH or len(element) != CHILDREN.get(tag, len(element)):
        raise FormulaBroken(tag)
    if HIDING & set(element.attrib):
        raise FormulaBroken(f"{tag} has {', '.join(HIDING & set(element.attrib))}")
    if tag != "mtext" and text.startswith("\\") and len(text) > 1:
        raise FormulaBroken(f"{text} is no command that is known")
    kept = ATTRIBUTES.get(tag, set())
    given = "".join(
        f' {name}="{value}"' for name, value in element.attrib.items() if name in kept and HARMLESS.fullmatch(value)
    )
    inside = "".join(serialised(child, depth + 1) for child in element)
    return f"<{tag}{given}>{escape(text, quote=False)}{inside}</{tag}>"


# --- Where formulas stand in Markdown --------------------------------------------------------------------------------


def add_formulas(markdown: MarkdownIt) -> None:
    """Teach ``markdown`` the four ways to write a formula."""
    markdown.inline.ruler.before("escape", "formula", inline_formula)
    markdown.block.ruler.before("fence", "formula", block_formula, {"alt": ["paragraph", "blockquote", "list"]})
    markdown.add_render_rule("formula", render_formula)


def inline_formula(state: StateInline, silent: bool) -> bool:
    start = state.pos
    opening = next((mark for mark in CLOSING if state.src.startswith(mark, start)), "")
    if not opening:
        return False
    begin = start + len(opening)
    end = state.src.find(CLOSING[opening], begin, min(state.posMax, begin + MAX_CHARACTERS + 2))
    source = state.src[begin:end] if end > begin else ""
    if not source.strip():
        return False
    after = end + len(CLOSING[opening])
    if opening == "$":  # as Pandoc has it, so that "$5 and $10" are prices
        follows = state.src[after : min(after + 1, state.posMax)]
        if source[0].isspace() or source[-1].isspace() or follows.isdigit():
            return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = source, opening
    state.pos = after
    return True


def block_formula(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    if state.is_code_block(start_line):
        return False
    begin, end = state.bMarks[start_line] + state.tShift[start_line], state.eMarks[start_line]
    first = state.src[begin:end].rstrip()
    opening = first[:2]
    if opening not in ("$$", "\\["):
        return False
    closing = CLOSING[opening]
    lines, line = [first[2:]], start_line
    while closing not in lines[-1]:
        line += 1
        if line >= end_line or state.sCount[line] < state.blkIndent or line - start_line > 100:
            return False
        lines.append(state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip())
    source = "\n".join(lines)
    if not source.endswith(closing) or source.count(closing) != 1 or not source[:-2].strip():
        return False  # more than a formula stands there: a paragraph, in which it is an inline one
    if silent:
        return True
    state.line = line + 1
    token = state.push("formula", "math", 0)
    token.block, token.content, token.markup, token.map = True, source[:-2], opening, [start_line, line + 1]
    return True


def render_formula(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    mathml = to_mathml(token.content.strip(), is_display=token.markup in ("$$", "\\["))
    source = escape(f"{token.markup}{token.content}{CLOSING[token.markup]}")
    shown = mathml or f'<code class="formula">{source}</code>'
    return f'<p class="display">{shown}</p>' if token.block else shown
