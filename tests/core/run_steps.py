"""Steps that tests of training runs share: stopping one, and reading what it told."""

from rlhf_core.training.run_directory import RunDirectory, read_events


def stop_after(run: RunDirectory, step: int) -> None:
    """Ask the run to stop once ``step`` is done, as SIGTERM would."""
    save_or_stop = run.save_or_stop

    def stopping(at, interval, capture):
        if at == step:
            run.stop_event.set()
        save_or_stop(at, interval, capture)

    run.save_or_stop = stopping  # type: ignore[method-assign]


def metrics_of(run: RunDirectory) -> dict[int, dict[str, float]]:
    """Step -> metrics, the last word on each, without the clock's."""
    lines = [event for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "metrics"]
    return {
        line["step"]: {name: value for name, value in line["metrics"].items() if name != "tokens_per_second"}
        for line in lines
    }
