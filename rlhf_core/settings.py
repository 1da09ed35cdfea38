"""What a setting is: a dataclass field with its help text and range, checked when built; standard library only."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any, TypeVar, get_args, get_type_hints

from rlhf_core.errors import ConfigError


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    unit: str = "",
    advanced: bool = False,
) -> Any:
    """A dataclass field with its help text and range (``minimum`` and ``maximum`` inclusive, ``above`` exclusive)."""
    metadata = dict(help=help, minimum=minimum, maximum=maximum, above=above, unit=unit, advanced=advanced)
    return field(default=default, metadata=metadata)


class Settings:
    """Base of the settings: checks every field's type and range when the object is built."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in fields(self):  # type: ignore[arg-type]
            check_value(item.name, getattr(self, item.name), hints[item.name], item.metadata)


def check_value(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> None:
    """Raise ConfigError where ``value`` is not of type ``hint`` or outside the range in ``metadata``."""
    choices = get_args(hint)
    if choices and all(isinstance(choice, str) for choice in choices):
        if value not in choices:
            raise ConfigError(name, value, "one of " + ", ".join(choices))
        return
    if type(None) in choices:
        if value is None:
            return
        hint = next(choice for choice in choices if choice is not type(None))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ConfigError(name, value, permitted_range(metadata)) from None
    if hint in (bool, int, float, str) and type(value) is not hint:
        raise ConfigError(name, value, f"a value of type {hint.__name__}")
    if hint in (int, float):
        if hint is float and not math.isfinite(value):  # a whole number always is, and may be too large to ask
            raise ConfigError(name, value, permitted_range(metadata))
        minimum, maximum, above = metadata["minimum"], metadata["maximum"], metadata["above"]
        too_low = (minimum is not None and value < minimum) or (above is not None and value <= above)
        if too_low or (maximum is not None and value > maximum):
            raise ConfigError(name, value, permitted_range(metadata))


def permitted_range(metadata: Mapping[str, Any]) -> str:
    """The range of a number in words, for messages and help texts."""
    parts = []
    if metadata["minimum"] is not None:
        parts.append(f"at least {metadata['minimum']:g}")
    if metadata["above"] is not None:
        parts.append(f"above {metadata['above']:g}")
    if metadata["maximum"] is not None:
        parts.append(f"at most {metadata['maximum']:g}")
    return " and ".join(parts) or "a finite number"


SettingsType = TypeVar("SettingsType", bound=Settings)


def settings_from_dict(settings_type: type[SettingsType], values: Mapping[str, Any]) -> SettingsType:
    """Settings from plain values, missing ones at their defaults.

    Raises:
        ConfigError: a name is unknown, or a value has the wrong type or lies outside its range.
    """
    known = {item.name for item in fields(settings_type)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise ConfigError(name, value, f"no such setting; there are {', '.join(sorted(known))}")
    return settings_type(**values)


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Plain values that ``settings_from_dict`` takes back."""
    return asdict(settings)  # type: ignore[call-overload]


def settings_hash(settings: Settings) -> str:
    """SHA-256 of the settings' canonical JSON."""
    text = json.dumps(settings_to_dict(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
