"""What a person sees of a run: a bar on a terminal, plain lines elsewhere; rich loads for the bar alone."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

if TYPE_CHECKING:
    from rich.progress import Progress

Listener = Callable[[dict[str, Any]], None]
Mode = Literal["auto", "bar", "lines", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)
SHOWN = {  # of the metrics, the few to show, and the names to show them by
    "loss": "loss",
    "accuracy": "accuracy",
    "reward": "reward",
    "validation_loss": "validation",
    "holdout_accuracy": "holdout",
    "kl": "kl",
    "bits_per_character": "bits/char",
}
VALIDATIONS = ("validation_loss", "holdout_accuracy", "reward_difference")
SECONDS_BETWEEN_LINES = 10.0
LONGEST_SAMPLE = 400


@contextmanager
def showing(mode: Mode, stream: TextIO | None = None) -> Iterator[Listener | None]:
    """A function to call with each event of a run, which shows it on ``stream`` (stderr); None where nothing is shown.

    ``mode`` "auto" draws a bar on a terminal and writes lines elsewhere.
    """
    stream = stream or sys.stderr
    if mode == "auto":
        mode = "bar" if stream.isatty() else "lines"
    if mode == "none":
        yield None
    elif mode == "lines":
        yield Lines(stream)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what a narrow terminal has no room for is cut here
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[figures]}", table_column=rest),
        )
        with Progress(*columns, console=Console(file=stream, force_terminal=True), expand=True) as progress:
            yield Bar(progress)


class Pace:
    """How long the rest will take, from the steps of this process alone: a resumed run's earlier ones took no time."""

    def __init__(self) -> None:
        self.began: tuple[float, int, int] | None = None

    def left(self, step: int, total: int, now: float) -> float | None:
        """Seconds until ``total``; None when it is reached, or before there is anything to judge by."""
        if self.began is None or total != self.began[2] or step < self.began[1]:  # another part of the work
            self.began = (now, step, total)
        seconds, steps = now - self.began[0], step - self.began[1]
        return seconds / steps * (total - step) if steps and seconds > 0 and step < total else None


class Bar:
    """A bar with the newest figures, tokens/s and the time left; lines for people pass above it."""

    def __init__(self, progress: "Progress") -> None:
        self.progress = progress
        self.task = progress.add_task("starting", total=None, left="", speed="", figures="")
        self.pace = Pace()
        self.latest: dict[str, float | None] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "progress":
            left = in_words(self.pace.left(event["step"], event["total_steps"], time.monotonic()))
            self.progress.update(
                self.task,
                description=event["phase"],
                completed=event["step"],
                total=event["total_steps"],
                left=f"{left} left" if left else "",
            )
        elif event["kind"] == "metrics":
            self.latest |= event["metrics"]
            self.progress.update(self.task, speed=speed(self.latest), figures=figures(self.latest))
        elif (line := line_of(event)) is not None:
            self.progress.console.print(line, markup=False, highlight=False)


class Lines:
    """A line now and then, and at once for what is rare: the first step and the last, validations, words, samples."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.pace = Pace()
        self.latest: dict[str, float | None] = {}
        self.written = -SECONDS_BETWEEN_LINES
        self.phase = ""
        self.is_rare = False

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "metrics":
            self.latest |= event["metrics"]
            self.is_rare = any(name in event["metrics"] for name in VALIDATIONS)
        elif event["kind"] == "progress":
            self.progressed(event["step"], event["total_steps"], event["phase"])
        elif (line := line_of(event)) is not None:
            self.write(line)

    def progressed(self, step: int, total: int, phase: str) -> None:
        """Write where the run stands, unless a line has just been written."""
        now = time.monotonic()
        left = in_words(self.pace.left(step, total, now))
        is_news = self.is_rare or step == total or phase != self.phase
        self.is_rare, self.phase = False, phase
        if is_news or now - self.written >= SECONDS_BETWEEN_LINES:
            self.written = now
            parts = [
                f"{phase} {step}/{total}",
                figures(self.latest),
                speed(self.latest),
                f"{left} left" if left else "",
            ]
            self.write("  ".join(part for part in parts if part))

    def write(self, line: str) -> None:
        print(time.strftime("%H:%M:%S"), line, file=self.stream, flush=True)


def line_of(event: dict[str, Any]) -> str | None:
    """An event for people as a line of text; None for one of another kind."""
    if event["kind"] == "log":
        return str(event["message"])
    if event["kind"] == "sample":
        text = " ".join(f"{event['prompt']} ▸{event['response']}".split())
        return f"sample after step {event['step']}: {text[:LONGEST_SAMPLE]}"
    return None


def figures(metrics: dict[str, float | None]) -> str:
    """The few numbers to show beside the bar."""
    return "  ".join(f"{name} {metrics[key]:.3f}" for key, name in SHOWN.items() if metrics.get(key) is not None)


def speed(metrics: dict[str, float | None]) -> str:
    """``1,234 tokens/s``; nothing where it isn't known."""
    found = metrics.get("tokens_per_second")
    return "" if found is None else f"{found:,.0f} tokens/s"


def in_words(seconds: float | None) -> str:
    """``1:02:03`` for 3,723 seconds; nothing for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
