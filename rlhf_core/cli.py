"""The command line: ``python -m rlhf_core {pretrain,sft,reward,policy,evaluate,sample}``; torch loads when it works."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.commands import (
    NOT_SHAPE,
    SMALLEST_VOCABULARY,
    STORE_HELP,
    SUMMARIES,
    VOCABULARY_HELP,
    make_parser,
    sources_of,
)
from rlhf_core.config import PRESETS, RUN_CONFIGS, ModelConfig, SamplingConfig, Settings, settings_to_dict
from rlhf_core.distributed import ALONE, ANSWER_SECONDS, Group, open_group
from rlhf_core.errors import ConfigError, OutOfMemory, ProcessLost, SteersmanError, TrainingDiverged
from rlhf_core.functions import EXAMPLE_REWARD, load_function
from rlhf_core.memory import memory_cure, ran_out_of_memory
from rlhf_core.options import (
    build_settings,
    check_names,
    option_name,
    parse_value,
    read_settings_file,
    settings_as_yaml,
    settings_fields,
)
from rlhf_core.progress import Listener, Mode, showing
from rlhf_core.records import Prompt, read_prompts
from rlhf_core.trackers import check_trackers, tracking
from rlhf_core.training.run_directory import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_OUT_OF_MEMORY,
    EXIT_REFUSED,
    EXIT_STOPPED,
    RunDirectory,
    RunDirectoryBusy,
    RunStopped,
    store_folder,
    write_error,
)

if TYPE_CHECKING:
    from rlhf_core.generation.sampler import Generation

EXIT_BUSY = 1
EXIT_LOST = 1
ROWS_AT_ONCE = 64
OF_THIS_START = (  # not kept in run.json
    *("command", "run_dir", "control_fd", "progress", "track", "track_project"),
    "answer_seconds",
)
TRAINERS = {
    "pretrain": ("rlhf_core.training.pretrain", "train_pretrain"),
    "sft": ("rlhf_core.training.sft", "train_sft"),
    "reward": ("rlhf_core.training.reward", "train_reward"),
    "policy": ("rlhf_core.training.ppo", "train_policy"),
    "evaluate": ("rlhf_core.training.evaluate", "evaluate_policy"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/run-protocol.md)."""
    options = make_parser().parse_strictly(arguments)
    group = ALONE
    try:
        if options.command == "sample":
            return sample(options)
        given = given_options(options)
        if given.pop("print_config", False):
            print(config_as_yaml(options.command, given), end="")
            return EXIT_DONE
        check_trackers(options.track or ())
        group = open_group(number_between("answer_seconds", options.answer_seconds or ANSWER_SECONDS, 1, 86_400))
        path = Path(group.first(lambda: str(prepare_run(options))))
    except ProcessLost as error:
        code = lost(error)
    except (SteersmanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = EXIT_REFUSED
    else:
        mode: Mode = "none" if options.control_fd is not None else options.progress
        tracked = (options.track or (), options.track_project)
        code = train(path, options.command, options.control_fd, mode, *tracked, group=group)
    group.leave(code)
    return code


# From options to a run


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


# Training


def train(
    path: Path,
    kind: str,
    control_fd: int | None = None,
    progress: Mode = "none",
    trackers: Sequence[str] = (),
    project: str = "steersman",
    group: Group = ALONE,
) -> int:
    """Train in a run directory until it is done, refused, diverged or stopped; returns the exit code.

    Args:
        control_fd: stop when the other end of this pipe closes.
        progress: how to show it on stderr.
        trackers, project: what else to log to, and under which name.
        group: the processes that train it, of which each calls this function; the first one shows and writes.
    """
    try:
        run = RunDirectory(path, group)
        if run.kind != kind:
            raise ConfigError("kind", run.kind, f"{kind!r}, the command that was called")
    except SteersmanError as error:
        return refuse(path, error, EXIT_REFUSED)
    try:
        if group.first(lambda: take(run)):
            return tell_result(run)
    except RunDirectoryBusy as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BUSY
    except ProcessLost as error:
        return lost(error)
    run.listen(control_fd)
    module, name = TRAINERS[kind]
    with ExitStack() as stack:
        stack.callback(run.release)
        try:
            if group.is_first:
                show = stack.enter_context(showing(progress))
                track = stack.enter_context(tracking(trackers, run, project))
                run.listener = each_of([listener for listener in (show, track) if listener is not None])
            use_threads(getattr(run.config, "threads", 0), group.local_size)
            work(getattr(import_module(module), name), run)
        except RunStopped as stopped:
            run.log(str(stopped))
            if progress != "none" and group.is_first:
                stack.close()  # the bar, before the last words
                print(f"to go on: python -m rlhf_core {kind} --run-dir {path}", file=sys.stderr)
            return EXIT_STOPPED
        except ProcessLost as error:
            run.log(str(error))
            stack.close()
            return lost(error)
        except OutOfMemory as error:
            group.leave_word(f"ran out of memory ({error})")
            stack.close()
            return refuse(path, error, EXIT_OUT_OF_MEMORY)
        except TrainingDiverged as error:
            stack.close()
            return refuse(path, error, EXIT_DIVERGED)
        except SteersmanError as error:
            stack.close()
            return refuse(path, error, EXIT_REFUSED)
    return tell_result(run)


def work(trainer: Callable[[RunDirectory], None], run: RunDirectory) -> None:
    """Train.

    Raises:
        OutOfMemory: in place of whatever says so; its message names what helps.
    """
    try:
        trainer(run)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        message = f"memory ran out: {first}. The last saved state stands. {memory_cure(run.config)}"
        raise OutOfMemory(message) from error


def take(run: RunDirectory) -> bool:
    """Take the folder for this run; says whether it is done already.

    Raises:
        RunDirectoryBusy: another one trains in it.
    """
    run.acquire()
    if run.result is not None:
        return True
    run.forget_error()
    return False


def tell_result(run: RunDirectory) -> int:
    """Print the result of a run that is done, once."""
    if run.group.is_first:
        print(json.dumps(run.result))
    return EXIT_DONE


def lost(error: ProcessLost) -> int:
    """Say that another process is gone; the run can go on, so no ``error.json`` is left."""
    print(f"error: {error}. To go on from the last saved state, start the run again", file=sys.stderr)
    return EXIT_LOST


def each_of(listeners: Sequence[Listener]) -> Listener:
    """One function that calls each of several."""

    def call(event: dict[str, Any]) -> None:
        for listener in listeners:
            listener(event)

    return call


def refuse(path: Path, error: SteersmanError, code: int) -> int:
    """Say why the run ended, to people and to the supervisor."""
    print(f"error: {error}", file=sys.stderr)
    if path.is_dir():
        write_error(path, error)
    return code


def use_threads(count: int, processes: int = 1) -> None:
    """Give torch ``count`` threads, or, given 0, as many as this process may use cores, shared by ``processes``."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count or max(1, usable // processes))


# Sampling


def sample(options: argparse.Namespace) -> int:
    """Draw responses and print them."""
    given = {name: value for name, value in vars(options).items() if value is not None and name != "command"}
    from_file = read_settings_file(given.pop("config")) if "config" in given else {}
    names = {item.name for item in settings_fields(SamplingConfig)}
    check_names(names | SAMPLE_OPTIONS, from_file)
    wanted = {**from_file, **given}
    sampling = build_settings(SamplingConfig, {name: value for name, value in wanted.items() if name in names})
    samples = number_between("samples", wanted.get("samples", 1), 1, 100_000)
    seed = number_between("seed", wanted.get("seed", 0), 0, 2**63)
    threads = number_between("threads", wanted.get("threads", 0), 0, 1024)
    if "policy" not in wanted:
        raise ConfigError("policy", None, "given (--policy): the folder of a checkpoint")
    prompts = prompts_to_answer(wanted)

    from rlhf_core.checkpoint import load_policy  # torch loads here
    from rlhf_core.generation.sampler import generate_stream
    from rlhf_core.text.template import encode_prompt

    palm, tokenizer, _ = load_policy(wanted["policy"])
    use_threads(threads)
    encoded = [encode_prompt(tokenizer, prompt.text, sampling.max_prompt_tokens) for prompt in prompts]
    drawn = generate_stream(
        palm,
        encoded,
        sampling=sampling,
        end_id=tokenizer.end,
        seeds=[seed + number for number in range(len(prompts) * samples)],
        samples_per_prompt=samples,
        rows=ROWS_AT_ONCE,
    )
    for number, generation in in_order(drawn):
        prompt, text = prompts[number // samples], tokenizer.decode(generation.tokens)
        if not wanted.get("json"):
            print(f"[{seed + number}] {prompt.text.rstrip()}{text}\n", flush=True)
            continue
        line = {
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.text,
            "seed": seed + number,
            "text": text,
            "tokens": generation.tokens,
            "log_prob": sum(generation.log_probs),
            "finish_reason": generation.finish_reason,
        }
        print(json.dumps(line), flush=True)
    return EXIT_DONE


SAMPLE_OPTIONS = {"policy", "prompt", "prompts", "samples", "seed", "json", "threads"}


def in_order(drawn: "Iterable[tuple[int, Generation]]") -> "Iterator[tuple[int, Generation]]":
    """Responses by number, each as soon as those before it have ended too."""
    waiting: dict[int, Generation] = {}
    following = 0
    for number, generation in drawn:
        waiting[number] = generation
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1


def prompts_to_answer(wanted: dict[str, Any]) -> list[Prompt]:
    """The one prompt, or those of a file.

    Raises:
        ConfigError: neither is given, or both, or the prompt is empty, or the file is missing.
        DatasetError: a line of the file is malformed.
    """
    if ("prompt" in wanted) == ("prompts" in wanted):
        raise ConfigError("prompt", wanted.get("prompt"), "given, or else --prompts FILE, and not both")
    if "prompt" in wanted:
        if not isinstance(wanted["prompt"], str) or not wanted["prompt"].strip():
            raise ConfigError("prompt", wanted["prompt"], "text that is not empty")
        return [Prompt("prompt", wanted["prompt"])]
    path = Path(wanted["prompts"])
    if not path.is_file():
        raise ConfigError("prompts", str(path), "an existing file")
    return read_prompts(path)


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
