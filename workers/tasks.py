"""The doorways by which messages come in. Ids in, nothing out; delivered twice, none does harm."""

import mmap
import os
import threading
import time
from typing import Any
from uuid import UUID

from celery import shared_task, signals

from webapp import queue
from workers import reaper, refilling, scoring, simulated
from workers.supervisor import supervise

# One byte that the pool's processes share with the worker that forks them: 1 once the worker is shutting down.
SHUTTING_DOWN = mmap.mmap(-1, 1)

SHORT: dict[str, Any] = {
    "acks_late": True,
    "retry_on_worker_lost": True,
    "max_retries": 3,
    "default_retry_delay": 10,
    "soft_time_limit": 240,
    "time_limit": 300,
    "ignore_result": True,
}
IDLE = threading.Event()  # set while this process of the pool works on nothing
IDLE.set()
PARENT_LOOK_SECONDS = 2.0


@signals.worker_shutting_down.connect
def announce_shutdown(**_: Any) -> None:
    SHUTTING_DOWN[0] = 1


@signals.task_prerun.connect
def note_begin(**_: Any) -> None:
    IDLE.clear()


@signals.task_postrun.connect
def note_end(**_: Any) -> None:
    IDLE.set()


@signals.worker_process_init.connect
@signals.beat_embedded_init.connect
def leave_with_worker(**_: Any) -> None:
    """See to it that this process of the pool, or the beat inside a worker, ends when its worker was killed.

    The pool's processes hold each other's pipes open, so none of them notices by itself. A task is let come to its end:
    a run gives itself back to the queue.
    """
    worker = os.getppid()

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(PARENT_LOOK_SECONDS)
        IDLE.wait()
        os._exit(1)

    threading.Thread(target=watch, name="leave-with-worker", daemon=True).start()


@shared_task(
    name="workers.supervise",
    acks_late=False,  # else the broker would deliver a long run again; the reaper is the only way back
    reject_on_worker_lost=False,
    retry_on_worker_lost=False,
    max_retries=0,
    ignore_result=True,
)
def supervise_run(run_id: str) -> None:
    """Train one run, if it waits; a duplicate finds it taken and returns."""
    worker = os.getppid()
    supervise(UUID(run_id), should_stop=lambda: SHUTTING_DOWN[0] == 1 or os.getppid() != worker)


@shared_task(name="workers.refill", **SHORT)
def refill(project_id: str) -> None:
    """Fill one project's queue."""
    refilling.refill(UUID(project_id))


@shared_task(name="workers.refill_all", **SHORT)
def refill_all() -> None:
    """Fill the queue of every project that has a policy."""
    refilling.refill_all()
    scoring.ring()  # a scoring may have made room for this


@shared_task(name="workers.score", **SHORT)
def score(project_id: str) -> None:
    """Score one project's samples, for as long as nothing else waits for this worker."""
    scoring.score(UUID(project_id), should_yield=lambda: not queue.hears_nothing("sample"))


@shared_task(name="workers.score_all", **SHORT)
def score_all() -> None:
    """Ask for the scoring of every project in which samples wait for a score."""
    scoring.score_all()


@shared_task(name="workers.simulate_ratings", **SHORT)
def simulate_ratings(project_id: str) -> None:
    """Let simulated raters give some seconds' worth of the ratings asked for in a project."""
    simulated.go_on(UUID(project_id))


@shared_task(name="workers.simulate_all", **SHORT)
def simulate_all() -> None:
    """Go on with simulated ratings wherever some are missing."""
    simulated.go_on_everywhere()
    scoring.ring()


@shared_task(name="workers.reap", **SHORT)
def reap() -> None:
    """Take runs back from supervisors that fell silent, and ring for runs that wait."""
    reaper.reap(ring=trainers_hear_nothing())


def trainers_hear_nothing() -> bool:
    """Whether no message waits for the trainers, so that ringing again piles up nothing."""
    return queue.hears_nothing("train")
