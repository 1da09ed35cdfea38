"""``./manage.py up``: one process in the foreground that starts all others, watches them and stops them."""

import fcntl
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError
from django.urls import reverse

from webapp.local import postgres, valkey
from webapp.local.children import Child, Console, LogFollower, how_it_ended, python, says
from webapp.local.endpoints import read_endpoints, write_endpoints, write_private
from webapp.local.listening import FIRST_PORT, listen, page_answers, url_of, way_to
from webapp.local.postgres import EmbeddedPostgres
from webapp.local.process import LocalServiceError, birth_of, end_process, is_running, last_lines
from webapp.local.valkey import EmbeddedValkey
from webapp.settings import BASE_DIR, connect_to_database

STEP_SECONDS = {"migrate": 300.0, "static": 120.0, "demo": 600.0}
READY_SECONDS = 120.0
FIRST_PAIR_SECONDS = 300.0
CRASHES_BEFORE_GIVING_UP = 4  # while starting; later it tries for ever, once a minute
TICK_SECONDS = 0.1
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # on few cores many spinning threads slow each other to a crawl
EXPECTED_WORDS = ("LOG:  ", "FATAL:  the database system is")  # in PostgreSQL's log; what is left is worth a look


class StopRequested(Exception):
    """Somebody pressed Ctrl-C or sent SIGTERM."""


class AlreadyRuns(LocalServiceError):
    """Another supervisor has this data folder."""


class Supervisor:
    """Starts, in order: PostgreSQL, broker, migrations, static files, demo project, web, workers, beat, sampler.

    Args:
        data: the folder for everything that is kept.
        port: the web port wanted; None takes 8000 or the next free one.
        host: the address on which the web process listens.
        stream: where the merged log goes.
    """

    def __init__(self, data: Path, *, port: int | None = None, host: str = "127.0.0.1", stream: IO[str]) -> None:
        self.data = data
        self.logs = data / "logs"
        self.wanted_port, self.host = port, host
        self.console = Console(stream)
        self.seconds: dict[str, float] = {}
        self.stop_signals = 0
        self.started = False
        self.postgres = EmbeddedPostgres(data / "postgres") if settings.DATABASE_IS_EMBEDDED else None
        self.broker = EmbeddedValkey(data / "valkey") if settings.BROKER_IS_EMBEDDED else None
        self.children: list[Child] = []
        self.followers: dict[str, LogFollower] = {}
        self.listener: socket.socket | None = None
        self.url = ""

    # --- The story -------------------------------------------------------------------------------------------------

    def run(self, *, check: bool = False) -> dict[str, Any] | None:
        """Start everything and stay until told to stop; with ``check`` only until the first pair can be rated.

        Returns the seconds each step took where ``check`` is asked for, else None.

        Raises:
            AlreadyRuns: another supervisor has this data folder; the message has its address.
            LocalServiceError: something did not start; the message names the cause and the log.
        """
        begun = time.monotonic()
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.only_one(), self.signals_heard():
            try:
                self.end_survivors()
                self.start()
                if check:
                    with self.timed("first_pair"):
                        self.wait_for(first_pair_is_there, "the first pair to rate", FIRST_PAIR_SECONDS)
                    self.seconds["total"] = round(time.monotonic() - begun, 2)
                    return {"ok": True, "seconds": self.seconds}
                self.welcome(time.monotonic() - begun)
                while True:
                    self.tick()
            except StopRequested:
                self.say("stopping")
                if check:
                    raise LocalServiceError("stopped before the first pair was there") from None
            except (OSError, DatabaseError) as error:  # a full disk, a file in the way, a database that went
                raise LocalServiceError(f"{type(error).__name__}: {error} (logs: {self.logs})") from error
            finally:
                self.stop()
        return None

    def start(self) -> None:
        self.take_port()
        with self.timed("postgres"):
            self.start_postgres()
        with self.timed("broker"):
            self.start_broker()
        with self.timed("migrate"):
            if migrations_wait():
                self.step("migrate", "migrate", "--noinput", "--verbosity", "0")
        with self.timed("static"):
            self.collect_static_files()
        with self.timed("demo"):
            self.prepare_demo()
        self.children = [self.make_web(), *self.make_workers()]
        with self.timed("web"):
            for child in self.children:
                self.spawn(child)
            self.wait_for_child("web")
            write_endpoints(self.data, web_url=self.url)
        with self.timed("workers"):
            for child in self.children:
                self.wait_for_child(child.name)
        self.started = True
        ask_for_samples()

    def start_postgres(self) -> None:
        if self.postgres is None:
            self.wait_for(connection_answers, "the database of DATABASE_URL", 30)
            return
        self.follow("postgres", self.postgres.log)
        url = self.postgres.start(port=read_endpoints(self.data).get("postgres_port"))
        write_endpoints(self.data, database_url=url, postgres_port=self.postgres.port)
        point_django_at(url)
        self.say(f"PostgreSQL answers on port {self.postgres.port}")

    def start_broker(self) -> None:
        if self.broker is None:
            return
        url = self.broker.start(port=read_endpoints(self.data).get("broker_port"))
        write_endpoints(self.data, broker_url=url, broker_port=self.broker.port)
        settings.BROKER_URL = url
        self.say(f"the broker answers on port {self.broker.port}")

    def collect_static_files(self) -> None:
        """Run collectstatic when a file was added, changed or removed since the last time."""
        stamp, now = self.data / "static.stamp", describe_static_files()
        if stamp.exists() and stamp.read_text() == now and settings.STATIC_ROOT.exists():
            return
        self.step("static", "collectstatic", "--noinput", "--clear", "--verbosity", "0")
        write_private(stamp, now)

    def prepare_demo(self) -> None:
        self.step("demo", "prepare_demo")

    def take_port(self) -> None:
        """Listen for the web process from now until the end, also between two of its lives."""
        self.listener = listen(self.host, self.wanted_port)
        port = self.listener.getsockname()[1]
        if not self.wanted_port and port != FIRST_PORT:
            self.say(f"port {FIRST_PORT} is in use, so the pages are on port {port}")
        self.url = url_of(self.listener, self.host)

    def make_web(self) -> Child:
        assert self.listener is not None
        descriptor, address = self.listener.fileno(), way_to(self.listener)
        return Child(
            "web",
            python(
                *("-m", "uvicorn", "webapp.asgi:application", "--fd", str(descriptor)),
                *("--log-level", "warning", "--no-access-log", "--no-server-header"),
                *("--timeout-graceful-shutdown", "10"),
                *("--timeout-keep-alive", "75"),  # a rater thinks longer than the 5 s that are usual
            ),
            self.logs / "web.log",
            {"STEERSMAN_ROLE": "web", **ONE_THREAD},
            answers=lambda child: page_answers(*address),
            inherits=(descriptor,),
        )

    def make_workers(self) -> list[Child]:
        celery = python("-m", "celery", "--quiet", "-A", "workers.celery_app")
        quiet = ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
        # The warning about root is for brokers whose messages are pickles; ours are JSON.
        worker = {"STEERSMAN_ROLE": "worker", "PYTHONWARNINGS": "ignore::UserWarning:celery.platforms"}
        on_default = ["-n", "beat@%h", *quiet]
        beat_file = str(self.data / "beat-schedule")
        return [
            Child(
                "worker-train",
                [*celery, "worker", "-Q", "train", "-c", "1", "-n", "train@%h", *quiet],
                self.logs / "worker-train.log",
                worker,
                answers=says(r"\bready\b"),
                stop_seconds=100.0,  # a run saves its state first
            ),
            Child(
                "worker-sample",
                [*celery, "worker", "-Q", "sample", "-c", "1", "-n", "sample@%h", *quiet],
                self.logs / "worker-sample.log",
                {**worker, **ONE_THREAD},
                answers=says(r"\bready\b"),
            ),
            Child(
                "beat",  # and the look at the runs, which must not wait behind a long filling of a queue
                [*celery, "worker", "-Q", "default", "--pool", "solo", "-B", "--schedule", beat_file, *on_default],
                self.logs / "beat.log",
                {**worker, **ONE_THREAD},
                answers=says(r"\bready\b"),
            ),
            Child(
                "sampler",
                python(str(BASE_DIR / "manage.py"), "run_sampler"),
                self.logs / "sampler.log",
                {**worker, **ONE_THREAD},
                answers=says(r"\bready\b|asked for at"),
            ),
        ]

    def welcome(self, seconds: float) -> None:
        self.say(f"Steersman is at {self.url}/")
        try:
            self.say(f"log in once with {make_login_link(self.url)}")
        except DatabaseError as error:
            self.say(f"no log-in link could be made ({error}); ./manage.py login_link prints one")
        self.say(f"everything runs after {seconds:.1f} s; the logs are in {self.logs}")
        self.say("Ctrl-C stops everything and keeps your data")

    # --- Watching --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Show new log lines, start again what has crashed, and notice a wish to stop."""
        self.show_logs()
        if self.stop_signals:
            raise StopRequested
        self.keep_servers()
        for child in self.children:
            if child.has_ended():
                ended = how_it_ended(child.process.returncode if child.process else None)
                pause = child.note_crash()
                if not self.started and child.crashes >= CRASHES_BEFORE_GIVING_UP:
                    raise LocalServiceError(f"{child.name} {ended}. {child.log} ends:\n{last_lines(child.log)}")
                self.say(f"{child.name} {ended}; starting it again in {pause:.0f} s (log: {child.log})")
            elif child.process is None and child.again_at and time.monotonic() >= child.again_at:
                self.spawn(child)
        time.sleep(TICK_SECONDS)

    def keep_servers(self) -> None:
        """Start PostgreSQL or the broker again if it has ended; whoever uses it follows when the address changed."""
        for server, start in ((self.postgres, self.start_postgres), (self.broker, self.start_broker)):
            if server is None or server.process is None or server.process.poll() is None:
                continue
            self.say(f"{type(server).__name__} {how_it_ended(server.process.returncode)}; starting it again")
            before = server.url
            for attempt in range(1, 6):
                try:
                    start()
                    break
                except LocalServiceError as error:
                    if attempt == 5:
                        raise
                    self.say(str(error))
                    self.pause(2.0**attempt)
            if server.url != before:
                self.say("its address has changed; the processes that use it start again")
                self.stop_children()
                for child in self.children:
                    self.spawn(child)

    def pause(self, seconds: float) -> None:
        """Wait, and hear a wish to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stop_signals:
                raise StopRequested
            time.sleep(TICK_SECONDS)

    def show_logs(self) -> None:
        for name, follower in self.followers.items():
            for line in follower.new_lines():
                if not (name == "postgres" and line.partition(" UTC ")[2].startswith(EXPECTED_WORDS)):
                    self.console.say(name, line)
            follower.cut()

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise LocalServiceError(f"waited {seconds:.0f} s for {what}, in vain; the logs are in {self.logs}")
            self.tick()

    def wait_for_child(self, name: str) -> None:
        child = next(child for child in self.children if child.name == name)
        end = time.monotonic() + READY_SECONDS
        while not child.ready:
            child.ready = child.process is not None and not child.has_ended() and child.answers(child)
            if not child.ready:
                if time.monotonic() > end:
                    raise LocalServiceError(
                        f"{name} did not answer in {READY_SECONDS:.0f} s. {child.log} ends:\n{last_lines(child.log)}"
                    )
                self.tick()

    # --- Pieces ----------------------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        self.console.say("up", line)

    def follow(self, name: str, log: Path) -> None:
        self.followers.setdefault(name, LogFollower(log))

    def spawn(self, child: Child) -> None:
        self.follow(child.name, child.log)
        child.start()
        assert child.process is not None
        known = {**self.known_processes(), child.name: [child.process.pid, birth_of(child.process.pid)]}
        write_private(self.data / "processes.json", json.dumps(known))

    def step(self, name: str, *words: str) -> None:
        """Run a management command to its end."""
        log = self.logs / f"{name}.log"
        task = Child(name, python(str(BASE_DIR / "manage.py"), *words), log, ONE_THREAD)
        self.say(f"{name}: manage.py {' '.join(words)}")
        self.spawn(task)
        assert task.process is not None
        try:
            self.wait_for(task.has_ended, f"manage.py {words[0]} (log: {log})", STEP_SECONDS[name])
        finally:
            if not task.has_ended():
                task.kill()
            self.show_logs()
        if task.process.returncode != 0:
            ended = how_it_ended(task.process.returncode)
            raise LocalServiceError(f"manage.py {words[0]} {ended}. {log} ends:\n{last_lines(log, 20)}")

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 2)

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold the data folder's lock, which the system takes back even from a supervisor that was killed."""
        with (self.data / "up.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                url = read_endpoints(self.data).get("web_url")
                raise AlreadyRuns(
                    f"Steersman already runs at {url}/" if url else "Steersman is already being started or stopped"
                ) from None
            yield

    @contextmanager
    def signals_heard(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM become a wish, looked at between two steps; the second one means: at once."""

        def hear(number: int, frame: FrameType | None) -> None:
            self.stop_signals += 1

        kept = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def known_processes(self) -> dict[str, list[Any]]:
        try:
            found: dict[str, list[Any]] = json.loads((self.data / "processes.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def end_survivors(self) -> None:
        """End what a supervisor that was killed has left running; the process ids are checked against their births."""
        write_endpoints(self.data, web_url=None)
        for name, (pid, birth) in reversed(self.known_processes().items()):
            if is_running(pid) and birth_of(pid) == birth:
                self.say(f"{name} was left running by a supervisor that was killed; ending it")
                end_process(pid, (signal.SIGTERM, 15.0), group=name != "worker-train")
        (self.data / "processes.json").unlink(missing_ok=True)
        if self.broker is not None:
            valkey.stop_server(self.broker.home)
        if self.postgres is not None:
            postgres.stop_server(self.postgres.data)

    def stop_children(self) -> None:
        """Ask all to stop, last started first, then wait; a second Ctrl-C, or too long a wait, kills."""
        signals_before = self.stop_signals
        waiting = [child for child in reversed(self.children) if child.process is not None]
        for child in waiting:
            child.ask_to_stop()
        begun, told = time.monotonic(), False
        while waiting:
            self.show_logs()
            passed = time.monotonic() - begun
            for child in list(waiting):
                if child.has_ended():
                    waiting.remove(child)
                elif passed > child.stop_seconds or self.stop_signals > signals_before:
                    self.say(f"{child.name} is killed" + (f" after {passed:.0f} s" if passed > 1 else ""))
                    child.kill()
            if passed > 3 and waiting and not told:
                told = True
                self.say(f"waiting for {', '.join(child.name for child in waiting)}; Ctrl-C again ends at once")
            time.sleep(0.03)

    def stop(self) -> None:
        """Stop everything in reverse order; PostgreSQL last, and fast."""
        write_endpoints(self.data, web_url=None)
        if self.listener is not None:
            self.listener.close()  # the web process has it still; once that has ended, callers are refused
        self.stop_children()
        connections.close_all()
        if self.broker is not None:
            self.broker.stop()
        if self.postgres is not None:
            self.postgres.stop()
        (self.data / "processes.json").unlink(missing_ok=True)
        self.show_logs()
        self.say("stopped; your data are kept in " + str(self.data))


def point_django_at(url: str) -> None:
    """Let this process use the database of ``url``, whatever the settings said when they were loaded."""
    connections["default"].close()
    database = connect_to_database(url)
    for name in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"):
        connections["default"].settings_dict[name] = settings.DATABASES["default"][name] = database[name]


def connection_answers() -> bool:
    try:
        connection.ensure_connection()
    except DatabaseError:
        return False
    return True


def migrations_wait() -> bool:
    """Whether a migration on disk is not in the database yet."""
    executor = MigrationExecutor(connection)
    waiting = bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    connection.close()
    return waiting


def describe_static_files() -> str:
    """A hash of every static file's path, size and time of change."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in sorted(finder.list([]), key=lambda found: str(found[0])):
            stat = os.stat(storage.path(name))
            digest.update(f"{storage.path(name)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def first_pair_is_there() -> bool:
    """Whether a rater who came now would be shown two answers to compare."""
    from webapp.feedback.models import Comparison, Slot

    try:
        found: bool = Slot.objects.filter(state=Slot.State.OPEN, comparison__kind=Comparison.Kind.PAIR).exists()
        return found
    except DatabaseError:
        return False


def ask_for_samples() -> None:
    """Ring for every project: a message sent while the sampler was still loading was answered too early."""
    from webapp import queue
    from webapp.projects.models import Project

    with suppress(DatabaseError):  # the clock asks again within seconds
        for project in Project.objects.values_list("pk", flat=True):
            queue.refill(project)
    connection.close()


def make_login_link(url: str) -> str:
    """A link that logs the first admin in once; the admin is made, without a password, if there is none."""
    from webapp.accounts.models import User
    from webapp.accounts.services import create_login_link, ensure_admin

    admin = User.objects.filter(is_staff=True, is_active=True).order_by("date_joined").first() or ensure_admin()
    path = reverse("accounts:link", args=[create_login_link(user=admin)])
    connection.close()
    return url + path


def stream_for(check: bool) -> IO[str]:
    """With --check the standard output is for the one line of JSON, so the log goes beside it."""
    return sys.stderr if check else sys.stdout
