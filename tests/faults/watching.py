"""What the fault tests wait for, and what must hold at the end of each."""

import time
from collections.abc import Callable
from typing import Any

from webapp.local.process import is_running
from webapp.registry.models import Checkpoint
from webapp.runs.models import Run, RunEvent, RunMetrics, RunOutput
from workers.run_files import read_child, run_folder


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until ``true()`` gives something; fail by name otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"in {seconds} s it did not come true that {what}")


def fresh(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def wait_for_state(run: Run, state: str, seconds: float = 60) -> Run:
    until(lambda: fresh(run).state == state or fresh(run).is_finished, seconds, f"the run is {state}")
    assert fresh(run).state == state, fresh(run).error
    return fresh(run)


def wait_for_saved(run: Run, step: int = 20) -> int:
    """Wait until a state is saved, mid-run; returns the training process's id."""
    until(lambda: fresh(run).saved_step >= step, 40, f"step {step} is saved")
    found = read_child(run_folder(run))
    assert found is not None
    assert is_running(found[0])
    return found[0]


def events(run: Run, kind: str) -> list[str]:
    """Messages of the run's events of one kind."""
    return list(RunEvent.objects.filter(run=run, kind=kind).order_by("id").values_list("message", flat=True))


def assert_nothing_twice(run: Run) -> None:
    """One checkpoint, one row of metrics a step, each line of the log recorded once, no process left."""
    run = fresh(run)
    assert run.state == "succeeded", run.error
    assert RunOutput.objects.filter(run=run).count() == 1
    assert Checkpoint.objects.filter(project=run.project, kind="reward_model").count() == 1
    steps = list(RunMetrics.objects.filter(run=run).values_list("step", flat=True))
    assert steps == list(range(1, (run.total_steps or 0) + 1))
    folder = run_folder(run)
    written = [line for line in (folder / "events.jsonl").read_text().splitlines() if '"kind": "log"' in line]
    told = [message for message in events(run, "log") if "training process" not in message]
    assert len(told) == len(written) > 0
    stored = [path.name for path in (folder.parent.parent / "checkpoints").iterdir() if path.name[0] != "."]
    assert len(stored) == 2  # the policy and the reward model
    child = read_child(folder)
    assert child is not None
    assert not is_running(child[0])
    assert len(events(run, "succeeded")) == 1
