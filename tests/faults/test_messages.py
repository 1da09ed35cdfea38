"""Messages under faults: delivered twice, lost with the broker, or the worker told to stop; against a real Celery."""

import signal
import uuid
from pathlib import Path

import pytest

from rlhf_core.config import RewardConfig
from tests.faults.watching import assert_nothing_twice, events, fresh, until, wait_for_saved, wait_for_state
from webapp import queue
from webapp.local.endpoints import free_port
from webapp.local.process import is_running
from webapp.local.valkey import EmbeddedValkey
from webapp.runs.services import start_reward_run

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


@pytest.fixture
def broker(tmp_path, settings, monkeypatch):
    """A broker of this test's own that is down at first; the web side already knows where it would be."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.port = free_port()
    settings.BROKER_URL = server.url
    queue.sender.cache_clear()
    yield server
    server.stop()
    queue.sender.cache_clear()


def test_a_run_asked_for_while_the_broker_is_down_starts_later_and_once(ask, start, broker, tmp_path):
    run = ask()  # accepted, although nobody hears the bell
    assert fresh(run).state == "queued"
    broker.start(port=broker.port)
    for _ in range(3):  # and a message that comes three times
        assert queue.ring(run.pk)
    start(*WORKER, "train", "-c", "3", BROKER_URL=broker.url)
    wait_for_state(run, "succeeded")
    assert len(events(run, "claimed")) == 1
    until(lambda: (tmp_path / "process-0.log").read_text().count("nothing to do") >= 2, 20, "the others found it taken")
    assert_nothing_twice(run)


def test_a_lost_message_is_replaced_and_a_stopping_worker_gives_its_run_back(ask, start, broker, tmp_path):
    run = ask()  # rung for in vain
    broker.start(port=broker.port)
    command = (*WORKER, "train,sample,default", "-c", "2", "-B", "--schedule", str(tmp_path / "beat"))
    worker = start(*command, BROKER_URL=broker.url, REFILL_SECONDS="3600")
    child = wait_for_saved(run)  # the periodic look rang for it
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert not is_running(child)
    assert (fresh(run).state, fresh(run).attempt) == ("queued", 0)
    assert "the worker stops" in events(run, "requeued")
    start(*command, BROKER_URL=broker.url, REFILL_SECONDS="3600")
    wait_for_state(run, "succeeded")
    assert_nothing_twice(run)


def test_a_killed_celery_worker_leaves_no_training_process(ask, start, broker, tmp_path):
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


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_double_click_is_one_run(project, broker):
    config, request = RewardConfig(minimum_ratings=20), uuid.uuid4()
    runs = [start_reward_run(actor=None, project=project, config=config, request_id=request) for _ in range(2)]
    assert runs[0] == runs[1]
