"""``run.json``, what a run is asked to do, and the files beside it that others read; standard library only."""

import json
import os
from pathlib import Path
from typing import Any

from rlhf_core.durable import canonical_json, file_digest, sha256
from rlhf_core.errors import ConfigError


def read_request(path: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        ConfigError: it is missing, no JSON object, lacks "kind" or "store", or an entry is of the wrong type.
    """
    try:
        request = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError("run-dir", str(path.parent), "a folder with a run.json") from None
    except ValueError as error:
        raise ConfigError("run.json", str(path), f"JSON ({error})") from error
    if not isinstance(request, dict) or not isinstance(request.get("kind"), str) or not request.get("store"):
        raise ConfigError("run.json", str(path), 'an object with "kind" and "store"')
    check_type("store", request["store"], str)
    for name in ("config", "model", "inputs", "meta"):
        check_type(name, request.get(name), dict, type(None))
    for name in ("feedback", "prompts"):
        check_type(name, request.get(name), str, type(None))
    inputs = request.get("inputs") or {}
    for name in ("policy", "reward_model", "reward", "judge", "tokenizer"):
        check_type(name, inputs.get(name), str, type(None))
    for name in ("text", "demonstrations"):
        check_type(name, inputs.get(name), list, type(None))
        for file in inputs.get(name) or []:
            check_type(name, file, str)
    return request


JSON_WORDS = {str: "text", dict: "an object", list: "a list", type(None): "null"}


def check_type(name: str, value: Any, *permitted: type) -> None:
    """Raise ConfigError where an entry of ``run.json`` is of another type than ``permitted``."""
    if not isinstance(value, permitted):
        raise ConfigError(name, value, " or ".join(JSON_WORDS[kind] for kind in permitted))


def store_folder(path: Path | str) -> Path:
    """``path``, where a folder is or can be made.

    Raises:
        ConfigError: it, or a folder above it, is a file.
    """
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise ConfigError("store", str(path), f"a folder, and {place} is a file")
    return Path(path)


def plain_name(label: str, name: str | None) -> str | None:
    """``name``, which must be a file of the run directory itself.

    Raises:
        ConfigError: it leads elsewhere.
    """
    if name is not None and (name != os.path.basename(name) or name in ("", ".", "..")):
        raise ConfigError(label, name, "the name of a file in the run directory")
    return name


def absolute(path: Path | str | None) -> str | None:
    """An absolute path as text, or None."""
    return None if path is None else os.path.abspath(path)


def request_digest(folder: Path) -> str:
    """SHA-256 of everything that decides what a run learns; goes into the state and the checkpoint.

    Feedback, prompts and checkpoints count by their content, wherever they are. How many threads and processes work,
    whether weights are spread over them and how often the state is saved may change between two starts.
    """
    request = read_request(folder / "run.json")
    for name in ("meta", "store"):
        request.pop(name, None)
    config = dict(request.get("config") or {})
    for name in ("threads", "processes", "fsdp", "save_interval", "step_save_seconds"):
        config.pop(name, None)
    inputs = dict(request.get("inputs") or {})
    for name in ("policy", "reward_model", *(["judge"] if inputs.get("judge") else [])):
        inputs[name] = file_digest(Path(inputs[name]) / "manifest.json") if inputs.get(name) else None
    if "demonstrations" in inputs:
        inputs["demonstrations"] = [file_digest(Path(file)) for file in inputs["demonstrations"]]
    records = {name: file_digest(folder / request[name]) for name in ("feedback", "prompts") if request.get(name)}
    return sha256(canonical_json({**request, "config": config, "inputs": inputs, **records}))
