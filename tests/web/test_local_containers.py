"""What the containers of docker-compose.yml start beside the studio itself: passwords, and the look at its health."""

import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from django.test import Client

from webapp.local.endpoints import free_port
from webapp.local.health import answers, known_name
from webapp.local.passwords import write_passwords

ROOT = Path(__file__).parents[2]


def texts_in(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_passwords_are_drawn_once_and_only_their_owner_may_read_them(tmp_path):
    secrets, broker = tmp_path / "secrets", tmp_path / "broker"
    words = [sys.executable, "-m", "webapp.local.passwords", str(secrets), str(broker)]
    subprocess.run(words, cwd=ROOT, check=True)
    first = texts_in(secrets) | texts_in(broker)
    subprocess.run(words, cwd=ROOT, check=True)
    assert texts_in(secrets) | texts_in(broker) == first
    database, broker_password = first["database_password"].strip(), first["broker_password"].strip()
    assert (len(database), len(broker_password), len(first["secret_key"].strip())) == (40, 40, 64)
    assert database != broker_password
    assert first["database_url"] == f"postgresql://steersman:{database}@db:5432/steersman\n"
    assert first["broker_url"] == f"redis://:{broker_password}@broker:6379/0\n"
    assert first["password.conf"] == f"requirepass {broker_password}\n"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*/*")} == {0o600}


def test_the_broker_is_told_no_other_password(tmp_path):
    write_passwords(tmp_path / "secrets", tmp_path / "broker")
    assert [path.name for path in (tmp_path / "broker").iterdir()] == ["password.conf"]


@pytest.fixture
def server():
    """A server whose next answer has the status ``server.status``; it notes by which host name it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.server.hosts.append(self.headers["Host"])
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(b"database does not answer\n")

        def log_message(self, *_):
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.status, found.hosts = 200, []
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (301, 1), (503, 1)])
def test_only_an_answer_of_200_counts_as_well(server, status, exit_code):
    server.status = status
    url = f"http://127.0.0.1:{server.server_port}/healthz"
    said = subprocess.run(
        [sys.executable, "-m", "webapp.local.health", url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == exit_code
    assert (str(status) in said.stderr) is (exit_code == 1)


def test_a_server_that_is_not_there_is_named():
    url = f"http://127.0.0.1:{free_port()}/healthz"
    assert "refused" in answers(url)


@pytest.mark.parametrize(
    ("allowed", "name"),
    [("", "localhost"), ("*", "localhost"), ("a.example.org,b", "a.example.org"), (".example.org", "example.org")],
)
def test_the_pages_are_asked_by_a_name_that_they_answer_to(server, monkeypatch, allowed, name):
    monkeypatch.setenv("ALLOWED_HOSTS", allowed)
    assert known_name() == name
    assert answers(f"http://127.0.0.1:{server.server_port}/healthz") is None
    assert server.hosts == [name]


def test_where_all_pages_go_by_https_the_machine_itself_may_ask_for_its_health_without(db, settings):
    settings.SECURE_SSL_REDIRECT = True
    assert Client().get("/healthz").status_code == 200
    assert Client().get("/").status_code == 301
