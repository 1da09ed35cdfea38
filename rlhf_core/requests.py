"""From options and files to a run directory: what a run was asked to do, checked before anything is made of it."""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_core.commands import (
    NOT_SHAPE,
    SMALLEST_VOCABULARY,
    STORE_HELP,
    SUMMARIES,
    VOCABULARY_HELP,
    sources_of,
)
from rlhf_core.config import PRESETS, RUN_CONFIGS, ModelConfig, Settings, settings_to_dict
from rlhf_core.errors import ConfigError
from rlhf_core.functions import EXAMPLE_REWARD, load_function
from rlhf_core.options import (
    build_settings,
    check_names,
    option_name,
    parse_value,
    read_settings_file,
    settings_as_yaml,
    settings_fields,
)
from rlhf_core.training.run_directory import RunDirectory, store_folder

OF_THIS_START = (  # not kept in run.json
    *("command", "run_dir", "control_fd", "progress", "track", "track_project"),
    "answer_seconds",
)


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of all that decides a run, and nothing of how this start of it is shown."""
    return {name: value for name, value in vars(options).items() if value is not None and name not in OF_THIS_START}


def prepare_run(options: argparse.Namespace) -> Path:
    """The run directory to train in: an existing one, or one made from the options.

    Raises:
        ConfigError: a setting is not permitted, an input is missing, or an existing run was given settings again.
    """
    kind: str = options.command
    path: Path = options.run_dir or Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")
    given = given_options(options)
    if (path / "run.json").exists():
        if given:
            name, value = next(iter(given.items()))
            raise ConfigError(name, str(value), f"not given, since {path} already holds a run with its own settings")
        return path
    if options.run_dir is not None and not given:
        raise ConfigError("run-dir", str(path), "a folder with a run.json, or options to make one from")
    wanted = build_request(kind, given)
    check_inputs(kind, wanted.inputs)
    model = fit_vocabulary(wanted) if wanted.model is not None else None
    inputs: dict[str, Any] = {"store": Path("checkpoints"), **wanted.inputs}
    if kind == "evaluate":
        inputs["prompts"] = inputs.pop("held_out")
        parent = inputs.pop("parent")
        inputs["references"] = {"parent": parent, "base": inputs.pop("base", parent)}
    RunDirectory.create(path, kind=kind, config=wanted.config, model=model, **inputs)
    print(f"run directory: {path}", file=sys.stderr)
    return path


@dataclass(frozen=True)
class Request:
    """What a run was asked to do, before anything is made of it.

    Attributes:
        model: shape of the model to make; None but for pretrain.
        inputs: paths by the name of their source, and "store".
        names_vocabulary: whether the size of the vocabulary was said.
    """

    config: Settings
    model: ModelConfig | None
    inputs: dict[str, Any]
    names_vocabulary: bool


def build_request(kind: str, given: dict[str, Any]) -> Request:
    """Settings and inputs from preset, file and options, later ones winning.

    Raises:
        ConfigError: a name is unknown, a value is not permitted, or two settings contradict each other.
    """
    given = dict(given)
    from_file = read_settings_file(given.pop("config")) if "config" in given else {}
    names = {item.name for item in settings_fields(RUN_CONFIGS[kind])}
    shape = {item.name for item in settings_fields(ModelConfig)} - set(NOT_SHAPE) if kind == "pretrain" else set()
    places = {*sources_of(kind), "store"}
    others = {"model", "vocab_size"} if kind == "pretrain" else {"preset"} if kind in PRESETS else set()
    check_names(names | shape | places | others, from_file)
    merged = {**from_file, **given}
    inputs = {name: as_paths(kind, name, merged.pop(name)) for name in places if name in merged}
    preset = settings_to_dict(preset_of(kind, merged.pop("preset"))) if "preset" in merged else {}
    model, names_vocabulary = None, False
    if kind == "pretrain":
        nested = merged.pop("model", {})
        if not isinstance(nested, dict):
            raise ConfigError("model", nested, "a mapping of the settings of its shape")
        chosen = {**nested, **{name: merged.pop(name) for name in shape if name in merged}}
        if "vocab_size" in merged:
            chosen["num_tokens"] = vocabulary_size(merged.pop("vocab_size"))
        model, names_vocabulary = build_settings(ModelConfig, chosen), "num_tokens" in chosen
        if not model.causal:
            raise ConfigError("causal", False, "yes: a model that sees what comes after cannot learn to write it")
    config = build_settings(RUN_CONFIGS[kind], preset, merged)
    if getattr(config, "schedule", None) == "cosine" and "decay_fraction" in given:  # in a file it does no harm
        permitted = "left out with the schedule cosine, which falls all the way; it belongs to wsd"
        raise ConfigError("decay_fraction", given["decay_fraction"], permitted)
    return Request(config, model, inputs, names_vocabulary)


def as_paths(kind: str, name: str, value: Any) -> Any:
    """A place from an option or a file as a path, or a list of paths where several may be named.

    Raises:
        ConfigError: it is no text.
    """
    is_list = name != "store" and sources_of(kind)[name].is_list
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | Path) for item in items) or (isinstance(value, list) and not is_list):
        raise ConfigError(name, value, "a path, or a list of paths" if is_list else "a path")
    if name != "store" and sources_of(kind)[name].is_function:
        return str(value)
    paths = [Path(item) for item in items]
    return paths if is_list else paths[0]


def preset_of(kind: str, name: Any) -> Settings:
    """The preset of this name."""
    if name not in PRESETS[kind]:
        raise ConfigError("preset", name, "one of " + ", ".join(sorted(PRESETS[kind])))
    return PRESETS[kind][name]


def vocabulary_size(value: Any) -> int:
    """``--vocab-size`` as a number; a tokenizer needs 256 bytes and three special tokens."""
    found = value if type(value) is int else parse_value("vocab_size", str(value), int)
    if found < SMALLEST_VOCABULARY:
        permitted = f"at least {SMALLEST_VOCABULARY}: the 256 bytes and the special tokens"
        raise ConfigError("vocab_size", found, permitted)
    return int(found)


def fit_vocabulary(wanted: Request) -> ModelConfig:
    """The shape of the model to pre-train, as large as the given tokenizer where no size was said.

    Raises:
        ConfigError: the tokenizer is none of ours, or larger than the size that was said.
    """
    assert wanted.model is not None
    if "tokenizer" not in wanted.inputs:
        return wanted.model
    from rlhf_core.text.tokenizer import Tokenizer

    size = Tokenizer.load(wanted.inputs["tokenizer"]).vocab_size
    if not wanted.names_vocabulary:
        return replace(wanted.model, num_tokens=size)
    if size > wanted.model.num_tokens:
        raise ConfigError("vocab_size", wanted.model.num_tokens, f"at least the tokenizer's {size}")
    return wanted.model


def check_inputs(kind: str, inputs: dict[str, Any]) -> None:
    """Refuse a run that lacks an input, or names a file or checkpoint that isn't there, or one of another kind.

    Raises:
        ConfigError: names the input.
        FunctionError: the reward is no function that can be loaded.
    """
    sources = sources_of(kind)
    for name, source in sources.items():
        if source.kinds[kind] and name not in inputs:
            article = "an" if kind[0] in "aeiou" or kind == "sft" else "a"
            raise ConfigError(name, None, f"given ({option_name(name)}): {article} {kind} run needs it")
    if kind == "policy" and not {"reward_model", "reward"} & inputs.keys():
        raise ConfigError("reward_model", None, "given (--reward-model), or else --reward: a policy run needs it")
    for name, value in inputs.items():
        if name == "store":
            store_folder(value)
            continue
        if sources[name].is_function:
            load_function(value, name, EXAMPLE_REWARD)
            continue
        for path in value if isinstance(value, list) else [value]:
            if sources[name].checkpoint is not None:
                check_checkpoint(name, path, str(sources[name].checkpoint))
            elif not path.is_file():
                raise ConfigError(name, str(path), "an existing file")


def check_checkpoint(name: str, path: Path, kind: str) -> None:
    """Refuse a folder that holds no checkpoint of this kind; whether it is whole, its loading tells."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict):
        raise ConfigError(name, str(path), "the folder of a checkpoint")
    if manifest.get("kind") != kind:
        raise ConfigError(name, str(path), f"the folder of a {kind}; this one holds a {manifest.get('kind')}")


def config_as_yaml(kind: str, given: dict[str, Any]) -> str:
    """All settings of a run as a YAML file for ``--config``; what is still missing is left to be filled in."""
    wanted = build_request(kind, given)
    lines = [f"# {SUMMARIES[kind]}", f"# python -m rlhf_core {kind} --config FILE", "", "# what it reads"]
    for name, source in sources_of(kind).items():
        lines.append(yaml_line(name, wanted.inputs.get(name), source.help))
    if wanted.model is not None:
        lines.append(
            yaml_line("vocab_size", wanted.model.num_tokens if wanted.names_vocabulary else None, VOCABULARY_HELP)
        )
    lines += ["", "# what it writes", yaml_line("store", wanted.inputs.get("store", "checkpoints"), STORE_HELP)]
    text = "\n".join(lines) + "\n"
    if wanted.model is not None:
        text += "\nmodel:" + settings_as_yaml(wanted.model, skip=NOT_SHAPE, indent="  ")
    return text + settings_as_yaml(wanted.config)


def yaml_line(name: str, value: Any, help: str) -> str:
    """A line of a settings file, commented out where there is no value yet."""
    entry = f"# {name}:" if value is None else f"{name}: {json.dumps(value, default=str)}"
    return f"{entry:<36}  # {help}"


def number_between(name: str, value: Any, minimum: int, maximum: int) -> int:
    """An option that is no setting, checked as one."""
    permitted = f"a whole number from {minimum} to {maximum}"
    try:
        found = parse_value(name, str(value), int)
    except ConfigError:
        raise ConfigError(name, value, permitted) from None
    if not minimum <= found <= maximum:
        raise ConfigError(name, found, permitted)
    return int(found)
