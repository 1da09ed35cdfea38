"""Fixtures for every test: a real PostgreSQL and a real broker of our own launcher, started when the first test asks.

The process that began the test session owns them. Under ``pytest -n`` the workers share the two servers, each with a
database of its own. A session that was killed leaves a folder behind, which the next one finds and clears away.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
    os.environ.setdefault(threads, "false" if threads == "TOKENIZERS_PARALLELISM" else "1")
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")  # playwright keeps an event loop in the test's thread

import pytest  # noqa: E402
from django.conf import settings  # noqa: E402

from webapp.local import postgres, valkey  # noqa: E402
from webapp.local.endpoints import read_endpoints, write_endpoints  # noqa: E402

SERVICES = "STEERSMAN_TEST_SERVICES"  # the folder of this session's servers, for the workers of pytest -n
PREFIX = "steersman-tests-"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on ``path``; yields whether it was had."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield True


def clear_away(folder: Path) -> None:
    """Stop the servers of a session's folder and remove it."""
    postgres.stop_server(folder / "postgres" / "data")
    valkey.stop_server(folder / "valkey")
    shutil.rmtree(folder, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    config.addinivalue_line("markers", "browser: drives Chromium; left out by BROWSER=0")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # argon2 is slow on purpose
    settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
    if hasattr(config, "workerinput"):
        return
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), locked(left / "session.lock", wait=False) as had:
            if had:
                clear_away(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    os.environ[SERVICES] = str(folder)
    config._steersman_lock = (folder / "session.lock").open("a")  # type: ignore[attr-defined]
    fcntl.flock(config._steersman_lock, fcntl.LOCK_EX)  # type: ignore[attr-defined]
    data = folder / "data"
    data.mkdir()
    settings.STEERSMAN_DATA, settings.CHECKPOINT_STORE, settings.RUN_DIRECTORIES = (
        data,
        data / "checkpoints",
        data / "runs",
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    lock = getattr(config, "_steersman_lock", None)
    if lock is not None:
        clear_away(Path(os.environ.pop(SERVICES)))
        lock.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever lives in tests/browser drives Chromium; BROWSER=0 leaves it out, and the closing lines say so."""
    for item in items:
        if "browser" in Path(item.path).relative_to(config.rootpath).parts:
            item.add_marker("browser")
    if os.environ.get("BROWSER") == "0":
        left_out = [item for item in items if item.get_closest_marker("browser")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config._steersman_left_out = len(left_out)  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if os.environ.get("BROWSER") == "0":
        terminalreporter.write_line("BROWSER=0: the browser tests were left out.", yellow=True)


# --- Servers ---------------------------------------------------------------------------------------------------------


def services_folder() -> Path:
    return Path(os.environ[SERVICES])


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """The URL of this session's PostgreSQL server."""
    folder = services_folder()
    with locked(folder / "start.lock"):
        url = read_endpoints(folder).get("database_url")
        if url is None:
            server = postgres.EmbeddedPostgres(folder / "postgres", durable=False)
            url = server.start()
            write_endpoints(folder, database_url=url)
    return str(url)


@pytest.fixture(scope="session")
def broker_url() -> str:
    """The URL of this session's broker; workers of ``pytest -n`` get a database number each."""
    folder = services_folder()
    with locked(folder / "start.lock"):
        url = read_endpoints(folder).get("broker_url")
        if url is None:
            url = valkey.EmbeddedValkey(folder / "valkey").start()
            write_endpoints(folder, broker_url=url)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(worker.removeprefix("gw")) + 1 if worker else 0
    settings.BROKER_URL = f"{str(url).rpartition('/')[0]}/{number}"
    return settings.BROKER_URL


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_url: str, django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Point Django at this session's server; pytest-django then makes the test database on it."""
    from django.db import connections

    from webapp.settings import connect_to_database

    for name, value in connect_to_database(postgres_url).items():
        if name not in ("TEST", "OPTIONS"):
            connections["default"].settings_dict[name] = settings.DATABASES["default"][name] = value


@pytest.fixture
def process_environment(transactional_db: None, broker_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment for a process of ours (``sys.executable manage.py ...``) on this test's database and broker."""
    from django.db import connection

    database = connection.settings_dict
    url = (
        f"postgresql://{database['USER']}:{database['PASSWORD']}"
        f"@{database['HOST']}:{database['PORT']}/{database['NAME']}"
    )
    return {
        **os.environ,
        "DATABASE_URL": url,
        "BROKER_URL": broker_url,
        "STEERSMAN_DATA": str(tmp_path / "steersman"),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def steersman_data(tmp_path: Path, settings: Any) -> Path:
    """A data folder of this test's own: checkpoints, run directories, logs."""
    settings.STEERSMAN_DATA = tmp_path / "steersman"
    settings.CHECKPOINT_STORE = settings.STEERSMAN_DATA / "checkpoints"
    settings.RUN_DIRECTORIES = settings.STEERSMAN_DATA / "runs"
    settings.CHECKPOINT_STORE.mkdir(parents=True)
    settings.RUN_DIRECTORIES.mkdir()
    return Path(settings.STEERSMAN_DATA)


# --- Browser ---------------------------------------------------------------------------------------------------------


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """Debian's Chromium, without what needs a network or a graphics card. Without Chromium the test fails, by name."""
    chromium = find_chromium()
    if chromium is None:
        pytest.fail("Chromium is missing: apt-get install -y chromium (or BROWSER=0 to leave the browser tests out)")
    return {**browser_type_launch_args, "executable_path": chromium, "args": CHROMIUM_ARGUMENTS}
