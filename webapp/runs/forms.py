"""The forms that start runs, built from the settings' own metadata: name, help text, range and unit stand there."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

from django import forms
from django.core.exceptions import ValidationError
from django.utils.formats import get_format, sanitize_separators
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from rlhf_core.config import (
    RUN_CONFIGS,
    Settings,
    check_value,
    settings_from_dict,
    settings_to_dict,
)
from rlhf_core.errors import ConfigError
from webapp.projects.models import Project
from webapp.quality.demonstrations import DemonstrationRules
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import reward_models
from webapp.runs.agreement import agreement_of
from webapp.runs.core_words import said, spelled
from webapp.runs.figures import in_figures, say_value
from webapp.runs.selectors import JUDGES, parts_of, presets_for

WITH_JUDGE = gettext_lazy(
    "two runs, each on one half of the prompts: the second reward model then watches PPO, "
    "which pleases the first, for over-optimisation. The price is that the first knows half as "
    "much"
)


def range_in_words(metadata: Mapping[str, Any]) -> str:
    """The permitted range as one says it: ``1 to 1,000,000``, ``above 0, up to 1``."""
    low, high, above = (say_bound(metadata[name]) for name in ("minimum", "maximum", "above"))
    if low and high:
        return _("%(low)s to %(high)s") % {"low": low, "high": high}
    if above and high:
        return _("above %(above)s, up to %(high)s") % {"above": above, "high": high}
    if low:
        return _("%(low)s or more") % {"low": low}
    if above:
        return _("above %(above)s") % {"above": above}
    return _("up to %(high)s") % {"high": high} if high else _("any number")


def say_bound(value: float | None) -> str:
    return "" if value is None else in_figures(f"{value:,.10g}")


class SettingField(forms.Field):
    """One setting of a stage: its help, unit and permitted values are the settings' own."""

    def __init__(self, name: str, hint: Any, metadata: Mapping[str, Any], default: Any, widget: forms.Widget) -> None:
        self.name, self.hint, self.metadata = name, hint, metadata
        self.unit, self.is_advanced, self.permitted = said(metadata["unit"]), metadata["advanced"], ""
        super().__init__(
            required=False, label=said(spelled(name)), help_text=said(metadata["help"]), initial=default, widget=widget
        )


class SwitchField(SettingField):
    """A setting that is on or off."""

    def __init__(self, name: str, hint: Any, metadata: Mapping[str, Any], default: Any) -> None:
        super().__init__(name, hint, metadata, default, forms.CheckboxInput())

    def to_python(self, value: Any) -> bool:
        return bool(value) and str(value) != "False"


class OneOfField(SettingField):
    """A setting that is one of a few words."""

    def __init__(self, name: str, hint: Any, metadata: Mapping[str, Any], default: Any) -> None:
        self.words = get_args(hint)
        super().__init__(name, hint, metadata, default, forms.Select(choices=[(word, word) for word in self.words]))
        self.permitted = _("one of %(words)s") % {"words": ", ".join(self.words)}

    def to_python(self, value: Any) -> str:
        if value not in self.words:
            raise ValidationError(
                _("%(label)s = %(value)r is not permitted: %(permitted)s.")
                % {"label": self.label, "value": str(value)[:40], "permitted": self.permitted}
            )
        return str(value)


class NumberField(SettingField):
    """A number. What it refuses, it refuses in the settings' own words: name, value, permitted range."""

    def __init__(self, name: str, hint: Any, metadata: Mapping[str, Any], default: Any) -> None:
        choices = get_args(hint)
        self.is_optional = type(None) in choices
        self.number_type = next((kind for kind in choices if kind is not type(None)), hint)
        mode = "numeric" if self.number_type is int else "decimal"
        widget = forms.TextInput(attrs={"inputmode": mode, "autocomplete": "off", "class": "number"})
        super().__init__(name, hint, metadata, default, widget)
        permitted = range_in_words(metadata)
        self.permitted = _("%(range)s, or empty") % {"range": permitted} if self.is_optional else permitted

    def prepare_value(self, value: Any) -> Any:
        """Numbers as one would write them: 0.0003, not 3e-04 nor 0.00029999."""
        if isinstance(value, float):
            text = f"{value:.10f}".rstrip("0").rstrip(".") if 1e-6 <= abs(value) < 1e6 else f"{value:g}"
            return f"{text}0" if is_grouped(text) else text  # 1.125 would be read as 1125 too
        return "" if value is None else value

    def to_python(self, value: Any) -> Any:
        text = str(value if value is not None else "").strip()
        if not text:
            if self.is_optional:
                return None
            raise ValidationError(
                _("%(label)s is empty; permitted is %(permitted)s.")
                % {"label": self.label, "permitted": self.permitted},
                code="empty",
            )
        try:
            number = self.number_type(self.without_separators(text))  # 0,5 is what some languages write
        except ValueError:
            kind = _("a whole number") if self.number_type is int else _("a number")
            raise ValidationError(
                _("%(label)s = %(text)r is not permitted: %(kind)s, %(permitted)s.")
                % {"label": self.label, "text": text[:40], "kind": kind, "permitted": self.permitted},
                code="type",
            ) from None
        try:
            check_value(self.name, number, self.hint, self.metadata)
        except ConfigError:
            raise ValidationError(
                _("%(label)s = %(text)s is not permitted: %(permitted)s.")
                % {"label": self.label, "text": text[:40], "permitted": self.permitted},
                code="range",
            ) from None
        return number

    def without_separators(self, text: str) -> str:
        """``text`` as Python writes numbers: 10.000 is ten thousand in German, as the pages themselves write it.

        Refuses 1.000 where a fraction may be meant; 1,000 in English is none, whatever the field takes.
        """
        if not is_grouped(text):
            return str(sanitize_separators(text))
        separator = thousand_separator()
        whole = text.replace(separator, "")
        if self.number_type is int or text.count(separator) > 1 or separator != ".":  # a point may begin a fraction
            return whole
        raise ValidationError(
            _("%(label)s = %(text)s can be read in two ways: write %(whole)s or %(fraction)s.")
            % {"label": self.label, "text": text, "whole": whole, "fraction": text.replace(separator, ".") + "0"},
            code="type",
        )


def thousand_separator() -> str:
    """What stands between groups of three digits in the reader's language."""
    return str(get_format("THOUSAND_SEPARATOR"))


def is_grouped(text: str) -> bool:
    """Whether ``text`` is a whole number in groups of three digits. What begins with 0 is a fraction."""
    return re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:{re.escape(thousand_separator())}[0-9]{{3}})+", text) is not None


def field_for(name: str, hint: Any, metadata: Mapping[str, Any], default: Any) -> SettingField:
    """The form field of one setting, by its type."""
    if hint is bool:
        return SwitchField(name, hint, metadata, default)
    if all(isinstance(choice, str) for choice in get_args(hint)) and get_args(hint):
        return OneOfField(name, hint, metadata, default)
    return NumberField(name, hint, metadata, default)


class SettingsForm(forms.Form):
    """The settings of one stage, with the key that makes a double click one run."""

    settings_type: type[Settings]
    settings: Settings  # once valid
    prefilled_from = ""
    request_id = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    def __init__(self, *args: Any, settings: Settings | None = None, **kwargs: Any) -> None:
        if settings is not None:
            kwargs["initial"] = {**settings_to_dict(settings), **kwargs.get("initial", {})}
        super().__init__(*args, **kwargs)
        self.add_fields(self.settings_type)

    def add_fields(self, settings_type: type[Settings]) -> None:
        """A field for each of the settings."""
        hints = get_type_hints(settings_type)
        for item in fields(settings_type):  # type: ignore[arg-type]
            default = None if item.default is MISSING else item.default
            self.fields[item.name] = field_for(item.name, hints[item.name], item.metadata, default)

    @property
    def setting_names(self) -> list[str]:
        return names_of(self.settings_type)

    def bound_settings(self, *, advanced: bool) -> list[forms.BoundField]:
        """The fields of the settings, the plain or the advanced ones."""
        named = [(self.fields[name], self[name]) for name in self.fields]
        return [bound for field, bound in named if isinstance(field, SettingField) and field.is_advanced is advanced]

    def plain(self) -> list[forms.BoundField]:
        return self.bound_settings(advanced=False)

    def advanced(self) -> list[forms.BoundField]:
        return self.bound_settings(advanced=True)

    def advanced_has_errors(self) -> bool:
        return any(bound.errors for bound in self.advanced())

    def clean(self) -> dict[str, Any]:
        """Settings that only fit together in part are refused at the field that the error names."""
        values = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.settings = settings_from_dict(
                    self.settings_type, {name: values[name] for name in self.setting_names}
                )
            except ConfigError as error:
                self.add_error(
                    error.field if error.field in self.fields else None,
                    _("%(label)s = %(value)s is not permitted: %(permitted)s.")
                    % {"label": said(spelled(error.field)), "value": error.value, "permitted": error.permitted},
                )
        return values


def names_of(settings_type: type[Settings]) -> list[str]:
    return [item.name for item in fields(settings_type)]  # type: ignore[arg-type]


class RewardModelField(forms.ModelChoiceField):
    """A reward model, named with how often it agrees with raters."""

    def label_from_instance(self, checkpoint: Any) -> str:
        return describe_reward_model(checkpoint)


class RewardRunForm(SettingsForm):
    """Settings of a reward model's training, and whether a judge of it is trained too."""

    settings_type = RUN_CONFIGS["reward"]
    with_judge = forms.BooleanField(
        required=False, label=gettext_lazy("With an independent judge"), help_text=WITH_JUDGE
    )


class SFTRunForm(SettingsForm):
    """Settings of a fine-tuning, and which answers it learns from."""

    settings_type = RUN_CONFIGS["sft"]
    rules: DemonstrationRules  # once valid

    def __init__(self, *args: Any, rules: DemonstrationRules | None = None, **kwargs: Any) -> None:
        if rules is not None:
            kwargs["initial"] = {**settings_to_dict(rules), **kwargs.get("initial", {})}
        super().__init__(*args, **kwargs)
        self.add_fields(DemonstrationRules)
        self.order_fields(["request_id", *names_of(DemonstrationRules)])

    @property
    def shown_rules(self) -> DemonstrationRules:
        """The rules that stand in the form; the defaults where they are not permitted."""
        names = names_of(DemonstrationRules)
        if self.is_bound:
            return getattr(self, "rules", DemonstrationRules())
        return DemonstrationRules(**{name: self.initial[name] for name in names if name in self.initial})

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        if not self.errors:
            self.rules = DemonstrationRules(**{name: values[name] for name in names_of(DemonstrationRules)})
        return values


class ScoredRunForm(SettingsForm):
    """Settings of a run in which a reward model of the project scores responses; the newest unless chosen."""

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["reward_model"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = reward_models(project)
        self.parts = parts_of(project)
        rewarding = [model for model in field.queryset if self.parts.get(model.pk) != JUDGES]
        if newest := next(iter(rewarding), None):
            self.initial.setdefault("reward_model", newest.pk)


FOREIGN_REWARD_MODEL = {"invalid_choice": gettext_lazy("That reward model is not one of this project's.")}


class PolicyRunForm(ScoredRunForm):
    """Settings of PPO, and the reward model that it follows."""

    settings_type = RUN_CONFIGS["policy"]
    reward_model = RewardModelField(
        Checkpoint.objects.none(),
        empty_label=None,
        help_text=gettext_lazy("what the policy learns to please; the newest knows the most ratings"),
        error_messages=FOREIGN_REWARD_MODEL,
    )
    judge = RewardModelField(
        Checkpoint.objects.none(),
        required=False,
        empty_label=gettext_lazy("none"),
        help_text=gettext_lazy(
            "watches for over-optimisation: it must have learned from the other half of the prompts"
        ),
        error_messages=FOREIGN_REWARD_MODEL,
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, project=project, **kwargs)
        field = self.fields["judge"]
        assert isinstance(field, forms.ModelChoiceField)
        judging = [pk for pk, part in self.parts.items() if part == JUDGES]
        field.queryset = reward_models(project).filter(pk__in=judging)
        chosen = self.initial.get("reward_model")
        self.choose_judge(reward_models(project).filter(pk=chosen).first() if chosen else None)

    def matching_judge(self, reward_model: Checkpoint | None) -> Checkpoint | None:
        """The newest judge of what this reward model rewards; None where it learned from all prompts."""
        if reward_model is None or self.parts.get(reward_model.pk) != "first":
            return None
        found: Checkpoint | None = self.fields["judge"].queryset.first()  # type: ignore[attr-defined]
        return found

    def choose_judge(self, reward_model: Checkpoint | None) -> None:
        """Fill in the judge that fits."""
        judge = self.matching_judge(reward_model)
        self.initial["judge"] = judge.pk if judge else None


class EvaluateRunForm(ScoredRunForm):
    """Settings of an evaluation, and the reward model that scores the answers."""

    settings_type = RUN_CONFIGS["evaluate"]
    reward_model = RewardModelField(
        Checkpoint.objects.none(),
        required=False,
        empty_label=gettext_lazy("none"),
        help_text=gettext_lazy("scores all answers; a policy was taught to please its own, so a newer one is fairer"),
        error_messages=FOREIGN_REWARD_MODEL,
    )


class PresetForm(forms.Form):
    """One click: a named preset, and for PPO the reward model."""

    request_id = forms.UUIDField(widget=forms.HiddenInput)
    preset = forms.CharField()
    reward_model = forms.ModelChoiceField(Checkpoint.objects.none(), required=False)
    judge = forms.ModelChoiceField(Checkpoint.objects.none(), required=False)
    with_judge = forms.BooleanField(required=False)

    def __init__(self, *args: Any, kind: str, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kind, self.project = kind, project
        for name in ("reward_model", "judge"):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)
            field.queryset = reward_models(project)

    def clean_preset(self) -> Settings:
        presets = presets_for(self.project, self.kind)
        name = self.cleaned_data["preset"]
        if name not in presets:
            raise ValidationError(
                _("There is no preset %(name)r; there are %(names)s.")
                % {"name": name[:40], "names": ", ".join(presets)}
            )
        return presets[name]


def describe_reward_model(checkpoint: Checkpoint) -> str:
    """A reward model as an option reads: its number, and how often it agrees with raters, of how many comparisons."""
    agreement = agreement_of(checkpoint)
    if agreement is None:
        return _("reward model %(version)s") % {"version": checkpoint.version}
    values = {"version": checkpoint.version, "share": say_value(agreement.share, "share"), "count": agreement.count}
    return (
        ngettext(
            "reward model %(version)s, agrees on %(share)s of %(count)s comparison",
            "reward model %(version)s, agrees on %(share)s of %(count)s comparisons",
            agreement.count,
        )
        % values
    )
