"""The command line: ``python -m rlhf_core {pretrain,reward,policy,evaluate,sample}``; torch loads when it works."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.config import (
    PRESETS,
    RUN_CONFIGS,
    ModelConfig,
    SamplingConfig,
    settings_to_dict,
)
from rlhf_core.errors import ConfigError, SteersmanError, TrainingDiverged
from rlhf_core.options import add_settings_options, build_settings, read_settings_file, settings_fields
from rlhf_core.records import Prompt, read_prompts
from rlhf_core.training.run_directory import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_REFUSED,
    EXIT_STOPPED,
    RunDirectory,
    RunDirectoryBusy,
    RunStopped,
    store_folder,
    write_error,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EXIT_BUSY = 1
ROWS_AT_ONCE = 64
TRAINERS = {
    "pretrain": ("rlhf_core.training.pretrain", "train_pretrain"),
    "reward": ("rlhf_core.training.reward", "train_reward"),
    "policy": ("rlhf_core.training.ppo", "train_policy"),
    "evaluate": ("rlhf_core.training.evaluate", "evaluate_policy"),
}
SUMMARIES = {
    "pretrain": "train a policy from nothing on plain text",
    "reward": "train a reward model on ratings and comparisons",
    "policy": "improve a policy by PPO against a reward model",
    "evaluate": "compare a policy with those before it on held-out prompts",
}
Listener = Callable[[dict[str, Any]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/run-protocol.md)."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "sample":
            return sample(options)
        path = prepare_run(options)
    except (SteersmanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return train(path, options.command, options.control_fd)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each setting is an option, described by its own metadata."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_core", description="Train and sample language models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for kind, summary in SUMMARIES.items():
        command = commands.add_parser(kind, help=summary, description=summary.capitalize() + ".", allow_abbrev=False)
        add_run_options(command, kind)
        add_settings_options(command, RUN_CONFIGS[kind], "settings")
        if kind == "pretrain":
            add_settings_options(command, ModelConfig, "shape of the model", skip=("num_tokens", "causal"))
    add_sample_options(
        commands.add_parser("sample", help="draw responses", description="Draw responses.", allow_abbrev=False)
    )
    return parser


def add_run_options(command: argparse.ArgumentParser, kind: str) -> None:
    group = command.add_argument_group("the run")
    group.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="folder of the run; one that holds a run is resumed and takes no other options (default runs/KIND-TIME)",
    )
    group.add_argument("--control-fd", type=int, metavar="N", help="stop when the other end of this pipe closes")
    group.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML or JSON; options win over it")
    group.add_argument("--store", type=Path, metavar="DIR", help="folder for the checkpoint (default checkpoints)")
    if kind in PRESETS:
        group.add_argument("--preset", choices=sorted(PRESETS[kind]), help="settings to begin from")
    if kind == "pretrain":
        group.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="plain text to learn from, UTF-8")
        group.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json; default: trained anew")
        group.add_argument("--vocab-size", metavar="INTEGER", help="tokens of a new tokenizer (default 4096)")
        return
    group.add_argument("--policy", type=Path, metavar="CKPT", help="folder of the policy's checkpoint")
    if kind == "reward":
        group.add_argument("--feedback", type=Path, metavar="FILE", help="ratings and comparisons, JSON lines")
        return
    group.add_argument("--reward-model", type=Path, metavar="CKPT", help="folder of the reward model's checkpoint")
    if kind == "policy":
        group.add_argument("--prompts", type=Path, metavar="FILE", help="prompts to practise on, JSON lines")
        return
    group.add_argument("--parent", type=Path, metavar="CKPT", help="the policy that this one was improved from")
    group.add_argument("--base", type=Path, metavar="CKPT", help="the first policy of its lineage; default the parent")
    group.add_argument("--held-out", type=Path, metavar="FILE", help="prompts that nothing was trained on, JSON lines")


def add_sample_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--policy", type=Path, required=True, metavar="CKPT", help="folder of the policy's checkpoint")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="one prompt")
    source.add_argument("--prompts", type=Path, metavar="FILE", help="prompts, JSON lines")
    command.add_argument("--samples", metavar="INTEGER", default="1", help="responses to each prompt (default 1)")
    command.add_argument(
        "--seed", metavar="INTEGER", default="0", help="seed of the first response, one more for each next (default 0)"
    )
    command.add_argument("--json", action="store_true", help="one JSON line a response")
    command.add_argument("--threads", metavar="INTEGER", default="0", help="CPU threads; 0 takes the machine's cores")
    add_settings_options(command, SamplingConfig, "settings")


# Training


def prepare_run(options: argparse.Namespace) -> Path:
    """The run directory to train in: an existing one, or one made from the options.

    Raises:
        ConfigError: a setting is not permitted, an input is missing, or an existing run was given settings again.
    """
    kind: str = options.command
    path: Path = options.run_dir or Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("command", "run_dir", "control_fd"):
        given.pop(name, None)
    if (path / "run.json").exists():
        if given:
            name, value = next(iter(given.items()))
            raise ConfigError(name, str(value), f"not given, since {path} already holds a run with its own settings")
        return path
    if options.run_dir is not None and not given:
        raise ConfigError("run-dir", str(path), "a folder with a run.json, or options to make one from")
    from_file = read_settings_file(given.pop("config")) if "config" in given else {}
    preset = settings_to_dict(PRESETS[kind][given.pop("preset")]) if "preset" in given else {}
    inputs: dict[str, Any] = {name: given.pop(name) for name in SOURCES[kind] if name in given}
    model = None
    if kind == "pretrain":
        names = {item.name for item in settings_fields(ModelConfig)}
        shape = {name: given.pop(name) for name in list(given) if name in names}
        if "vocab_size" in given:
            shape["num_tokens"] = given.pop("vocab_size")
        model = build_settings(ModelConfig, from_file.pop("model", {}), shape)
    config = build_settings(RUN_CONFIGS[kind], preset, from_file, given)
    require_inputs(kind, inputs)
    if kind == "evaluate":
        inputs["prompts"] = inputs.pop("held_out")
        parent = inputs.pop("parent")
        inputs["references"] = {"parent": parent, "base": inputs.pop("base", parent)}
    RunDirectory.create(path, kind=kind, config=config, model=model, **{"store": Path("checkpoints"), **inputs})
    print(f"run directory: {path}", file=sys.stderr)
    return path


REQUIRED = {
    "pretrain": ("text",),
    "reward": ("policy", "feedback"),
    "policy": ("policy", "reward_model", "prompts"),
    "evaluate": ("policy", "parent", "held_out"),
}
OPTIONAL = {
    "pretrain": ("store", "tokenizer"),
    "reward": ("store",),
    "policy": ("store",),
    "evaluate": ("store", "base", "reward_model"),
}
SOURCES = {kind: (*REQUIRED[kind], *OPTIONAL[kind]) for kind in REQUIRED}
CHECKPOINTS = ("policy", "reward_model", "parent", "base")


def require_inputs(kind: str, inputs: dict[str, Any]) -> None:
    """Refuse a run that lacks an input, or names a file or checkpoint that isn't there."""
    for name in REQUIRED[kind]:
        if name not in inputs:
            raise ConfigError(name, None, f"given: {'an' if kind == 'evaluate' else 'a'} {kind} run needs it")
    for name, value in inputs.items():
        if name == "store":
            store_folder(value)
            continue
        for path in value if isinstance(value, list) else [value]:
            wanted = path / "manifest.json" if name in CHECKPOINTS else path
            if not wanted.is_file():
                what = "the folder of a checkpoint" if wanted is not path else "an existing file"
                raise ConfigError(name, str(path), what)


def train(path: Path, kind: str, control_fd: int | None = None) -> int:
    """Train in a run directory until it is done, refused, diverged or stopped; returns the exit code."""
    try:
        run = RunDirectory(path)
        if run.kind != kind:
            raise ConfigError("kind", run.kind, f"{kind!r}, the command that was called")
    except SteersmanError as error:
        return refuse(path, error, EXIT_REFUSED)
    try:
        run.acquire()
    except RunDirectoryBusy as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BUSY
    if run.result is not None:
        print(json.dumps(run.result))
        return EXIT_DONE
    run.forget_error()
    run.listen(control_fd)
    module, name = TRAINERS[kind]
    with watching() as run.listener:
        try:
            use_threads(getattr(run.config, "threads", 0))
            getattr(import_module(module), name)(run)
        except RunStopped as stopped:
            run.log(str(stopped))
            return EXIT_STOPPED
        except TrainingDiverged as error:
            return refuse(path, error, EXIT_DIVERGED)
        except SteersmanError as error:
            return refuse(path, error, EXIT_REFUSED)
    print(json.dumps(run.result))
    return EXIT_DONE


def refuse(path: Path, error: SteersmanError, code: int) -> int:
    """Say why the run ended, to people and to the supervisor."""
    print(f"error: {error}", file=sys.stderr)
    if path.is_dir():
        write_error(path, error)
    return code


def use_threads(count: int) -> None:
    """Give torch ``count`` threads, or, given 0, as many as this process may use cores."""
    import torch

    torch.set_num_threads(count or len(os.sched_getaffinity(0)))


@contextmanager
def watching() -> Iterator[Listener | None]:
    """A progress bar with speed and remaining time on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield partial(show_event, bar, bar.add_task("starting", total=None, figures=""))


def show_event(bar: "Progress", task: "TaskID", event: dict[str, Any]) -> None:
    """Move the bar by one event of the run."""
    if event["kind"] == "progress":
        bar.update(task, description=event["phase"], completed=event["step"], total=event["total_steps"])
    elif event["kind"] == "metrics":
        bar.update(task, figures=figures(event["metrics"]))
    elif event["kind"] == "log":
        bar.console.print(event["message"], markup=False, highlight=False)


SHOWN = ("loss", "accuracy", "reward", "kl", "bits_per_character")


def figures(metrics: dict[str, float | None]) -> str:
    """The few numbers to show beside the bar."""
    parts = [f"{name} {metrics[name]:.3f}" for name in SHOWN if metrics.get(name) is not None]
    speed = metrics.get("tokens_per_second")
    return "  ".join(parts + ([f"{speed:,.0f} tokens/s"] if speed is not None else []))


# Sampling


def sample(options: argparse.Namespace) -> int:
    """Draw responses and print them."""
    names = {item.name for item in settings_fields(SamplingConfig)}
    sampling = build_settings(SamplingConfig, {k: v for k, v in vars(options).items() if k in names})
    samples = whole_number("samples", options.samples, 1, 100_000)
    seed = whole_number("seed", options.seed, 0, 2**63)
    threads = whole_number("threads", options.threads, 0, 1024)
    prompts = [Prompt("prompt", options.prompt)] if options.prompts is None else read_prompt_file(options.prompts)

    from rlhf_core.checkpoint import load_policy  # torch loads here
    from rlhf_core.generation.sampler import generate_batch
    from rlhf_core.text.template import encode_prompt

    palm, tokenizer, _ = load_policy(options.policy)
    use_threads(threads)
    encoded = [encode_prompt(tokenizer, prompt.text, sampling.max_prompt_tokens) for prompt in prompts]
    together = max(1, ROWS_AT_ONCE // samples)  # prompts in a batch
    for first in range(0, len(prompts), together):
        batch = encoded[first : first + together]
        for begin in range(0, samples, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, samples - begin)
            places = [(first + row, begin + nth) for row in range(len(batch)) for nth in range(count)]
            seeds = [seed + row * samples + nth for row, nth in places]
            drawn = generate_batch(
                palm, batch, sampling=sampling, end_id=tokenizer.end, seeds=seeds, samples_per_prompt=count
            )
            for (row, _), number, generation in zip(places, seeds, drawn, strict=True):
                text = tokenizer.decode(generation.tokens)
                if not options.json:
                    print(f"[{number}] {prompts[row].text.rstrip()}{text}\n")
                    continue
                line = {
                    "prompt_id": prompts[row].prompt_id,
                    "prompt": prompts[row].text,
                    "seed": number,
                    "text": text,
                    "tokens": generation.tokens,
                    "log_prob": sum(generation.log_probs),
                    "finish_reason": generation.finish_reason,
                }
                print(json.dumps(line))
    return EXIT_DONE


def whole_number(name: str, text: str, minimum: int, maximum: int) -> int:
    """An option that is no setting, checked as one."""
    permitted = f"a whole number from {minimum} to {maximum}"
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(name, text, permitted) from None
    if not minimum <= value <= maximum:
        raise ConfigError(name, value, permitted)
    return value


def read_prompt_file(path: Path) -> list[Prompt]:
    """The prompts of a file that must be there."""
    if not path.is_file():
        raise ConfigError("prompts", str(path), "an existing file")
    return read_prompts(path)
