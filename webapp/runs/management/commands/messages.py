"""Brings the catalogs of ``webapp/locale`` up to date with the sources (needs xgettext, of GNU gettext)."""

from contextlib import chdir
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, call_command

from webapp.runs.core_words import core_texts

CORE = Path("core_texts.py")
HEADER = "# Texts of rlhf_core that pages show; webapp/runs/core_words.py lists them.\n"


class Command(BaseCommand):
    help = "Extract what is marked for translation into the .po files, and keep what was translated."

    def handle(self, *args: Any, **options: Any) -> None:
        languages = [code for code, _name in settings.LANGUAGES if code != settings.LANGUAGE_CODE]
        core = settings.BASE_DIR / "webapp" / CORE
        core.write_text(HEADER + "".join(f"gettext_noop({text!r})\n" for text in core_texts()), encoding="utf-8")
        try:
            with chdir(core.parent):  # below which makemessages looks for sources
                call_command(
                    "makemessages",
                    locale=languages,
                    no_obsolete=True,
                    add_location="file",
                    no_wrap=True,
                    ignore_patterns=["vendor/*"],
                    verbosity=options["verbosity"],
                )
        finally:
            core.unlink()
