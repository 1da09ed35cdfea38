"""Reads what the sources mark for translation and what the catalogs have, without the tools of GNU gettext."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from django.template import engines
from django.template.base import Node, NodeList
from django.templatetags.i18n import BlockTranslateNode, TranslateNode

WEBAPP = Path(__file__).resolve().parent.parent / "webapp"
CALLS = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext"}
IN_FILTER = re.compile(r"""_\((?:"([^"]*)"|'([^']*)')\)""")


@dataclass
class Entry:
    """A message of a .po file; ``texts`` are its translations, of a plural one for each form."""

    id: str = ""
    plural: str = ""
    texts: list[str] = field(default_factory=list)
    is_fuzzy: bool = False


def read_po(language: str) -> list[Entry]:
    """The messages of a catalog, its header first."""
    entries, entry, last = [], Entry(), ""
    path = WEBAPP / "locale" / language / "LC_MESSAGES" / "django.po"
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        found = re.fullmatch(r'(?:(msgid_plural|msgid|msgstr)(?:\[\d\])? )?(".*")', line)
        if line.startswith("#, ") and "fuzzy" in line:
            entry.is_fuzzy = True
        elif found:
            last, text = found[1] or "more", ast.literal_eval(found[2])
            if found[1] == "msgid":
                entry.id, into = text, "id"
            elif found[1] == "msgid_plural":
                entry.plural, into = text, "plural"
            elif found[1] == "msgstr":
                entry.texts.append(text)
                into = "texts"
            elif into == "texts":
                entry.texts[-1] += text
            else:
                setattr(entry, into, getattr(entry, into) + text)
        elif not line and last:
            entries.append(entry)
            entry, last = Entry(), ""
    return entries


def marked_in_python() -> Iterator[str]:
    """The first argument of every call that marks a text."""
    for path in WEBAPP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS):
                continue
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def nodes_of(nodes: NodeList) -> Iterator[Node]:
    for node in nodes:
        yield node
        for name in ("nodelist", *node.child_nodelists):
            yield from nodes_of(getattr(node, name, None) or NodeList())
        for _, inner in getattr(node, "conditions_nodelists", ()):
            yield from nodes_of(inner)


def marked_in_templates() -> Iterator[str]:
    """What the tags translate and blocktranslate hold, and ``_("...")`` as the argument of a filter."""
    folder = WEBAPP / "templates"
    for path in folder.rglob("*.html"):
        yield from (one or other for one, other in IN_FILTER.findall(path.read_text(encoding="utf-8")))
        template = engines["django"].engine.get_template(str(path.relative_to(folder)))  # type: ignore[attr-defined]
        for node in nodes_of(template.nodelist):
            if isinstance(node, BlockTranslateNode):
                yield node.render_token_list(node.singular)[0]
            elif isinstance(node, TranslateNode) and node.filter_expression.var.literal is not None:
                yield str(node.filter_expression.var.literal).replace("%", "%%")
