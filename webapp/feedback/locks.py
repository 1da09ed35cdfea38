"""Locks that transactions take until they end, by name, and before they lock a slot.

A transaction of a rater locks one slot, and those that change many slots take ``lock_queue`` first. So none waits for
another that waits for it.
"""

import hashlib

from django.db import connection

from webapp.accounts.models import User
from webapp.projects.models import Project


def lock_rater(rater: User) -> None:
    """Let this rater's other tabs wait until the transaction ends."""
    lock(b"feedback.rater" + rater.pk.bytes)


def lock_queue(project: Project) -> None:
    """Let others who change many of the project's slots wait until the transaction ends; raters do not.

    Not the project's row: an import holds that for longer than a worker waits for a lock.
    """
    lock(b"feedback.queue" + project.pk.bytes)


def lock(name: bytes) -> None:
    digest = hashlib.sha256(name).digest()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int.from_bytes(digest[:8], "big", signed=True)])
