"""The sign of life by which a container's health check knows a worker and the clock."""

import os

from celery import signals

from webapp.local.endpoints import wait_until
from workers import heartbeat
from workers.celery_app import app


def test_a_worker_that_is_ready_touches_the_file_again_and_again(tmp_path, settings, monkeypatch):
    path = tmp_path / "heartbeat"
    settings.HEARTBEAT_FILE = str(path)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    signals.worker_ready.send(sender=app)
    assert wait_until(path.exists, seconds=5)
    os.utime(path, (0, 0))
    assert wait_until(lambda: path.stat().st_mtime > 0, seconds=5)


def test_the_clock_touches_it_too(tmp_path, settings):
    settings.HEARTBEAT_FILE = str(tmp_path / "heartbeat")
    signals.beat_init.send(sender=app)
    assert wait_until((tmp_path / "heartbeat").exists, seconds=5)


def test_without_a_file_named_nothing_is_written(tmp_path, settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.HEARTBEAT_FILE == ""
    heartbeat.begin()
    assert list(tmp_path.iterdir()) == []
