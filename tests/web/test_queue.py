"""The doorbell: a broker that is away holds nobody up."""

import logging
import socket
import threading
import time
from uuid import uuid4

from webapp import queue


def test_a_refused_connection_to_the_broker_is_a_warning(settings, caplog):
    settings.BROKER_URL = "redis://127.0.0.1:1/0"
    with caplog.at_level(logging.WARNING):
        assert queue.ring(uuid4()) is False
    assert "did not take workers.supervise" in caplog.text


def test_a_broker_that_accepts_and_never_answers_holds_nobody_up(settings):
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def accept():
            kept = []
            while not stop.is_set():
                server.settimeout(0.2)
                try:
                    kept.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            settings.BROKER_URL = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
            started = time.monotonic()
            assert queue.refill(uuid4()) is False
            assert time.monotonic() - started < 5
        finally:
            stop.set()
            thread.join()


def test_a_message_reaches_its_queue(broker_url):
    import redis

    run_id = uuid4()
    client = redis.Redis.from_url(broker_url)
    client.flushdb()  # what tests that commit have rung for before
    assert queue.ring(run_id)
    assert queue.simulate(run_id)
    assert (client.llen("train"), client.llen("sample")) == (1, 1)
    client.flushdb()
