"""Forms of projects: create, settings, import, invitations, guideline."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django import forms
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from webapp.errors import SettingsRefused
from webapp.ids import sha256_of
from webapp.projects.models import SHARES, Membership, PracticePair, Project

MAX_FILE_BYTES = 10 * 1024 * 1024
PERCENT = {"min": 0, "max": 100, "step": 5}


def accepted(form: forms.BaseForm, act: Callable[[], Any]) -> bool:
    """Do ``act``; what it refuses becomes errors of the form's fields, and the answer is False."""
    try:
        act()
    except SettingsRefused as refused:
        for name, reasons in refused.errors.items():
            form.add_error(name if name in form.fields else None, reasons)
        return False
    return True


class SettingsForm(forms.ModelForm):
    """What may be changed of a project at any time; nothing of it touches ratings that were given."""

    class Meta:
        model = Project
        fields = [
            "name",
            "question",
            "single_question",
            "prompt_label",
            "pair_percent",
            "overlap",
            "buffer_target",
            "choice",
            "lease_minutes",
            "use_simulated_ratings",
            "is_paused",
        ]
        labels = {
            "name": gettext_lazy("Name"),
            "question": gettext_lazy("Question for a pair"),
            "single_question": gettext_lazy("Question for one answer"),
            "prompt_label": gettext_lazy("Words before the prompt"),
            "pair_percent": gettext_lazy("Pairs, in percent"),
            "overlap": gettext_lazy("Ratings wanted of each item"),
            "buffer_target": gettext_lazy("Items kept ready"),
            "choice": gettext_lazy("Rate first"),
            "lease_minutes": gettext_lazy("Minutes an item is kept for its rater"),
            "use_simulated_ratings": gettext_lazy("Train on simulated ratings too"),
            "is_paused": gettext_lazy("Pause rating"),
        }
        help_texts = {
            "question": gettext_lazy("One sentence, above every pair."),
            "single_question": gettext_lazy("One sentence, above every single answer."),
            "prompt_label": gettext_lazy("Stand above the prompt, for instance: The review begins."),
            "pair_percent": gettext_lazy("What no rating mode takes is single answers, rated 1 to 5."),
            "overlap": gettext_lazy("By different people. Holds for items made from now on."),
            "buffer_target": gettext_lazy("The sampler writes new answers when fewer are open."),
            "choice": gettext_lazy(
                "The most uncertain: what the newest reward model is least sure of, one item a prompt, a quarter of "
                "what waits. It takes a reward model that is an ensemble; until there is one, any order."
            ),
            "lease_minutes": gettext_lazy("After that somebody else may get it; a late rating is kept."),
            "use_simulated_ratings": gettext_lazy(
                "They are always marked as simulated. Off: the next dataset leaves them out."
            ),
            "is_paused": gettext_lazy(
                "Raters see that the project is paused. Ratings on their way are still accepted."
            ),
        }
        widgets = {"pair_percent": forms.NumberInput(attrs=PERCENT)}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "choice" in self.fields:
            self.fields["choice"].required = False

    def clean_choice(self) -> str:
        """What is left out stays as it is."""
        return str(self.cleaned_data["choice"] or self.instance.choice)


class LinesField(forms.CharField):
    """A list of short texts, one a line; blank lines are left out, and none may come twice."""

    def __init__(self, *, most: int, length: int, **more: Any) -> None:
        super().__init__(required=False, widget=forms.Textarea(attrs={"rows": 5}), **more)
        self.most, self.length = most, length

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        lines = [line.strip() for line in super().clean(value).splitlines() if line.strip()]
        for line in lines:
            if len(line) > self.length:
                raise forms.ValidationError(
                    ngettext(
                        "“%(line)s…” has %(count)s character: %(length)s at most a line.",
                        "“%(line)s…” has %(count)s characters: %(length)s at most a line.",
                        len(line),
                    )
                    % {"line": line[:20], "count": len(line), "length": self.length}
                )
            if lines.count(line) > 1:
                raise forms.ValidationError(_("“%(line)s” stands there twice: take one of them away.") % {"line": line})
        if len(lines) > self.most:
            raise forms.ValidationError(
                ngettext("%(count)s line: %(most)s at most.", "%(count)s lines: %(most)s at most.", len(lines))
                % {"count": len(lines), "most": self.most}
            )
        return lines


class ModesForm(forms.ModelForm):
    """Which rating modes a project uses, and how much of each; what is left of 100 % is single answers."""

    rules = LinesField(
        label=gettext_lazy("Rules"),
        most=40,
        length=300,
        help_text=gettext_lazy(
            "One a line, each a sentence that an answer keeps to or breaks: “It names no private "
            "person.” Each item asks one of them, the least asked first. A line that you change is a "
            "new rule."
        ),
    )
    axes = LinesField(
        label=gettext_lazy("Axes"),
        most=5,
        length=30,
        help_text=gettext_lazy(
            "One a line, 5 at most, such as helpful, truthful, harmless. A single answer then gets 1 "
            "to 5 overall, and after that 1 to 5 for each. A reward model learns from the overall "
            "score."
        ),
    )
    flags = LinesField(
        label=gettext_lazy("Flags"),
        most=9,
        length=40,
        help_text=gettext_lazy(
            "One a line, 9 at most; raters set them with X and a number, in every mode. For instance: "
            "spam, personal data, harmful, wrong language. Empty: no flags. A reason in own words can "
            "be given always."
        ),
    )

    class Meta:
        model = Project
        fields = [
            "pair_percent",
            "ranking_percent",
            "ranking_size",
            "ranking_question",
            "rule_percent",
            "rule_question",
            "rewrite_percent",
            "rewrite_question",
            "turns_percent",
            "turns_question",
            "axes",
            "flags",
        ]
        labels = {
            "pair_percent": gettext_lazy("Pairs, in percent"),
            "ranking_percent": gettext_lazy("Rankings, in percent"),
            "ranking_size": gettext_lazy("Answers to a ranking"),
            "ranking_question": gettext_lazy("Question for a ranking"),
            "rule_percent": gettext_lazy("Rules, in percent"),
            "rule_question": gettext_lazy("Question for a rule"),
            "rewrite_percent": gettext_lazy("Rewrites, in percent"),
            "rewrite_question": gettext_lazy("Question for a rewrite"),
            "turns_percent": gettext_lazy("Turns, in percent"),
            "turns_question": gettext_lazy("Question for turns"),
        }
        help_texts = {
            "pair_percent": gettext_lazy("Two answers: which is better, and by how much? One key."),
            "ranking_percent": gettext_lazy("Several answers are put in order, ties permitted."),
            "ranking_size": gettext_lazy(
                "2 to 6. Each ranking takes as many fresh answers, so the queue fills more slowly."
            ),
            "ranking_question": gettext_lazy("One sentence, above every ranking."),
            "rule_percent": gettext_lazy(
                "One answer is held against one rule: yes, no or unsure, with the passage that shows it."
            ),
            "rule_question": gettext_lazy("One sentence, above the rule."),
            "rewrite_percent": gettext_lazy(
                "One answer is written anew, or called good as it is. Kept as a demonstration."
            ),
            "rewrite_question": gettext_lazy("One sentence, above every answer to be rewritten."),
            "turns_percent": gettext_lazy(
                "Each turn of the assistant in a conversation is called good or bad, the answer drawn now as the last. "
                "Of a prompt that is no conversation, that answer alone."
            ),
            "turns_question": gettext_lazy("One sentence, above every conversation whose turns are judged."),
        }
        widgets = dict.fromkeys(SHARES, forms.NumberInput(attrs=PERCENT))


class CreateForm(SettingsForm):
    """A new project: what raters are asked, and what they are told."""

    slug = forms.SlugField(
        label=gettext_lazy("Address"),
        max_length=60,
        required=False,
        help_text=gettext_lazy("Stands in the project's links. Empty: made from the name."),
    )
    guideline_body = forms.CharField(
        label=gettext_lazy("Guideline"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 10}),
        help_text=gettext_lazy(
            "What makes an answer better, in a sentence; then a good and a bad example. Markdown. Each "
            "change later on is a new version."
        ),
    )

    class Meta(SettingsForm.Meta):
        fields = ["name", "question", "single_question", "prompt_label", "pair_percent", "overlap"]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        slug = cleaned.get("slug") or slugify(cleaned.get("name", ""))[:60]
        if not slug:
            self.add_error("slug", _("The name has no letters or digits for an address: write one here."))
        elif Project.objects.filter(slug=slug).exists():
            self.add_error(
                "slug", _("Another project has the address “%(slug)s”: write another one here.") % {"slug": slug}
            )
        cleaned["slug"] = slug
        return cleaned


def first_object(text: str) -> int | None:
    """The number of the first line that is an object of JSON; None: there is none."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip().startswith("{"):
            with suppress(ValueError, RecursionError):
                if isinstance(json.loads(line), dict):
                    return number
    return None


class ImportForm(forms.Form):
    """Prompts from a file or from the clipboard."""

    FORMATS = [
        ("", gettext_lazy("Find out by the file's name")),
        ("text", gettext_lazy("Text: one prompt a line")),
        ("jsonl", gettext_lazy('JSON lines: {"prompt": "…", "priority": 5}, or {"messages": […]}')),
        ("csv", gettext_lazy("CSV with a column “prompt”, perhaps “priority”")),
    ]
    ENDINGS = {"txt": "text", "text": "text", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl", "csv": "csv"}

    file = forms.FileField(
        label=gettext_lazy("File"),
        required=False,
        help_text=gettext_lazy(
            "One prompt a line, JSON lines, or CSV; UTF-8, 10 MB at most. A prompt may have a priority, −1000 to 1000, "
            "0 by default: among "
            "prompts that raters were asked about equally often, the higher is answered first, and its "
            "items are rated first. Import the same prompt again with another priority to change it; "
            "items that wait already stay where they are."
        ),
    )
    text = forms.CharField(
        label=gettext_lazy("Or paste them"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 10, "spellcheck": "false"}),
    )
    put_there = forms.CharField(required=False, widget=forms.HiddenInput)  # digest of a text that the page put in
    format = forms.ChoiceField(label=gettext_lazy("Format"), choices=FORMATS, required=False)
    held_out_percent = forms.IntegerField(
        label=gettext_lazy("Held out, in percent"),
        min_value=0,
        max_value=90,
        initial=20,
        help_text=gettext_lazy(
            "Never trained on, kept to measure. Fixed by the prompt's text: the same prompt always "
            "falls on the same side."
        ),
    )
    source = forms.CharField(
        label=gettext_lazy("Where they come from"),
        max_length=60,
        required=False,
        help_text=gettext_lazy("A word for yourself, kept with each prompt."),
    )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        file, text = cleaned.get("file"), cleaned.get("text", "")
        if file and cleaned.get("put_there") == self.digest(text):  # a refused file's: the one chosen since wins
            text = cleaned["text"] = ""
        if file and text.strip():
            raise forms.ValidationError(_("There is a file and a pasted text: take one of them away."))
        if not file and not text.strip():
            raise forms.ValidationError(_("Nothing to import: choose a file or paste some prompts."))
        if file and file.size > MAX_FILE_BYTES:
            raise forms.ValidationError(
                _("%(name)s is larger than 10 MB: split it, and import the parts in turn.") % {"name": file.name}
            )
        if not cleaned.get("format"):
            cleaned["format"] = self.guess_format(file.name if file else "", text)
            if cleaned["format"] == "text" and (line := first_object(text)):
                told = _("Line %(line)s is an object of JSON, the first one is not: choose the format.")
                self.add_error("format", told % {"line": line})
        return cleaned

    @staticmethod
    def digest(text: str) -> str:
        """Of a text's lines: browsers send the ends of lines as they like."""
        return sha256_of("\n".join(text.splitlines()))

    def guess_format(self, name: str, text: str) -> str:
        ending = name.rpartition(".")[2].lower()
        return self.ENDINGS.get(ending) or ("jsonl" if text.lstrip().startswith("{") else "text")


class InvitationForm(forms.Form):
    """A link by which others join."""

    role = forms.ChoiceField(label=gettext_lazy("Role"), choices=Membership.Role.choices, initial=Membership.Role.RATER)
    days = forms.IntegerField(label=gettext_lazy("Days it works"), min_value=1, max_value=90, initial=7)
    uses = forms.IntegerField(label=gettext_lazy("People who may use it"), min_value=1, max_value=500, initial=1)

    @property
    def valid_for(self) -> timedelta:
        return timedelta(days=self.cleaned_data["days"])


class WithdrawForm(forms.Form):
    invitation = forms.IntegerField(min_value=1)


class GuidelineForm(forms.Form):
    body = forms.CharField(
        label=gettext_lazy("Text"),
        max_length=50_000,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 22, "class": "tall"}),
        help_text=gettext_lazy("Markdown: # heading, - list, **strong**, > quote."),
    )


class GuidelineReadForm(forms.Form):
    version = forms.IntegerField(min_value=1, max_value=1_000_000)


class ConsentForm(forms.ModelForm):
    class Meta:
        model = Project
        fields = ["consent"]
        labels = {"consent": gettext_lazy("What raters agree to")}
        help_texts = {
            "consent": gettext_lazy(
                "Markdown. What is done with ratings, who sees names, what may be unpleasant to read. "
                "Empty: raters are not asked."
            )
        }
        widgets = {"consent": forms.Textarea(attrs={"rows": 8})}


class PracticeForm(forms.ModelForm):
    """A practice pair with its answer."""

    class Meta:
        model = PracticePair
        fields = ["prompt", "left", "right", "best", "explanation"]
        labels = {
            "prompt": gettext_lazy("Prompt"),
            "left": gettext_lazy("Answer A"),
            "right": gettext_lazy("Answer B"),
            "best": gettext_lazy("The answer"),
            "explanation": gettext_lazy("Why"),
        }
        help_texts = {
            "left": gettext_lazy("answer A"),
            "right": gettext_lazy("answer B"),
            "explanation": gettext_lazy("Shown after the rater has answered, right or wrong."),
        }
        widgets = {
            "prompt": forms.Textarea(attrs={"rows": 2}),
            "left": forms.Textarea(attrs={"rows": 4}),
            "right": forms.Textarea(attrs={"rows": 4}),
            "explanation": forms.Textarea(attrs={"rows": 3}),
        }
