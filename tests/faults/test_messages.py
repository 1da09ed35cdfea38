"""Messages under faults: delivered twice, never sent, or taken for lost; against a real Celery, broker and web process.

A number in a name is the row of the project's list of fault tests. Where a row waits for more than 30 seconds, all
periods are a tenth (``HURRIED`` in conftest.py), and the test names both values.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from django.conf import settings
from django.db import transaction
from django.test import Client

from rlhf_core.config import RewardConfig
from tests.faults.watching import (
    WORKER,
    assert_nothing_twice,
    events,
    fresh,
    until,
    wait_for_saved,
    wait_for_state,
    wait_for_worker,
)
from webapp import queue
from webapp.accounts.services import ensure_admin
from webapp.local.endpoints import free_port
from webapp.local.process import command_line, is_running
from webapp.projects.models import Project
from webapp.runs.models import Run
from webapp.runs.services import start_reward_run
from workers.run_files import run_folder

CSRF = "a" * 32


@pytest.fixture
def start_web(start, hurried):
    """Start the web process; returns it with its address and the cookies of a logged-in admin."""

    def launch(broker_url: str) -> tuple[subprocess.Popen, str, str]:
        environment = {"STEERSMAN_ROLE": "web", "BROKER_URL": broker_url, "SECRET_KEY": settings.SECRET_KEY}
        collect = [sys.executable, "manage.py", "collectstatic", "--noinput", "-v", "0"]
        subprocess.run(collect, env={**hurried, **environment}, check=True)
        port = free_port()
        web = start("-m", "uvicorn", "webapp.asgi:application", "--port", str(port), **environment)
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/healthz"), 40, "the web process answers")
        client = Client()
        client.force_login(ensure_admin(), "django.contrib.auth.backends.ModelBackend")
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        return web, url, f"sessionid={session}; csrftoken={CSRF}"

    return launch


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def click_train(url: str, cookies: str, project: Project) -> tuple[int, str]:
    """Press "Train reward model", as a browser does; returns the status and text of the page that comes."""
    fields = {"csrfmiddlewaretoken": CSRF, "preset": "CPU", "request_id": str(uuid.uuid4())}
    address = f"{url}/p/{project.slug}/runs/reward/"
    headers = {"Cookie": cookies, "Referer": address}
    with urlopen(Request(address, urlencode(fields).encode(), headers), timeout=30) as answer:
        return answer.status, answer.read().decode()


def test_15_a_message_delivered_to_two_workers_at_once_trains_once(ask, start, broker, look, tmp_path):
    run = ask()  # rung for in vain
    broker.start(port=broker.port)
    logs = [tmp_path / f"process-{number}.log" for number in range(2)]
    for name in ("one@%h", "two@%h"):
        start(*WORKER, "train", "-c", "1", "-n", name, BROKER_URL=broker.url)
    for log in logs:
        wait_for_worker(log)
    with transaction.atomic():
        Run.objects.select_for_update().get(pk=run.pk)
        for _ in range(2):
            assert queue.ring(run.pk)
        until(lambda: look("wait_event_type = 'Lock'") == 2, 30, "both workers reach for the run at once")
    until(lambda: any("nothing to do" in log.read_text() for log in logs), 20, "one found it taken")
    trained: set[int] = set()
    until(lambda: trained.update(processes_training(run)) or fresh(run).is_finished, 60, "the run ends")
    said = [log.read_text() for log in logs]
    assert sorted(text.count("nothing to do") for text in said) == [0, 1]
    assert sorted(text.count("trains in process") for text in said) == [0, 1]
    assert len(trained) == 1
    assert len(events(run, "claimed")) == 1
    assert fresh(run).fence == 1
    assert_nothing_twice(run)


def processes_training(run: Run) -> list[int]:
    """Every process of this machine that was started to train the run."""
    words = f"rlhf_core {run.kind} --run-dir {run_folder(run)}"
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if words in command_line(pid) and is_running(pid)]


def test_16_a_run_longer_than_the_brokers_patience_is_not_started_again(ask, start, broker, tmp_path):
    """A run of 12 s against a visibility time-out of 1 s; in the row 120 s against 10 s, in production 900 s."""
    broker.start(port=broker.port)
    run = ask()
    command = ("-m", "celery", "-A", "tests.faults.impatient", *WORKER[4:])
    start(*command, "train", "-c", "2", BROKER_URL=broker.url, RUN_STALL_SECONDS="60")
    child = wait_for_saved(run)
    began_at = fresh(run).started_at.timestamp()
    os.kill(child, signal.SIGSTOP)  # else it would be done too soon
    until(lambda: time.time() - began_at > 12, 20, "the run has taken 12 s")
    assert processes_training(run) == [child]
    os.kill(child, signal.SIGCONT)
    wait_for_state(run, "succeeded")
    said = (tmp_path / "process-0.log").read_text()
    assert said.count("trains in process") == 1
    assert "nothing to do" not in said  # the message did not even come a second time
    assert len(events(run, "claimed")) == 1
    assert_nothing_twice(run)


def test_21_a_click_on_train_while_the_broker_is_down_is_accepted_and_starts_later(
    project, start, start_web, broker, tmp_path
):
    start(*WORKER, "train,sample,default", "-c", "2", "-B", "--schedule", str(tmp_path / "beat"), BROKER_URL=broker.url)
    _, url, cookies = start_web(broker.url)
    status, page = click_train(url, cookies, project)
    assert status == 200
    assert "queued" in page
    run = Run.objects.get(project=project)
    assert run.state == "queued"
    broker.start(port=broker.port)
    until(lambda: fresh(run).step > 0, 60, "the run has begun")  # nobody has clicked again
    assert len(events(run, "claimed")) == 1


def test_a_message_that_comes_three_times_trains_once(ask, start, broker, tmp_path):
    run = ask()  # accepted, although nobody hears the bell
    assert fresh(run).state == "queued"
    broker.start(port=broker.port)
    for _ in range(3):
        assert queue.ring(run.pk)
    start(*WORKER, "train", "-c", "3", BROKER_URL=broker.url)
    wait_for_state(run, "succeeded")
    assert len(events(run, "claimed")) == 1
    until(lambda: (tmp_path / "process-0.log").read_text().count("nothing to do") >= 2, 20, "the others found it taken")
    assert_nothing_twice(run)


def test_37_a_web_process_killed_between_commit_and_message_loses_no_run(
    project, start, start_web, broker, look, tmp_path
):
    """Started within 4.5 s, in production 45 s; the look that finds it comes each second, in production each 15 s."""
    broker.start(port=broker.port)
    beat = ("-B", "--schedule", str(tmp_path / "beat"))
    start(*WORKER, "train,default", "-c", "2", *beat, BROKER_URL=broker.url, RUN_REAP_SECONDS="1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a broker that takes the call and never answers
        web, url, cookies = start_web(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        until(lambda: look("true") > 0, 60, "the worker has looked for waiting runs")
        outcome: list[object] = []

        def click() -> None:
            try:
                outcome.append(click_train(url, cookies, project))
            except (OSError, HTTPException) as error:
                outcome.append(error)

        clicking = threading.Thread(target=click)
        clicking.start()
        silent.settimeout(30)
        call, _ = silent.accept()
        assert call.recv(1)  # the web process wants to send: what it asks for is committed
        web.kill()
        web.wait(10)
        killed_at = time.time()
        clicking.join(30)
        call.close()
    assert isinstance(outcome[0], OSError | HTTPException)
    run = Run.objects.get(project=project)
    until(lambda: events(run, "claimed"), 30, "a worker has the run")
    assert run.events.get(kind="claimed").at.timestamp() - killed_at < 4.5


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


def test_a_double_click_is_one_run(project, broker):
    config, request = RewardConfig(minimum_ratings=20), uuid.uuid4()
    runs = [start_reward_run(actor=None, project=project, config=config, request_id=request) for _ in range(2)]
    assert runs[0] == runs[1]
