"""The periodic look at the runs: leases that ran out are taken back, and runs that wait are rung for."""

import logging
from uuid import UUID

from webapp import queue
from webapp.runs import leases
from workers.locks import try_lock

log = logging.getLogger(__name__)


def reap(*, ring: bool) -> list[UUID]:
    """Take back the runs of supervisors that fell silent; with ``ring``, ring for all that wait. Returns these.

    The run's row is the wish itself: a message that was lost, or never sent because the broker was away, is replaced
    here. One worker does this at a time; the others return at once.
    """
    with try_lock("workers.reap") as had:
        waiting = leases.reap() if had else []
        if waiting and ring:
            log.info("ringing for %d waiting run(s)", len(waiting))
            for run_id in waiting:
                queue.ring(run_id)
        return waiting
