"""Workers and brokers that go for good: killed, emptied, away for minutes; against a real Celery and a real broker.

A number in a name is the row of the project's list of fault tests. Where a row waits for more than 30 seconds, all
periods are a tenth (``HURRIED`` in conftest.py), and the test names both values.
"""

import os
import signal
import time
from pathlib import Path

from redis import Redis

from tests.faults.watching import (
    READY,
    WORKER,
    assert_nothing_twice,
    children_of,
    events,
    fresh,
    kill_broker,
    until,
    wait_for_saved,
    wait_for_state,
    wait_for_worker,
)
from webapp import queue
from webapp.local.process import is_running

BEAT = ("-m", "celery", "-A", "workers.celery_app", "beat", "--pidfile", "", "--loglevel", "WARNING", "--schedule")


def group_of(leader: int) -> list[int]:
    """Every living process of the group that ``leader`` made."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just gone
            continue
        if int(words[2]) == leader and words[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def test_13_a_killed_supervisor_and_worker_leave_no_process_and_another_worker_goes_on(ask, start, broker, tmp_path):
    """Taken back within 12 s, in production 120 s: a lease of 5 s (60 s), looked for each second (15 s)."""
    broker.start(port=broker.port)
    hurry = {"BROKER_URL": broker.url, "RUN_LEASE_SECONDS": "5", "RUN_REAP_SECONDS": "1", "REFILL_SECONDS": "3600"}
    workers = [start(*WORKER, "train,default", "-c", "2", "-n", name, **hurry) for name in ("one@%h", "two@%h")]
    start(*BEAT, str(tmp_path / "beat"), **hurry)
    for number in range(2):
        wait_for_worker(tmp_path / f"process-{number}.log")
    run = ask()
    child = wait_for_saved(run)
    supervisor = int(fresh(run).lease_owner.rpartition(":")[2])
    (first,) = (worker for worker in workers if supervisor in children_of(worker.pid))
    family = children_of(first.pid)
    assert child in children_of(supervisor)
    assert fresh(run).state == "running"
    killed_at = time.time()
    for pid in (supervisor, first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait(10)
    until(lambda: group_of(child) == [], 10, "the training process and all of its group are gone")
    assert fresh(run).fence == 1  # gone by itself, before anybody has taken over
    until(lambda: not any(map(is_running, family)), 20, "the worker's other processes are gone")
    until(lambda: len(events(run, "claimed")) == 2, 60, "the other worker has the run")
    assert run.events.filter(kind="claimed").latest("id").at.timestamp() - killed_at < 12
    assert len(events(run, "lost")) == 1
    wait_for_state(run, "succeeded")
    assert_nothing_twice(run)


def test_a_killed_worker_takes_its_pool_and_its_beat_along(ask, start, broker, tmp_path):
    run = ask()
    broker.start(port=broker.port)
    queue.ring(run.pk)
    command = (*WORKER, "train,default", "-c", "2", "-B", "--schedule", str(tmp_path / "beat"))
    worker = start(*command, BROKER_URL=broker.url)
    child = wait_for_saved(run)
    family = children_of(worker.pid)
    assert len(family) == 3  # two of the pool and the beat
    worker.kill()
    worker.wait()
    until(lambda: not is_running(child), 10, "the training process is gone")
    until(lambda: not any(map(is_running, family)), 20, "the worker's processes are gone")
    start(*command, BROKER_URL=broker.url)  # takes it back once the lease is over
    wait_for_state(run, "succeeded")
    assert_nothing_twice(run)


def test_18_a_broker_killed_for_minutes_disturbs_no_run_and_is_used_again_when_it_returns(ask, start, broker, tmp_path):
    """Away for 30 s, in the row 5 minutes. Used again within 60 s, as in the row: Celery's pauses between two tries, up
    to 30 s, are no periods of ours."""
    broker.start(port=broker.port)
    run = ask()
    worker = start(*WORKER, "train", "-c", "1", BROKER_URL=broker.url)
    wait_for_saved(run)
    pool = children_of(worker.pid)
    kill_broker(broker)
    killed_at = time.monotonic()
    assert fresh(run).state == "running"
    wait_for_state(run, "succeeded")  # without a broker
    assert_nothing_twice(run)
    second = ask(epochs=3)  # rung for in vain
    until(lambda: time.monotonic() - killed_at > 30, 40, "the broker was away for 30 s")
    assert fresh(second).state == "queued"
    broker.start(port=broker.port)
    assert queue.ring(second.pk)
    until(lambda: fresh(second).state != "queued", 60, "the worker has taken what was sent after the broker's return")
    assert worker.poll() is None
    assert children_of(worker.pid) == pool  # nobody was started anew
    assert len(READY.findall((tmp_path / "process-0.log").read_text())) == 1
    wait_for_state(second, "succeeded")
    assert_nothing_twice(second)


def test_19_messages_wiped_from_the_broker_are_sent_again_and_no_run_is_lost(ask, start, broker, tmp_path):
    """Waiting runs are looked for each second, in production each 15 s, which leaves the row's 45 s ample room."""
    broker.start(port=broker.port)
    runs = [ask(epochs=2), ask(epochs=3)]
    hurry = {"BROKER_URL": broker.url, "RUN_REAP_SECONDS": "1", "REFILL_SECONDS": "3600"}
    start(*WORKER, "default", "-c", "1", "-B", "--schedule", str(tmp_path / "beat"), **hurry)
    wait_for_worker(tmp_path / "process-0.log")
    with Redis.from_url(broker.url) as inside:
        assert inside.llen("train") == 2
        inside.flushall()
        until(lambda: inside.llen("train") >= 2, 30, "both runs are rung for again")
    start(*WORKER, "train", "-c", "2", **hurry)
    for run in runs:
        wait_for_state(run, "succeeded")
    for run in runs:  # once neither has a checkpoint that is stored and not yet recorded
        assert len(events(run, "claimed")) == 1
        assert_nothing_twice(run)
