"""Colours for code, as classes: the policy on content allows no inline style."""

from html import unescape
from re import sub

from django.utils.html import escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

MAX_LINES = 300  # of one block; some lexers take the square of the lines, or of a line's length, on hostile code
MAX_LINE = 300
LANGUAGES = frozenset(
    [
        "bash",
        "c",
        "c++",
        "clojure",
        "console",
        "cpp",
        "cs",
        "csharp",
        "css",
        "dart",
        "diff",
        "docker",
        "dockerfile",
        "elixir",
        "erlang",
        "go",
        "golang",
        "haskell",
        "html",
        "ini",
        "java",
        "javascript",
        "js",
        "json",
        "jsx",
        "julia",
        "kotlin",
        "latex",
        "lua",
        "matlab",
        "nginx",
        "objc",
        "ocaml",
        "perl",
        "php",
        "powershell",
        "py",
        "python",
        "python3",
        "r",
        "rb",
        "ruby",
        "rs",
        "rust",
        "scala",
        "scss",
        "sh",
        "shell",
        "sql",
        "swift",
        "tex",
        "toml",
        "ts",
        "tsx",
        "typescript",
        "xml",
        "yaml",
        "yml",
        "zsh",
    ]
)
FORMATTER = HtmlFormatter(nowrap=True, classprefix="c-")


def highlighted(code: str, language: str) -> str:
    """``code`` as HTML; without colours where the language is none of ours or the block or a line of it is long."""
    plain = escape(code)
    lines = code.split("\n")
    if language.lower() not in LANGUAGES or len(lines) > MAX_LINES or max(map(len, lines)) > MAX_LINE:
        return plain
    try:
        lexer = get_lexer_by_name(language.lower(), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return plain
    coloured = str(highlight(code, lexer, FORMATTER))
    return coloured if unescape(sub(r"<[^>]*>", "", coloured)) == code else plain  # a lexer may leave something out
