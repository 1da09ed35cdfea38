"""What the fault tests wait for, and what must hold at the end of each."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_core.training.run_directory import RunDirectory
from webapp.local.process import is_running
from webapp.local.valkey import EmbeddedValkey
from webapp.registry.models import Checkpoint
from webapp.runs import leases, services
from webapp.runs.models import Run, RunEvent, RunMetrics, RunOutput
from workers.run_files import read_child, run_folder

# As ``manage.py up`` starts a worker; the names of its queues follow.
WORKER = (
    "-m",
    "celery",
    "-A",
    "workers.celery_app",
    "worker",
    "--without-gossip",
    "--without-mingle",
    "--loglevel",
    "INFO",
    "-Q",
)
READY = re.compile(r"\bready\b")


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
    return child_of(run)


def child_of(run: Run) -> int:
    """The id of the process that trains the run now."""
    found = read_child(run_folder(run))
    assert found is not None
    assert is_running(found[0])
    return found[0]


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still are."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_worker(log: Path, count: int = 1) -> None:
    """Wait until a Celery worker has said ``count`` times that it is ready."""
    until(lambda: len(READY.findall(log.read_text())) >= count, 60, f"the worker of {log.name} is ready")


def stored_state(run: Run) -> int:
    """The step of the newest whole state in the run's directory; fails where there is none."""
    state = RunDirectory(run_folder(run)).load_state()
    assert state is not None
    return state.step


def kill_broker(broker: EmbeddedValkey) -> None:
    """End the broker as a power cut would: nothing is said, nothing is kept."""
    assert broker.process is not None
    broker.process.kill()
    broker.process.wait(10)


def events(run: Run, kind: str) -> list[str]:
    """Messages of the run's events of one kind."""
    return list(RunEvent.objects.filter(run=run, kind=kind).order_by("id").values_list("message", flat=True))


def assert_nothing_twice(run: Run) -> None:
    """One checkpoint, one row of metrics a step, each line of the log recorded once, no process left."""
    run = fresh(run)
    assert run.state == "succeeded", run.error
    made = RunOutput.objects.get(run=run).checkpoint
    kind = Checkpoint.Kind.POLICY if run.kind == Run.Kind.POLICY else Checkpoint.Kind.REWARD_MODEL
    known = Checkpoint.objects.filter(project=run.project)
    began_with = [parent for parent in (run.policy_id, run.reward_model_id) if parent]
    assert made.kind == kind
    assert list(known.filter(kind=kind, origin=None).exclude(pk__in=began_with)) == []
    steps = list(RunMetrics.objects.filter(run=run).values_list("step", flat=True))
    assert steps == list(range(1, (run.total_steps or 0) + 1))
    folder = run_folder(run)
    written = [line for line in (folder / "events.jsonl").read_text().splitlines() if '"kind": "log"' in line]
    told = [message for message in events(run, "log") if "training process" not in message]
    assert len(told) == len(written)
    assert written or run.kind == Run.Kind.POLICY  # which says nothing for people
    stored = {path.name for path in (folder.parent.parent / "checkpoints").iterdir() if path.name[0] != "."}
    assert stored == set(known.values_list("sha256", flat=True))  # none that no row knows
    child = read_child(folder)
    assert child is not None
    assert not is_running(child[0])
    assert len(events(run, "succeeded")) == 1


def assert_stays_cancelled(run: Run) -> None:
    """A cancelled run changes no more, whoever asks for it, and what it has saved can be read."""
    assert fresh(run).state == "cancelled"
    before = (fresh(run).fence, fresh(run).finished_at, RunEvent.objects.filter(run=run).count())
    assert run.pk not in leases.reap()
    assert leases.claim(run.pk, "a late message") is None
    assert services.cancel(actor=None, run=run).state == "cancelled"
    assert (fresh(run).fence, fresh(run).finished_at, RunEvent.objects.filter(run=run).count()) == before
    assert not run.outputs.exists()
