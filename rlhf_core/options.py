"""Settings as command-line options and from files; standard library only (yaml loads when a YAML file is read)."""

import argparse
import difflib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from rlhf_core.errors import ConfigError
from rlhf_core.settings import Settings, SettingsType, settings_from_dict

TRUE, FALSE, NOTHING = ("true", "yes", "on", "1"), ("false", "no", "off", "0"), ("none", "null", "")
GROUPS: dict[str, tuple[str, ...]] = {
    "shape of the model": (
        "num_tokens", "dim", "depth", "heads", "dim_head", "ff_mult", "causal", "qk_rmsnorm", "rotary_xpos_scale_base",
    ),
    "size of the run": (
        "steps", "epochs", "updates", "prompts", "batch_size", "sequence_length", "rollout_batch_size",
        "minibatch_size", "micro_batch_size", "ppo_epochs",
    ),
    "prompts and responses": (
        "max_prompt_tokens", "max_response_tokens", "max_new_tokens", "temperature", "top_k", "top_p", "min_p",
    ),
    "learning rate and optimiser": (
        "learning_rate", "critic_learning_rate", "schedule", "warmup_steps", "decay_fraction",
        "final_learning_rate_fraction", "weight_decay", "beta2", "adam_epsilon", "max_grad_norm", "lora_rank",
        "last_layers", "critic_lora_rank", "critic_last_layers", "critic_trunk", "value_loss_coefficient",
    ),
    "KL penalty": ("kl_coefficient", "kl_target", "kl_horizon", "kl_hard_cap"),
    "PPO, RLOO and GRPO": (
        "algorithm", "group_size", "group_scaling", "clip_ratio", "kl_early_stop", "value_clip", "entropy_coefficient",
        "gamma", "gae_lambda", "critic_warmup_updates", "missing_end_penalty", "exclude_truncated", "whiten_rewards",
    ),
    "reward model": (
        "head", "bins", "pooling", "minimum_ratings", "ensemble", "ensemble_members", "ensemble_bootstrap",
        "ensemble_scoring", "ensemble_penalty", "part",
    ),
    "validation and samples": ("holdout_fraction", "validation_interval", "samples", "sample_tokens"),
    "saving and machine": (
        "save_interval", "step_save_seconds", "seed", "threads", "processes", "activation_checkpointing", "fsdp",
    ),
}  # fmt: skip
"""The groups in which settings of all kinds are shown, in this order."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Options on the left, words on the right; descriptions and examples stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=33, width=min(shutil.get_terminal_size().columns - 1, 110))


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, and with the option that was perhaps meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **settings})
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee {self.prog} --help\n")

    def parse_strictly(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """The options; what none of them is ends the program, with the nearest one named."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            command = self.commands[options.command]
            name = unknown[0].partition("=")[0]
            hint = did_you_mean(name, command._option_string_actions)
            command.error(f"{name} is no option of {options.command}{hint}")
        return options


def add_settings_options(parser: Parser, settings_type: type[Settings], skip: tuple[str, ...] = ()) -> None:
    """Add an option for each field of ``settings_type``, in groups; what is left out is not in the namespace."""
    hints = get_type_hints(settings_type)
    for title, items in grouped(settings_type, skip).items():
        group = parser.add_argument_group(title)
        for item in items:
            wanted = inner_type(hints[item.name])
            more: dict[str, Any] = {"nargs": "?", "const": "yes"} if wanted is bool else {}
            group.add_argument(
                option_name(item.name),
                dest=item.name,
                default=argparse.SUPPRESS,
                metavar=type_word(hints[item.name]),
                help=option_help(item, wanted),
                **more,
            )


def grouped(settings_type: type[Settings], skip: tuple[str, ...] = ()) -> dict[str, list[Field[Any]]]:
    """The fields of a settings class by the title of their group, in the order of GROUPS."""
    known = {item.name: item for item in settings_fields(settings_type) if item.name not in skip}
    found = {title: [known[name] for name in names if name in known] for title, names in GROUPS.items()}
    return {title: items for title, items in found.items() if items}


def settings_fields(settings_type: type[Settings]) -> tuple[Field[Any], ...]:
    """The fields of a settings class."""
    return fields(settings_type)  # type: ignore[arg-type]


def option_name(field_name: str) -> str:
    """``learning_rate`` -> ``--learning-rate``."""
    return "--" + field_name.replace("_", "-")


def option_help(item: Field[Any], wanted: Any) -> str:
    """Help text, unit, default and range of a field, from its metadata."""
    unit = f", in {item.metadata['unit']}" if item.metadata["unit"] else ""
    notes = [f"default {default_in_words(item.default)}"] if item.default is not MISSING else []
    notes += [range_in_words(item.metadata)] if wanted in (int, float) else []
    return f"{item.metadata['help']}{unit} [{'; '.join(notes)}]".replace("%", "%%")


def default_in_words(default: Any) -> str:
    """A default as it would be typed."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def range_in_words(metadata: Mapping[str, Any]) -> str:
    """The range of a number, short: ``1 to 10,000``, ``above 0, to 1``."""
    low, above, high = (short(metadata[name]) for name in ("minimum", "above", "maximum"))
    return f"above {above}, to {high}" if metadata["above"] is not None else f"{low} to {high}"


def short(number: float | None) -> str:
    """``1,000,000``, ``0.5``."""
    return "" if number is None else f"{int(number):,}" if number == int(number) else f"{number:g}"


def inner_type(hint: Any) -> Any:
    """``float`` for ``float | None``; any other hint as it is."""
    choices = get_args(hint)
    if type(None) in choices:
        return next(choice for choice in choices if choice is not type(None))
    return hint


def type_word(hint: Any) -> str:
    """A word for what an option takes."""
    wanted = inner_type(hint)
    words = {bool: "YES/NO", int: "INTEGER", float: "NUMBER", str: "TEXT"}
    word = words.get(wanted, "{" + ",".join(map(str, get_args(wanted))) + "}")
    return word if wanted is hint else f"{word}/none"


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
    if wanted is int:
        return whole_number(name, text, word)
    if wanted is float:
        try:
            return float(word)
        except ValueError:
            raise ConfigError(name, text, "a number") from None
    return text


def whole_number(name: str, text: str, word: str) -> int:
    """``10000``, ``10_000`` or ``1e4``."""
    try:
        return int(word)
    except ValueError:
        try:
            number = float(word)
        except ValueError:
            number = 0.5
        if not number.is_integer():
            raise ConfigError(name, text, "a whole number") from None
        return int(number)


def read_settings_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; names may be written with ``-`` or ``_``.

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
    return {name.replace("-", "_"): value for name, value in values.items()}


def check_names(names: Iterable[str], values: Mapping[str, Any]) -> None:
    """Refuse a name of ``values`` that is none of ``names``.

    Raises:
        ConfigError: names it, and the one that was perhaps meant.
    """
    known = sorted(names)
    for name, value in values.items():
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(name, value, f"no such setting{hint}; there are {', '.join(known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, where something is near enough."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


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


def settings_as_yaml(settings: Settings, skip: tuple[str, ...] = (), indent: str = "") -> str:
    """Settings as a commented YAML file that ``read_settings_file`` and ``build_settings`` take back."""
    hints = get_type_hints(type(settings))
    lines = []
    for title, items in grouped(type(settings), skip).items():
        lines += ["", f"{indent}# {title}"]
        for item in items:
            entry = f"{indent}{item.name}: {json.dumps(getattr(settings, item.name))}"
            lines.append(f"{entry:<36}  # {option_help(item, inner_type(hints[item.name])).replace('%%', '%')}")
    return "\n".join(lines) + "\n"
