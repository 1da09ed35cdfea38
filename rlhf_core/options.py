"""Settings as command-line options and from files; standard library only (yaml loads when a YAML file is read)."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rlhf_core.config import Settings, SettingsType, permitted_range, settings_from_dict
from rlhf_core.errors import ConfigError

TRUE, FALSE, NOTHING = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null", "")


def add_settings_options(
    parser: argparse.ArgumentParser, settings_type: type[Settings], title: str, skip: tuple[str, ...] = ()
) -> None:
    """Add one option for each field of ``settings_type``; what the user leaves out is not in the namespace."""
    group = parser.add_argument_group(title)
    hints = get_type_hints(settings_type)
    for item in settings_fields(settings_type):
        if item.name not in skip:
            group.add_argument(
                option_name(item.name),
                dest=item.name,
                default=argparse.SUPPRESS,
                metavar=type_word(hints[item.name]).upper(),
                help=option_help(item, hints[item.name]),
            )


def settings_fields(settings_type: type[Settings]) -> tuple[Field[Any], ...]:
    """The fields of a settings class."""
    return fields(settings_type)  # type: ignore[arg-type]


def option_name(field_name: str) -> str:
    """``learning_rate`` -> ``--learning-rate``."""
    return "--" + field_name.replace("_", "-")


def option_help(item: Field[Any], hint: Any) -> str:
    """Help text, range, unit and default of a field, from its metadata."""
    notes = []
    if inner_type(hint) in (int, float):
        notes.append(permitted_range(item.metadata))
    if item.metadata["unit"]:
        notes.append(item.metadata["unit"])
    if item.default is not MISSING:
        notes.append(f"default {item.default}")
    return f"{item.metadata['help']} ({'; '.join(notes)})".replace("%", "%%")


def inner_type(hint: Any) -> Any:
    """``float`` for ``float | None``; any other hint as it is."""
    choices = get_args(hint)
    if type(None) in choices:
        return next(choice for choice in choices if choice is not type(None))
    return hint


def type_word(hint: Any) -> str:
    """A word for what an option takes."""
    words = {bool: "yes/no", int: "integer", float: "number", str: "text"}
    return words.get(inner_type(hint), "choice")


def parse_value(name: str, text: str, hint: Any) -> Any:
    """The value that ``text`` writes, for a field of type ``hint``; its range is checked by the settings.

    Raises:
        ConfigError: it writes no value of that type.
    """
    word = text.strip().lower()
    if type(None) in get_args(hint) and word in NOTHING:
        return None
    wanted = inner_type(hint)
    if wanted is bool:
        if word not in TRUE + FALSE:
            raise ConfigError(name, text, "yes or no")
        return word in TRUE
    if wanted in (int, float):
        try:
            return wanted(word)
        except ValueError:
            raise ConfigError(name, text, "a whole number" if wanted is int else "a number") from None
    return text


def read_settings_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises:
        ConfigError: it can't be read, or holds no mapping of names to values.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            import yaml  # the library itself does without it

            try:
                values = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError("config", str(path), f"a readable YAML file ({error})") from error
        else:
            values = json.loads(text)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("config", str(path), f"a readable YAML or JSON file ({error})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError("config", str(path), "a mapping of setting names to values")
    return values


def build_settings(settings_type: type[SettingsType], *sources: Mapping[str, Any]) -> SettingsType:
    """Settings from several sources, later ones winning; text is read as the field's type (YAML takes 3e-4 for text).

    Raises:
        ConfigError: a name is unknown or a value not permitted; names field, value and permitted range.
    """
    hints = get_type_hints(settings_type)
    values: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            is_text = isinstance(value, str) and name in hints
            values[name] = parse_value(name, value, hints[name]) if is_text else value
    return settings_from_dict(settings_type, values)
