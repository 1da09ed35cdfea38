"""Whether the reaper rings again is decided by how many messages wait for the trainers."""

from kombu import Connection

from webapp import queue
from workers.celery_app import app
from workers.tasks import trainers_hear_nothing


def test_the_trainers_hear_nothing_until_a_message_waits(broker_url, monkeypatch):
    monkeypatch.setattr(app, "connection_for_write", lambda **_: Connection(broker_url))
    with Connection(broker_url) as connection:
        connection.default_channel.queue_purge("train")
        assert trainers_hear_nothing()
        queue.ring("018f0000-0000-7000-8000-000000000000")
        assert not trainers_hear_nothing()
        connection.default_channel.queue_purge("train")
        assert trainers_hear_nothing()
