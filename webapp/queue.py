"""The doorbell: asks the workers for work by task name. The only place of the web app that knows Celery.

Nothing here is needed for truth: what a message asks for stands in the database, and the workers look there by
themselves every few seconds. So a broker that does not answer costs a warning in the log and some seconds of delay,
never an error.
"""

import logging
from functools import cache
from uuid import UUID

from celery import Celery
from django.conf import settings
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 2  # a web request waits no longer for the broker


@cache
def sender(broker_url: str) -> Celery:
    """A Celery app that only sends; tasks and worker settings are the workers' business."""
    app = Celery("webapp", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_publish_retry=False,
        broker_pool_acquire_timeout=TIMEOUT_SECONDS,
        broker_connection_timeout=TIMEOUT_SECONDS,
        broker_transport_options={
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "max_retries": 0,
            "retry_on_timeout": False,
        },
    )
    return app


def send(name: str, *args: str | int, queue: str) -> bool:
    """Send one message; says whether the broker took it."""
    try:
        sender(settings.BROKER_URL).send_task(name, args=args, queue=queue, ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        logger.warning("The broker did not take %s%r (%s); the workers find the work without it.", name, args, error)
        return False
    return True


def hears_nothing(name: str) -> bool:
    """Whether no message waits in a queue; False too where the broker does not tell."""
    try:
        with sender(settings.BROKER_URL).connection_for_write(connect_timeout=TIMEOUT_SECONDS) as connection:
            channel = connection.default_channel
            # not passive: Redis has no list where none waits, and a passive look takes that for an error
            return int(channel.queue_declare(name).message_count) == 0
    except Exception as error:  # each transport has errors of its own; what depends on it waits for the next tick
        logger.warning("The broker does not tell how many messages wait: %s", error)
        return False


def ring(run_id: UUID) -> bool:
    """A run waits to be trained."""
    return send("workers.supervise", str(run_id), queue="train")


def refill(project_id: UUID) -> bool:
    """A project may want samples: its policy changed, or its queue ran low."""
    return send("workers.refill", str(project_id), queue="sample")


def score(project_id: UUID) -> bool:
    """A project's samples may want scores: some were drawn, or there is a new reward model."""
    return send("workers.score", str(project_id), queue="sample")


def simulate(project_id: UUID) -> bool:
    """Simulated raters are to give ratings in a project; how many stands in its row."""
    return send("workers.simulate_ratings", str(project_id), queue="sample")
