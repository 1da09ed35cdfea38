"""The Celery app: ``celery -A workers.celery_app worker -Q train``. A message is a doorbell, the database is the truth.

Queues: ``train`` (one process a device; training runs, acknowledged at once, without a time limit), ``sample`` (filling
the raters' queue, and scoring what is in it while nothing else waits) and ``default`` (the periodic look at runs, in a
process of its own: filling may take a minute, and a run whose supervisor died must not wait for it). What a lost
message delays, the periodic tasks find within seconds.

SIGTERM is the way to stop a worker: a training run is told at once, saves its state and goes back into the queue, and
the worker leaves once it has. Don't remap SIGTERM to SIGQUIT: Celery then sleeps out its soft time-out before it tells
anybody, and kills the run after it.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
os.environ.setdefault("STEERSMAN_ROLE", "worker")

from celery import Celery, signals  # noqa: E402
from django.conf import settings  # noqa: E402
from kombu import Exchange, Queue  # noqa: E402

from workers import heartbeat  # noqa: E402

QUEUES = ("train", "sample", "default")
VISIBILITY_SECONDS = 900  # three times the hard limit of a short task; a training run is acknowledged before it starts
SCORE_SECONDS = 60.0  # between two looks for samples without a score; new ones are asked for at once
VISIBILITY = {"visibility_timeout": VISIBILITY_SECONDS}

app = Celery("steersman", include=["workers.tasks"])
app.conf.update(
    broker_url=settings.BROKER_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # outlive a long outage of the broker
    broker_pool_acquire_timeout=3,
    broker_transport_options={
        **VISIBILITY,
        "socket_timeout": 10,  # with it, a half-open connection is noticed
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        "health_check_interval": 25,
    },
    result_backend=None,
    result_backend_transport_options=VISIBILITY,
    visibility_timeout=VISIBILITY_SECONDS,
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],  # else all share one key
    task_default_queue="default",
    task_create_missing_queues=False,  # a misspelt queue must fail
    task_routes={
        "workers.supervise": {"queue": "train"},
        "workers.refill": {"queue": "sample"},
        "workers.refill_all": {"queue": "sample"},
        "workers.score": {"queue": "sample"},
        "workers.score_all": {"queue": "default"},  # it only looks and asks
        "workers.simulate_ratings": {"queue": "sample"},
        "workers.simulate_all": {"queue": "sample"},
    },
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_track_started=False,
    task_publish_retry_policy={"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,  # nothing is parked behind an hours-long run
    worker_cancel_long_running_tasks_on_connection_loss=True,  # spares what was acknowledged early
    worker_max_tasks_per_child=200,
    worker_hijack_root_logger=False,
    beat_schedule={
        "reap": {
            "task": "workers.reap",
            "schedule": float(settings.RUN_REAP_SECONDS),
            "options": {"expires": settings.RUN_REAP_SECONDS},  # no pile while no worker is there
        },
        "simulate": {
            "task": "workers.simulate_all",
            "schedule": float(settings.REFILL_SECONDS),
            "options": {"expires": settings.REFILL_SECONDS},
        },
        "score": {
            "task": "workers.score_all",
            "schedule": SCORE_SECONDS,
            "options": {"expires": SCORE_SECONDS},
        },
        "refill": {
            "task": "workers.refill_all",
            "schedule": float(settings.REFILL_SECONDS),
            "options": {"expires": settings.REFILL_SECONDS},
        },
    },
    timezone="UTC",
)
signals.worker_ready.connect(heartbeat.begin)
signals.beat_init.connect(heartbeat.begin)
