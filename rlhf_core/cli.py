"""The command line: ``python -m rlhf_core {pretrain,sft,reward,policy,evaluate,sample}``; torch loads when it works."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf_core.answers import sample
from rlhf_core.commands import make_parser
from rlhf_core.distributed import ALONE, ANSWER_SECONDS, Group, names_of_rank, open_group
from rlhf_core.errors import ConfigError, OutOfMemory, ProcessLost, SteersmanError, TrainingDiverged
from rlhf_core.launch import launch
from rlhf_core.memory import memory_cure, ran_out_of_memory
from rlhf_core.progress import Listener, Mode, showing
from rlhf_core.requests import build_request, config_as_yaml, given_options, number_between, prepare_run
from rlhf_core.threads import use_threads
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
    write_error,
)

__all__ = ["build_request", "given_options", "main", "make_parser", "prepare_run", "train"]

EXIT_BUSY = 1
EXIT_LOST = 1
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
        if getattr(options, "control_fd", None) is not None and (options.run_dir / "run.json").is_file():
            write_error(options.run_dir, error)  # for the supervisor
    else:
        mode: Mode = options.progress or ("auto" if options.control_fd is None else "none")
        if group is ALONE and names_of_rank() is None and (count := processes_of(path)) > 1:
            return launch(command_again(options, path, mode), count, options.control_fd)
        tracked = (options.track or (), options.track_project)
        code = train(path, options.command, options.control_fd, mode, *tracked, group=group)
    group.leave(code)
    return code


def processes_of(path: Path) -> int:
    """How many processes a run is to be trained by; 1 where its request cannot be read, which training it tells."""
    try:
        run = RunDirectory(path)
    except SteersmanError:
        return 1
    return 1 if run.result is not None else int(getattr(run.config, "processes", 1))


def command_again(options: argparse.Namespace, path: Path, mode: Mode) -> list[str]:
    """This command once more, for each of several processes, now that the run directory is there."""
    command = [sys.executable, "-m", "rlhf_core", options.command, "--run-dir", str(path), "--progress", mode]
    if options.answer_seconds is not None:
        command += ["--answer-seconds", str(options.answer_seconds)]
    if options.track:
        command += ["--track", *options.track, "--track-project", options.track_project]
    return command


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
