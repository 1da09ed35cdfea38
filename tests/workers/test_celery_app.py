"""The Celery settings that keep a long run from being started twice."""

import os
import subprocess
import sys

from workers import tasks
from workers.celery_app import QUEUES, app


def test_each_queue_has_a_key_of_its_own():
    assert {queue.routing_key for queue in app.conf.task_queues} == set(QUEUES)
    assert {queue.exchange.name for queue in app.conf.task_queues} == set(QUEUES)
    assert app.conf.task_create_missing_queues is False


def test_training_is_acknowledged_at_once_and_has_no_time_limit():
    train = tasks.supervise_run
    assert not train.acks_late
    assert not train.retry_on_worker_lost
    assert not train.reject_on_worker_lost
    assert train.max_retries == 0
    assert (train.time_limit, train.soft_time_limit) == (None, None)
    assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (None, None)


def test_short_tasks_are_acknowledged_late_and_end_long_before_they_are_delivered_again():
    scoring = (tasks.score, tasks.score_all)
    for task in (tasks.refill, tasks.refill_all, tasks.simulate_ratings, tasks.simulate_all, tasks.reap, *scoring):
        assert task.acks_late
        assert task.ignore_result
        assert task.time_limit * 3 <= app.conf.visibility_timeout
    timeouts = {
        app.conf.visibility_timeout,
        app.conf.broker_transport_options["visibility_timeout"],
        app.conf.result_backend_transport_options["visibility_timeout"],
    }
    assert timeouts == {900}


def test_messages_are_json_and_nothing_is_parked_behind_a_run():
    assert app.conf.accept_content == ["json"]
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.worker_disable_prefetch


def test_every_routed_task_exists_and_goes_to_a_queue_that_is_worked_on():
    app.loader.import_default_modules()
    for name, route in app.conf.task_routes.items():
        assert name in app.tasks
        assert route["queue"] in QUEUES
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)


def test_workers_and_the_trainer_command_load_no_torch():
    code = (
        "import django, sys; django.setup(); import workers.tasks, workers.management.commands.run_trainer;"
        "sys.exit(bool({'torch', 'numpy', 'tokenizers'} & set(sys.modules)))"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "webapp.settings"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
