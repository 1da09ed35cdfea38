"""The clock of ``manage.py up``: it looks at the runs by itself, whatever the other workers are busy with."""

import io
import signal

import pytest

from tests.faults.watching import children_of, events, fresh, until
from webapp.local.process import is_running
from webapp.local.supervisor import Supervisor
from webapp.runs.leases import claim


@pytest.fixture
def workers(tmp_path) -> dict[str, list[str]]:
    """The commands by which ``up`` starts its workers."""
    made = Supervisor(tmp_path, stream=io.StringIO()).make_workers()
    return {child.name: child.command for child in made}


def test_whatever_fills_queues_or_trains_takes_no_other_tasks(workers):
    queues = {name: words[words.index("-Q") + 1] for name, words in workers.items() if "-Q" in words}
    assert queues == {"worker-train": "train", "worker-sample": "sample", "beat": "default"}


def test_the_clock_alone_takes_back_a_run_whose_holder_is_gone(ask, start, broker, workers):
    run = ask()
    assert claim(run.pk, "gone")
    broker.start(port=broker.port)
    clock = start(*workers["beat"][1:], BROKER_URL=broker.url, REFILL_SECONDS="3600")
    until(lambda: fresh(run).state == "queued", 40, "the run waits again")
    assert "gone is gone" in events(run, "lost")
    family = children_of(clock.pid)
    clock.send_signal(signal.SIGTERM)
    assert clock.wait(20) == 0
    until(lambda: not any(map(is_running, family)), 10, "its processes are gone")
