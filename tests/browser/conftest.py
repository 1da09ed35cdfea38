"""What all browser tests share."""

import time
from collections.abc import Iterator

import pytest
from django.db import connection
from playwright.sync_api import BrowserContext, expect
from pytest_django.live_server_helper import LiveServer

from benchmarks.rating_watch import WATCH
from tests.studio import Studio, open_studio

expect.set_options(timeout=15_000)  # a page of a busy machine is slow, not wrong
REQUEST_SECONDS = 5.0
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND (state = 'active' OR clock_timestamp() - state_change < interval '150 ms')
"""


@pytest.fixture(autouse=True)
def requests_end_first(transactional_db: None) -> Iterator[None]:
    """A verdict outlives the page that sent it; its request must end before the tables are emptied."""
    yield
    end = time.monotonic() + REQUEST_SECONDS
    with connection.cursor() as cursor:
        while time.monotonic() < end:
            cursor.execute(OTHERS)
            if cursor.fetchone() == (0,):
                return
            time.sleep(0.05)


@pytest.fixture
def studio(transactional_db: None) -> Studio:
    """A project with one rater, ada, and nothing to rate yet."""
    studio = open_studio()
    studio.add_rater("ada")
    return studio


@pytest.fixture
def address(live_server: LiveServer, studio: Studio) -> str:
    """Of the rater page."""
    return f"{live_server.url}/p/{studio.project.slug}/rate/"


@pytest.fixture
def watched(context: BrowserContext) -> BrowserContext:
    """A browser whose pages count what moves, how long a key waits, and whether a pointer was used."""
    context.add_init_script(WATCH)
    return context
