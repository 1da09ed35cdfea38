"""``./manage.py up``: start, one log, restart, crashes, kill -9, ports that are taken, a second start."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command

from webapp.local.children import Child, Console, LogFollower, how_it_ended, says
from webapp.local.endpoints import read_endpoints, wait_until
from webapp.local.process import birth_of, end_process, is_running
from webapp.local.supervisor import StopRequested, Supervisor

ROOT = Path(__file__).parents[2]
# The supervisor as it is, but for the workers and the demo, whose place a process takes that says when it is ready.
SMALL_STUDIO = """
import json, os, sys
import django
django.setup()
from pathlib import Path
from webapp.local.children import Child, python, says
from webapp.local.process import LocalServiceError
from webapp.local.supervisor import AlreadyRuns, Supervisor

class SmallStudio(Supervisor):
    def prepare_demo(self):
        pass
    def make_workers(self):
        words = os.environ.get("HELPER", "print('helper is ready'); import time; time.sleep(600)")
        return [Child("helper", python("-c", words), self.logs / "helper.log", answers=says(r"\\bready\\b"))]

data = Path(os.environ["STEERSMAN_DATA"])
try:
    SmallStudio(data, port=int(os.environ.get("PORT", 0)) or None, stream=sys.stdout).run()
except AlreadyRuns as error:
    print(error)
except LocalServiceError as error:
    sys.exit(f"CommandError: {error}")
"""


class Studio:
    """A supervisor in a process of its own, with what it printed."""

    def __init__(self, data, **environment):
        self.data = data
        self.output = data.with_suffix(f".{time.monotonic_ns()}.txt")
        kept = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "BROKER_URL")}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SMALL_STUDIO],
                cwd=ROOT,
                env={
                    **kept,
                    "DJANGO_SETTINGS_MODULE": "webapp.settings",
                    "STEERSMAN_DATA": str(data),
                    "PYTHONPATH": str(ROOT),
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self):
        return self.output.read_text()

    def wait_for(self, words, *, seconds=60):
        wait_until(lambda: re.search(words, self.text) or self.process.poll() is not None, seconds=seconds)
        assert re.search(words, self.text), f"{words!r} is not in:\n{self.text}"

    def pid_of(self, name):
        return json.loads((self.data / "processes.json").read_text())[name][0]

    def has_started(self, name):
        try:
            return bool(self.pid_of(name))
        except (OSError, KeyError):
            return self.process.poll() is not None

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("up") / "steersman"


@pytest.fixture
def up(data):
    """Start a studio on the data folder that the tests of this file share; whatever is left is ended afterwards."""
    begun = []

    def start(**environment):
        begun.append(Studio(data, **environment))
        return begun[-1]

    yield start
    for studio in begun:
        if studio.process.poll() is None:
            studio.stop()


def get(url, *, seconds=10):
    with urllib.request.urlopen(url, timeout=seconds) as answer:
        return answer.status


def test_up_starts_all_and_keeps_everything_over_a_restart(up, data):
    first = up()
    first.wait_for("everything runs after")
    address = re.search(r"Steersman is at (http://127\.0\.0\.1:\d+)/", first.text).group(1)
    assert get(f"{address}/healthz") == 200
    assert re.search(r"^helper +\| helper is ready$", first.text, re.MULTILINE)
    memory = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{first.pid_of('web')}/status").read_text()).group(1)
    assert int(memory) < 200_000  # a web process without torch
    link = re.search(r"log in once with (\S+)", first.text).group(1)
    assert get(link) == 200
    endpoints = read_endpoints(data)
    with psycopg.connect(endpoints["database_url"], autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM django_migrations").fetchone()[0] > 10
        connection.execute("CREATE TABLE kept (word text)")
    pids = [first.pid_of("web"), first.pid_of("helper")]
    assert first.stop(signal.SIGINT) == 0
    assert "stopped; your data are kept" in first.text
    assert not any(map(is_running, pids))
    assert not (data / "postgres" / "data" / "postmaster.pid").exists()

    second = up()
    second.wait_for("everything runs after")
    assert "migrate:" not in second.text
    assert "collectstatic" not in second.text
    with psycopg.connect(read_endpoints(data)["database_url"]) as connection:
        connection.execute("SELECT * FROM kept")
    assert second.stop() == 0


def test_a_second_up_names_the_address_of_the_first(up):
    first = up()
    first.wait_for("everything runs after")
    address = re.search(r"Steersman is at (\S+)", first.text).group(1)
    second = up()
    assert second.process.wait(30) == 0
    assert second.text.strip() == f"Steersman already runs at {address}"
    assert get(f"{address}healthz") == 200


def test_a_crashed_child_is_started_again(up):
    studio = up()
    studio.wait_for("everything runs after")
    address = re.search(r"Steersman is at (\S+)", studio.text).group(1)
    before = studio.pid_of("web")
    os.kill(before, signal.SIGKILL)
    studio.wait_for(r"web was ended by SIGKILL; starting it again in 1 s \(log: .*web\.log\)")
    assert get(f"{address}healthz", seconds=30) == 200  # a caller waits in the queue of the socket, and is not refused
    assert studio.pid_of("web") != before


def test_two_studios_that_start_at_once_answer_each_at_an_address_of_its_own(up, tmp_path):
    slow = Studio(tmp_path / "slow")
    try:
        assert wait_until(lambda: slow.has_started("web"), seconds=60), slow.text
        web = slow.pid_of("web")
        os.kill(web, signal.SIGSTOP)  # it has its port, and does not serve yet
        studio = up()
        studio.wait_for("everything runs after")
        os.kill(web, signal.SIGCONT)
        slow.wait_for("everything runs after")
        assert slow.pid_of("web") == web
        addresses = [re.search(r"Steersman is at (\S+)/", each.text).group(1) for each in (studio, slow)]
        assert addresses[0] != addresses[1]
        assert read_endpoints(slow.data)["web_url"] == addresses[1]
        assert studio.stop() == 0
        assert get(f"{addresses[1]}/healthz") == 200
        with pytest.raises(OSError, match="refused"):
            get(f"{addresses[0]}/healthz")
    finally:
        slow.stop()


def test_a_killed_postgres_is_started_again_at_the_same_address(up, data):
    studio = up()
    studio.wait_for("everything runs after")
    before = read_endpoints(data)
    pid = int((data / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    studio.wait_for("EmbeddedPostgres was ended by SIGKILL; starting it again")
    assert wait_until(lambda: studio.text.count("PostgreSQL answers") == 2, seconds=20)
    assert read_endpoints(data) == before
    address = re.search(r"Steersman is at (\S+)", studio.text).group(1)
    assert wait_until(lambda: get(f"{address}healthz") == 200, seconds=20)


def test_what_a_killed_supervisor_left_is_ended_by_the_next(up):
    first = up()
    first.wait_for("everything runs after")
    left = [first.pid_of("web"), first.pid_of("helper")]
    first.stop(signal.SIGKILL)
    assert all(map(is_running, left))
    second = up()
    second.wait_for("everything runs after")
    assert "web was left running by a supervisor that was killed" in second.text
    assert not any(map(is_running, left))


def test_a_busy_port_is_passed_over_and_said_unless_it_was_asked_for(up):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 8000))
            other.listen()
        except OSError:
            pass  # somebody else has it, which serves as well
        studio = up()
        studio.wait_for("everything runs after")
        assert re.search(r"port 8000 is in use, so the pages are on port 80\d\d", studio.text)
        studio.stop()
        asked = up(PORT="8000")
        assert asked.process.wait(60) == 1
        assert "port 8000 is in use: choose another with --port" in asked.text


def test_a_child_that_can_not_start_ends_the_attempt_with_its_last_words(up):
    studio = up(HELPER="import sys; print('no such ' + 'planet'); sys.exit(3)")
    assert studio.process.wait(60) == 1
    assert re.search(
        r"(?s)CommandError: helper ended with exit code 3\. .*helper\.log ends:.*no such planet", studio.text
    )
    assert "stopped; your data are kept" in studio.text


@pytest.mark.parametrize("port", ["-5", "0", "65536", "99999999", "x"])
def test_what_is_no_port_is_refused_as_such(port):
    with pytest.raises(CommandError, match="is no port: it is a number from 1 to 65535"):
        call_command("up", f"--port={port}")


def test_a_wish_to_stop_is_heard_between_two_starts_of_a_server(tmp_path):
    supervisor = Supervisor(tmp_path, stream=io.StringIO())
    supervisor.stop_signals = 1
    with pytest.raises(StopRequested):
        supervisor.pause(60)


def test_pauses_between_starts_grow_to_a_minute_and_a_long_life_resets_them(tmp_path):
    child = Child("c", [sys.executable, "-c", ""], tmp_path / "c.log")
    child.start()
    child.process.wait(20)
    assert child.has_ended()
    assert [child.note_crash() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    child.started_at -= 61
    assert child.note_crash() == 1


def test_a_child_counts_as_ready_only_by_what_it_said_since_its_last_start(tmp_path):
    child = Child("c", [sys.executable, "-c", "print('ready')"], tmp_path / "c.log", answers=says(r"\bready\b"))
    child.start()
    child.process.wait(20)
    assert child.answers(child)
    child.command = [sys.executable, "-c", "print('not yet, already')"]
    child.start()
    child.process.wait(20)
    assert not child.answers(child)


def test_the_follower_gives_whole_lines_once_and_notices_a_log_cut_short(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("old\n")
    follower = LogFollower(log)
    with log.open("a") as file:
        file.write("one\ntw")
    assert follower.new_lines() == ["one"]
    with log.open("a") as file:
        file.write("o\n-- start 2026\n\n")
    assert follower.new_lines() == ["two"]
    log.write_text("new\n")
    assert follower.new_lines() == ["new"]


def test_the_merged_log_has_no_colour_codes_where_nobody_sees_colours():
    stream = io.StringIO()
    Console(stream).say("web", "hello")
    assert stream.getvalue() == "web           | hello\n"


def test_an_end_is_told_by_signal_or_code():
    assert how_it_ended(-9) == "was ended by SIGKILL"
    assert how_it_ended(3) == "ended with exit code 3"
    assert how_it_ended(None) == "is running"


def test_a_process_is_known_by_its_birth_and_a_zombie_does_not_run():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(0.05)
    assert is_running(sleeper.pid)
    assert birth_of(sleeper.pid) == birth_of(sleeper.pid) != ""
    assert end_process(sleeper.pid, (signal.SIGTERM, 10))
    assert not is_running(sleeper.pid)  # ended, and not reaped by us yet
    assert sleeper.wait(1) == -signal.SIGTERM
    assert birth_of(sleeper.pid) == ""
    assert is_running(other.pid)
    other.kill()
    other.wait(5)
