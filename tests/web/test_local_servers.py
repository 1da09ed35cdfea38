"""The launchers of PostgreSQL and Valkey: first start, restart, what a killed server leaves, ports that are taken."""

import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from webapp.local import postgres, valkey
from webapp.local.endpoints import free_port, read_endpoints, secret_in, write_endpoints
from webapp.local.postgres import EmbeddedPostgres
from webapp.local.process import LocalServiceError, is_running
from webapp.local.valkey import EmbeddedValkey


@pytest.fixture
def server(tmp_path):
    made = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    yield made
    made.stop()
    postgres.stop_server(made.data)


@pytest.fixture
def broker(tmp_path):
    made = EmbeddedValkey(tmp_path / "valkey")
    yield made
    made.stop()
    valkey.stop_server(made.home)


def rows(url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('kept')")
        return connection.execute("SELECT count(*) FROM kept").fetchone()[0]


def test_postgres_keeps_its_data_and_its_port_over_a_restart(server, tmp_path):
    first = server.start()
    assert rows(first) == 1
    server.stop()
    again = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        assert again.start(port=server.port) == first
        assert rows(first) == 2
    finally:
        again.stop()


def test_postgres_asks_for_its_password_and_nobody_else_may_read_it(server):
    url = server.start()
    wrong = url.replace(server.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    assert stat.S_IMODE((server.home / "password").stat().st_mode) == 0o600
    assert server.password not in Path(f"/proc/{server.process.pid}/cmdline").read_text()


def test_a_killed_postgres_comes_back_though_nobody_has_reaped_it(server, tmp_path):
    url = server.start()
    rows(url)
    server.process.send_signal(signal.SIGKILL)  # not waited for: a zombie that postmaster.pid still names
    assert (server.data / "postmaster.pid").exists()
    again = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        assert again.start(port=server.port) == url
        assert rows(url) == 2
    finally:
        again.stop()


def test_a_server_whose_launcher_was_killed_is_stopped_and_replaced(server, tmp_path):
    server.start()
    orphan = server.process.pid
    again = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        again.start(port=server.port)
        assert not is_running(orphan)
    finally:
        again.stop()


def test_a_lock_file_that_names_a_process_of_somebody_else_is_cleared_and_the_process_left_alone(server):
    server.start()
    server.stop()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (server.data / "postmaster.pid").write_text(f"{bystander.pid}\n{server.data}\n")
        server.start()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_postgres_moves_on_from_a_port_that_is_taken(server):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        server.start(port=taken)
    assert server.port != taken


def taken_before_it_starts(kind, doors):
    """``kind`` of a server whose port somebody takes after it was chosen and before the server binds it, once."""

    class Overtaken(kind):
        def spawn(self, *words):
            if not doors:
                doors.append(socket.create_server(("127.0.0.1", self.port)))
            super().spawn(*words)

    return Overtaken


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_port_that_is_taken_between_choosing_and_binding_is_given_up_for_another(kind, tmp_path):
    doors = []
    overtaken = taken_before_it_starts(kind, doors)(tmp_path / "server")
    wanted = free_port()
    try:
        url = overtaken.start(port=wanted)
        assert doors[0].getsockname()[1] == wanted != overtaken.port
        assert f":{overtaken.port}/" in url
        assert overtaken.answers()
    finally:
        overtaken.stop()
        for door in doors:
            door.close()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_two_servers_that_want_one_port_at_once_get_one_each_and_know_their_own(kind, tmp_path):
    wanted = free_port()
    servers = [kind(tmp_path / name) for name in ("one", "other")]
    try:
        with ThreadPoolExecutor() as pool:
            urls = list(pool.map(lambda server: server.start(port=wanted), servers))
        assert urls == [server.url for server in servers]
        assert servers[0].port != servers[1].port
        assert all(server.answers() for server in servers)
    finally:
        for server in servers:
            server.stop()


def test_postgres_names_the_cause_when_it_cannot_start(server):
    server.start()
    server.stop()
    (server.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(LocalServiceError, match=r"(?s)postgres\.log ends.*no_such_setting"):
        server.start()


def test_data_of_another_major_version_are_refused_by_name(server):
    server.start()
    server.stop()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(LocalServiceError, match="belong to PostgreSQL 9"):
        EmbeddedPostgres(server.home).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_user_namespaces_gets_a_server_in_a_folder_closed_to_others(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "postgres", durable=False, way_from_root="nobody")
    try:
        assert rows(server.start()) == 1
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        server.stop()
        if postgres.OPEN_PLACE in server.data.parents:
            subprocess.run(["rm", "-rf", str(server.data.parent)], check=True)


def test_missing_programs_are_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(postgres.shutil, "which", lambda name: None)
    monkeypatch.setattr(postgres.Path, "glob", lambda *_: iter(()))
    with pytest.raises(LocalServiceError, match=r"requirements/local\.txt.*PG_BIN.*DATABASE_URL"):
        postgres.find_programs()
    with pytest.raises(LocalServiceError, match=r"requirements/local\.txt.*VALKEY_BIN.*BROKER_URL"):
        valkey.find_program()


def test_the_broker_answers_only_to_its_password_and_keeps_its_port(broker):
    url = broker.start()
    port = broker.port
    assert broker.answers()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
    assert broker.password not in Path(f"/proc/{broker.process.pid}/cmdline").read_text()
    broker.stop()
    assert not broker.answers()
    assert broker.start(port=port) == url


def test_a_broker_whose_launcher_was_killed_is_stopped_and_replaced(broker, tmp_path):
    broker.start()
    orphan = broker.process.pid
    again = EmbeddedValkey(tmp_path / "valkey")
    try:
        again.start(port=broker.port)
        assert not is_running(orphan)
        assert again.answers()
    finally:
        again.stop()


def test_a_free_port_is_the_wanted_one_and_never_one_in_use():
    free = free_port()
    assert free_port(free) == free
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert free_port(other.getsockname()[1]) != other.getsockname()[1]


def test_endpoints_are_merged_and_private(tmp_path):
    write_endpoints(tmp_path, database_url="a", broker_url="b")
    write_endpoints(tmp_path, broker_url=None, web_url="c")
    assert read_endpoints(tmp_path) == {"database_url": "a", "web_url": "c"}
    assert stat.S_IMODE((tmp_path / "endpoints.json").stat().st_mode) == 0o600
    (tmp_path / "endpoints.json").write_text("{half")
    assert read_endpoints(tmp_path) == {}


def test_a_secret_is_made_once_and_kept(tmp_path):
    first = secret_in(tmp_path / "deep" / "secret")
    assert len(first) == 64
    assert secret_in(tmp_path / "deep" / "secret") == first
    assert stat.S_IMODE((tmp_path / "deep" / "secret").stat().st_mode) == 0o600
    (tmp_path / "empty").touch()
    assert len(secret_in(tmp_path / "empty", length=32)) == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty"]
