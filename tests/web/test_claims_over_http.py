"""Many raters at once, over HTTP against the web process; and that what counts their faults would see one."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import connection

from benchmarks.feedback import Client, count_faults, exact, run_arrivals
from benchmarks.feedback_project import make_project, make_sessions
from webapp.feedback.models import Presentation, Rating
from webapp.feedback.modes import MODES
from webapp.feedback.services import claim, submit
from webapp.local.children import Child, python
from webapp.local.endpoints import free_port, wait_until
from webapp.local.listening import page_answers


@pytest.fixture
def web_url(process_environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of a web process of this test's own; its raters ask for fragments, so no static file is needed."""
    port = free_port()
    child = Child(
        "web",
        python("-m", "uvicorn", "webapp.asgi:application", "--port", str(port), "--log-level", "warning"),
        tmp_path / "web.log",
        {**process_environment, "SECRET_KEY": settings.SECRET_KEY, "STEERSMAN_ROLE": "web"},
        answers=lambda child: page_answers("127.0.0.1", port),
    )
    try:
        child.start()
        assert wait_until(lambda: child.has_ended() or child.answers(child), seconds=60), child.log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        child.ask_to_stop()
        if not wait_until(child.has_ended, seconds=15):
            child.kill()


@pytest.mark.slow
def test_64_clients_without_pause_give_each_wanted_rating_once_and_a_steady_stream_is_answered(web_url):
    found = exact(web_url, ratings=160, clients=64, tabs=2, seconds=60, is_mixed=True)
    assert found["errors"] == []
    assert {name: found[name] for name in ("wanted", "counted", "overshoot", "duplicates", "lost")} == {
        "wanted": 160,
        "counted": 160,
        "overshoot": 0,
        "duplicates": 0,
        "lost": 0,
    }
    assert found["refused"] > 0, "two tabs of a rater stood before the same item"
    assert set(found["by_mode"]) == set(MODES)
    assert sum(found["by_mode"].values()) == 160
    mixed = Rating.objects.filter(project__slug="exact-mixed")
    assert mixed.filter(details__has_key="axes").exists()
    assert mixed.filter(details__has_key="evidence").exists()
    assert mixed.filter(details__has_key="text").exists()
    assert mixed.exclude(flags=[]).exclude(reason="").exists()

    project = make_project("steady", items=60, overlap=1)
    clients = [Client(web_url, project.slug, session) for session in make_sessions(project, 8)]
    tally = run_arrivals(clients, rate=20, seconds=2)
    assert tally.errors == []
    assert 20 < len(tally.seconds) < 60  # a Poisson clock: 40, give or take 6.3
    assert all(seen >= took for seen, took in zip(tally.seconds, tally.server_seconds, strict=True))
    assert count_faults(project, tally.acknowledged) == {
        "claims": len(tally.seconds) + 8,
        "counted": len(tally.seconds),
        "overshoot": 0,
        "duplicates": 0,
        "lost": 0,
    }


def test_a_rating_too_many_one_given_twice_and_one_lost_are_counted(studio):
    project = studio.ready_project(overlap=2)
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    said = []
    for choice in "26":
        shown = claim(rater=rater, project=project)
        submit(rater=rater, project=project, token=shown.token, submission_id=uuid4(), choice=choice)
        said.append((str(shown.token), {"choice": choice}))
    good = {"claims": 2, "counted": 2, "overshoot": 0, "duplicates": 0, "lost": 0}
    assert count_faults(project, said) == good
    turned = {"2": "6", "6": "2"}
    other_side = [(token, {"choice": turned[sent["choice"]]}) for token, sent in said]
    assert count_faults(project, other_side) == {**good, "lost": 2}
    with_a_word = [(token, {**sent, "reason": "dull"}) for token, sent in said]
    assert count_faults(project, with_a_word) == {**good, "lost": 2}

    late = Presentation.objects.create(
        slot=shown.slot, rater=studio.rater(project), token=uuid4(), first_is_left=True, guideline=None
    )
    assert count_faults(project, [*said, (str(late.token), {"choice": "1"})]) == {**good, "claims": 3, "lost": 1}

    with connection.cursor() as cursor:  # what the tables would refuse
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE feedback_rating DROP CONSTRAINT one_rating_a_revision")
        cursor.execute("DROP INDEX one_current_rating_a_rater")
    stored = Rating.objects.get(presentation=shown)
    for _ in range(2):
        stored.pk, stored.submission_id = uuid4(), uuid4()
        stored.save(force_insert=True)
    assert count_faults(project, said) == {**good, "claims": 3, "counted": 4, "overshoot": 1, "duplicates": 1}
