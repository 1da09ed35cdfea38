"""What the settings make of the environment; each case in a fresh interpreter, since settings are read once."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from webapp.local.temporary import environment_of

ROOT = Path(__file__).parents[2]
STRONG = "kV3x9mQ2-pLr8sWtZ5yB7nC1dF4gH6jK0aE_uXoIiRzTqYwMhNb"
OURS = (
    "DJANGO_ALLOW_ASYNC_UNSAFE",
    "DATABASE_URL",
    "BROKER_URL",
    "SECRET_KEY",
    "ALLOWED_HOSTS",
    "DEBUG",
    "STEERSMAN_ROLE",
    "USE_HTTPS",
    "BEHIND_PROXY",
)
TELL = """
import json
from django.conf import settings
print(json.dumps({name: getattr(settings, name, None) for name in
    ("SECRET_KEY", "DATABASES", "BROKER_URL", "SESSION_COOKIE_SECURE", "SECURE_SSL_REDIRECT", "SECURE_HSTS_SECONDS",
     "DEBUG", "ALLOWED_HOSTS", "SECURE_PROXY_SSL_HEADER")}, default=str))
"""


def run(*words, data, **environment):
    kept = {key: value for key, value in os.environ.items() if key not in OURS}
    kept |= {"DJANGO_SETTINGS_MODULE": "webapp.settings", "STEERSMAN_DATA": str(data), **environment}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=kept, capture_output=True, text=True, check=False)


def settings_with(data, **environment):
    said = run("-c", TELL, data=data, **environment)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_nothing_set_means_this_machine_with_a_secret_of_its_own(tmp_path):
    found = settings_with(tmp_path)
    assert found["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1", "[::1]"]
    assert found["DEBUG"] is found["SESSION_COOKIE_SECURE"] is False
    assert len(found["SECRET_KEY"]) == 64
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
    assert settings_with(tmp_path)["SECRET_KEY"] == found["SECRET_KEY"]


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "SECRET_KEY is not set"), ("short", "weak"), ("x" * 60, "weak"), (f"django-insecure-{STRONG}", "weak")],
)
def test_a_public_server_refuses_to_start_without_a_strong_key(tmp_path, key, words):
    said = run("-c", TELL, data=tmp_path, ALLOWED_HOSTS="steersman.example.org", SECRET_KEY=key)
    assert said.returncode != 0
    assert words in said.stderr
    assert not (tmp_path / "secret_key").exists()


def test_a_public_server_speaks_https_only_and_trusts_no_header_unasked(tmp_path):
    found = settings_with(tmp_path, ALLOWED_HOSTS="steersman.example.org", SECRET_KEY=STRONG)
    assert found["SESSION_COOKIE_SECURE"] is found["SECURE_SSL_REDIRECT"] is True
    assert found["SECURE_HSTS_SECONDS"] == 31_536_000
    assert found["SECURE_PROXY_SSL_HEADER"] is None
    assert found["SECRET_KEY"] == STRONG


def test_a_public_server_passes_every_deployment_check(tmp_path):
    (tmp_path / "static").mkdir()
    environment = {"ALLOWED_HOSTS": "steersman.example.org", "SECRET_KEY": STRONG}
    said = run("manage.py", "check", "--deploy", "--fail-level", "WARNING", data=tmp_path, **environment)
    assert said.returncode == 0, said.stderr
    assert "no issues" in said.stdout


def test_servers_of_ones_own_win_over_the_embedded_ones(tmp_path):
    (tmp_path / "endpoints.json").write_text(
        '{"database_url": "postgresql://a:b@h:1/d", "broker_url": "redis://h:2/0"}'
    )
    embedded = settings_with(tmp_path)
    assert embedded["DATABASES"]["default"]["HOST"] == "h"
    assert embedded["BROKER_URL"] == "redis://h:2/0"
    own = settings_with(tmp_path, DATABASE_URL="postgresql://me:p%40ss@db:5433/name", BROKER_URL="redis://other:3/1")
    database = own["DATABASES"]["default"]
    assert (database["HOST"], database["PORT"], database["NAME"], database["PASSWORD"]) == ("db", 5433, "name", "p@ss")
    assert own["BROKER_URL"] == "redis://other:3/1"


def test_secrets_may_come_from_files_with_an_end_of_line(tmp_path):
    values = {"DATABASE_URL": "postgresql://me:word@db:5433/name", "BROKER_URL": "redis://h:3/1", "SECRET_KEY": STRONG}
    environment = {"ALLOWED_HOSTS": "steersman.example.org"}
    for name, value in values.items():
        (tmp_path / name).write_text(value + "\n")
        environment[f"{name}_FILE"] = str(tmp_path / name)
    found = settings_with(tmp_path, **environment)
    assert found["DATABASES"]["default"]["NAME"] == "name"
    assert (found["BROKER_URL"], found["SECRET_KEY"]) == ("redis://h:3/1", STRONG)


WITH_ENV_FILE = """
import environ
read = environ.Env.read_env
environ.Env.read_env = classmethod(lambda cls, path: read({path!r}))
"""


def test_a_temporary_studio_is_not_led_to_another_by_environment_or_env_file(tmp_path):
    for name, value in [("elsewhere", "redis://h:3/1"), ("key", STRONG), ("folder", "/elsewhere")]:
        (tmp_path / name).write_text(value)
    database, broker = "postgresql://me:word@db:5433/real", str(tmp_path / "elsewhere")
    (tmp_path / ".env").write_text(
        f"DATABASE_URL_FILE={tmp_path}/missing\nBROKER_URL={broker}\nBROKER_URL_FILE={broker}\n"
        f"SECRET_KEY_FILE={tmp_path}/key\nSTEERSMAN_DATA_FILE={tmp_path}/folder\n"
        "PUBLIC_URL=https://steersman.example.org\nHEARTBEAT_FILE=/elsewhere\nALLOWED_HOSTS=steersman.example.org\n"
    )
    told = TELL.replace('("SECRET_KEY",', '("STEERSMAN_DATA", "PUBLIC_URL", "HEARTBEAT_FILE", "SECRET_KEY",')
    code = WITH_ENV_FILE.format(path=str(tmp_path / ".env")) + told
    data = tmp_path / "data"
    said = run("-c", code, data=data, **{"DATABASE_URL": database, **environment_of(data)})
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert (found["STEERSMAN_DATA"], found["PUBLIC_URL"], found["HEARTBEAT_FILE"]) == (str(data), "", "")
    assert found["DATABASES"]["default"]["HOST"] == "127.0.0.1"
    assert found["BROKER_URL"] == "redis://127.0.0.1:1/0"
    assert found["ALLOWED_HOSTS"] == ["localhost", "127.0.0.1"]
    assert found["SECRET_KEY"] == (data / "secret_key").read_text().strip() != STRONG


@pytest.mark.parametrize(
    ("role", "statement", "pooled"), [("web", "5s", True), ("worker", "60s", False), ("command", "0", False)]
)
def test_each_kind_of_process_has_its_time_outs(tmp_path, role, statement, pooled):
    options = settings_with(tmp_path, STEERSMAN_ROLE=role)["DATABASES"]["default"]["OPTIONS"]
    assert f"statement_timeout={statement} " in options["options"]
    assert ("pool" in options) is pooled


def test_a_command_without_its_database_says_what_to_do(tmp_path):
    said = run("manage.py", "migrate", data=tmp_path)
    assert said.returncode == 1
    assert "Start it with ./manage.py up, or set DATABASE_URL" in said.stderr
    assert "Traceback" not in said.stderr
