"""Locks in the database by which one of several workers does a job, and the others leave it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def try_lock(name: str) -> Iterator[bool]:
    """Hold the lock ``name`` if nobody else does; yields whether it was had. A lost connection gives it back.

    It belongs to the connection, not to a transaction: the work under it may take many short transactions.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        had = bool(cursor.fetchone()[0])
    try:
        yield had
    finally:
        if had and connection.connection is not None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])
