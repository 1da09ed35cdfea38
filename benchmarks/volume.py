"""The queue of a large project: ``python -m benchmarks.volume [--items 100000]``; JSON out.

A project of 100,000 pairs, each rated ten times, with one more rating wanted of each: a million ratings by 21 raters,
made inside PostgreSQL in a minute or two. Then

- what a rater's acts ask of the database is explained: goal: no large table is read from end to end. ``rater`` is one
  of the 21, with 47,000 ratings; ``newcomer`` has none; ``leader`` has judged the first 2,000 pairs, and the open slots
  of all of them stand before the one that is next;
- raters judge over HTTP, 30 a second by a Poisson clock, as ``benchmarks.feedback steady`` does on a small project.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

from benchmarks.feedback import Client, percentiles, positive, steady_result
from benchmarks.feedback_project import make_project, make_sessions
from benchmarks.studio import studio

RATERS = 21
PER_ITEM = 10
LEAD = 2000
LARGE = ("feedback_sample", "feedback_comparison", "feedback_slot", "feedback_presentation", "feedback_rating")

# A row's id tells its table and number: no join is needed to point at it. uuid7 has the same shape.
FUNCTION = """
CREATE FUNCTION pg_temp.numbered(kind int, number bigint) RETURNS uuid IMMUTABLE LANGUAGE sql AS
$$ SELECT (lpad(to_hex(number), 12, '0') || '7000' || '8000' || lpad(to_hex(kind), 12, '0'))::uuid $$
"""
ROWS = (
    """
INSERT INTO projects_prompt (id, project_id, text, sha256, split, priority, source, turns, created_at)
SELECT pg_temp.numbered(0, n), %(project)s, 'Opening number ' || n, encode(sha256(n::text::bytea), 'hex'), 'train', 0,
       'benchmark', '[]', now()
FROM generate_series(1, %(items)s) AS n
""",
    """
INSERT INTO feedback_sample (id, prompt_id, checkpoint_id, sampling_id, seed, prompt_tokens, tokens, text, text_sha256,
                             finish_reason, log_prob, created_at)
SELECT pg_temp.numbered(1, 2 * n + side), pg_temp.numbered(0, n), %(checkpoint)s, %(sampling)s, side, '{1,5}', '{7,2}',
       repeat('Answer ' || side || ' to opening number ' || n || '. ', 8), md5(n || ' ' || side), 'end', -3, now()
FROM generate_series(1, %(items)s) AS n, generate_series(0, 1) AS side
""",
    """
INSERT INTO feedback_comparison (id, project_id, prompt_id, kind, first_id, second_id, priority, created_at)
SELECT pg_temp.numbered(2, n), %(project)s, pg_temp.numbered(0, n), 'pair', pg_temp.numbered(1, 2 * n),
       pg_temp.numbered(1, 2 * n + 1), 0, now()
FROM generate_series(1, %(items)s) AS n
""",
    # Raters n + 1, n + 2 ... (modulo their number) have judged item n; the leader is one of those of the first items.
    """
INSERT INTO feedback_slot (comparison_id, project_id, ordinal, priority, state, rater_id, token)
SELECT pg_temp.numbered(2, n), %(project)s, j, 0,
       CASE WHEN j > %(per_item)s THEN 'open' ELSE 'done' END,
       CASE WHEN j > %(per_item)s THEN NULL
            WHEN j = 1 AND n <= %(lead)s THEN %(leader)s
            ELSE (%(raters)s::uuid[])[1 + (n + j) %% cardinality(%(raters)s::uuid[])] END,
       gen_random_uuid()
FROM generate_series(1, %(items)s) AS n, generate_series(1, %(per_item)s + 1) AS j
ORDER BY n, j
""",
    """
INSERT INTO feedback_presentation (id, slot_id, rater_id, token, first_is_left, "order", shown_at)
SELECT pg_temp.numbered(3, slot.id), slot.id, slot.rater_id, slot.token, slot.id %% 2 = 0, '{}',
       now() - make_interval(secs => 5 * (last - slot.id))
FROM feedback_slot AS slot, (SELECT max(id) AS last FROM feedback_slot) AS newest
WHERE slot.project_id = %(project)s AND slot.state = 'done'
""",
    """
INSERT INTO feedback_rating (id, project_id, comparison_id, slot_id, presentation_id, rater_id, submission_id, revision,
                             is_current, verdict, both_bad, details, flags, reason, source, counts_toward_overlap,
                             active_ms, created_at)
SELECT pg_temp.numbered(4, slot.id), slot.project_id, slot.comparison_id, slot.id, pg_temp.numbered(3, slot.id),
       slot.rater_id, gen_random_uuid(), 1, true, slot.id %% 7 - 3, false, '{}', '{}', '', 'human', true,
       4000, now() - make_interval(secs => 5 * (last - slot.id))
FROM feedback_slot AS slot, (SELECT max(id) AS last FROM feedback_slot) AS newest
WHERE slot.project_id = %(project)s AND slot.state = 'done'
""",
)


def fill(
    project: Any, *, items: int, raters: Sequence[UUID], leader: UUID, lead: int, per_item: int = PER_ITEM
) -> None:
    """Give ``project``, which must have one checkpoint, ``items`` pairs, each with an open slot and so many ratings.

    Args:
        per_item: ratings of each pair.
        raters: who has rated, by turns; more than ``per_item``, so that nobody has judged a pair twice.
        leader: one more, who has judged the first ``lead`` pairs and no other.

    Raises:
        ValueError: there are too few raters.
    """
    from django.db import connection, transaction

    from rlhf_core.config import SamplingConfig
    from webapp.registry.services import sampling_settings

    if len(raters) <= per_item:
        raise ValueError(
            f"{len(raters)} raters cannot give {per_item} ratings to each pair by turns: {per_item + 1} or more can"
        )
    values = {
        "project": project.pk,
        "checkpoint": project.checkpoints.get().pk,
        "sampling": sampling_settings(SamplingConfig()).pk,
        "items": items,
        "per_item": per_item,
        "raters": list(raters),
        "leader": leader,
        "lead": lead,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # the rows point where they should: no checks
        cursor.execute(FUNCTION)
        for rows in ROWS:
            cursor.execute(rows, values)
        cursor.execute("SET LOCAL session_replication_role = origin")
        cursor.execute("DROP FUNCTION pg_temp.numbered")
    with connection.cursor() as cursor:
        for table in LARGE:
            cursor.execute(f"ANALYZE {table}")


def explain(act: Callable[[], Any]) -> list[dict[str, Any]]:
    """The plans of all reading and updating that ``act`` asks of the database, run once more; nothing is kept.

    Each has PostgreSQL's ``Plan`` and ``Execution Time`` (ms), and the ``Statement``.
    """
    from django.db import connection, transaction
    from django.test.utils import CaptureQueriesContext

    with transaction.atomic():
        with CaptureQueriesContext(connection) as queries:
            act()
        transaction.set_rollback(True)
    plans = []
    for query in queries.captured_queries:
        statement = query["sql"]
        if statement.split()[0] not in ("SELECT", "UPDATE", "WITH") or "pg_advisory" in statement:
            continue
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement.replace("%", "%%"), [])
            plans.append({**cursor.fetchone()[0][0], "Statement": statement})
            transaction.set_rollback(True)
    return plans


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes of a plan."""
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def read_whole(plans: Sequence[dict[str, Any]]) -> list[str]:
    """The large tables that are read from end to end."""
    every = [node for plan in plans for node in nodes(plan["Plan"])]
    return [
        node["Relation Name"] for node in every if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE
    ]


def rows_seen(plans: Sequence[dict[str, Any]]) -> int:
    """How many rows were taken out of tables or their indexes, be they kept or left out by a filter."""
    every = [node for plan in plans for node in nodes(plan["Plan"])]
    looks = [
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in every
        if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node)
    ]
    return round(sum(looks))


def acts_of(project: Any, rater: Any) -> dict[str, Callable[[], Any]]:
    """What a rater does again and again, each from the state before it."""
    from webapp.feedback import selectors
    from webapp.feedback.services import claim, release_all, submit

    def fetch_ahead() -> None:
        claim(rater=rater, project=project, beside=[claimed().token])

    def judge() -> None:
        shown = claimed()
        submit(rater=rater, project=project, token=shown.token, submission_id=uuid4(), choice="4")

    def claimed() -> Any:
        shown = claim(rater=rater, project=project)
        if shown is None:
            raise RuntimeError(f"nothing is left for {rater} in {project}")
        return shown

    return {
        "claim": claimed,
        "ahead": fetch_ahead,
        "judge": judge,
        "show": lambda: selectors.shown(claimed(), project),
        "count_today": lambda: selectors.rated_today(rater, project),
        "undo": lambda: selectors.act_before(rater, project),
        "pause": lambda: release_all(rater=rater, project=project),
    }


def sum_up(plans: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ms": round(sum(plan["Execution Time"] for plan in plans), 2),
        "rows_seen": rows_seen(plans),
        "read_whole": read_whole(plans),
    }


def time_claims(project: Any, rater: Any, count: int = 100) -> dict[str, float]:
    """Milliseconds of a claim, from Python to Python; each is undone."""
    from django.db import transaction

    from webapp.feedback.services import claim

    seconds = []
    for _ in range(count):
        with transaction.atomic():
            begun = time.perf_counter()
            claim(rater=rater, project=project)
            seconds.append(time.perf_counter() - begun)
            transaction.set_rollback(True)
    return percentiles(seconds)


def measure(url: str, *, items: int, rate: float, seconds: float) -> dict[str, Any]:
    """Fill a project, explain what its raters ask of the database, and let them rate over HTTP."""
    from webapp.accounts.models import User
    from webapp.feedback.models import Rating, Slot

    project = make_project("volume", items=1, overlap=PER_ITEM + 1)
    Slot.objects.filter(project=project).update(state=Slot.State.VOID)  # else everybody's next item is that one pair
    sessions = make_sessions(project, RATERS + 2)
    raters = list(User.objects.filter(memberships__project=project, memberships__role="rater").order_by("date_joined"))
    people = {"rater": raters[0], "leader": raters[-2], "newcomer": raters[-1]}
    begun = time.monotonic()
    fill(
        project,
        items=items,
        raters=[rater.pk for rater in raters[:RATERS]],
        leader=people["leader"].pk,
        lead=min(LEAD, items),
    )
    filled = time.monotonic() - begun
    explained = {
        name: {act: explain(does) for act, does in acts_of(project, person).items()} for name, person in people.items()
    }
    clients = [Client(url, project.slug, session) for session in sessions[:RATERS]]
    return {
        "items": items,
        "ratings": Rating.objects.filter(project=project).count(),
        "seconds_to_fill": round(filled, 1),
        "tables_read_whole": sum(len(read_whole(plans)) for acts in explained.values() for plans in acts.values()),
        "acts": {name: {act: sum_up(plans) for act, plans in acts.items()} for name, acts in explained.items()},
        "claim": {name: time_claims(project, person) for name, person in people.items()},
        "steady": steady_result(clients, rate=rate, seconds=seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rate", type=positive, default=30.0, help="verdicts a second")
    parser.add_argument("--seconds", type=positive, default=60.0, help="how long they arrive")
    given = parser.parse_args()
    if given.items < 1:
        parser.error(f"--items {given.items}: must be 1 or more")
    with studio() as url:
        print(json.dumps(measure(url, items=given.items, rate=given.rate, seconds=given.seconds), indent=1))


if __name__ == "__main__":
    main()
