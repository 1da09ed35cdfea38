"""The workers' Celery app with a broker that takes a message for lost after one second, and looks every 0.2 s.

That is a tenth of the ten seconds of fault test 16; in production it is VISIBILITY_SECONDS, and the look comes about
every 100 s. ``celery -A tests.faults.impatient worker ...``.
"""

from workers.celery_app import app

HASTE = {"visibility_timeout": 1, "unacked_restore_interval": 0.2, "unacked_restore_throttle": 1}

app.conf.broker_transport_options = {**app.conf.broker_transport_options, **HASTE}
app.conf.result_backend_transport_options = {"visibility_timeout": 1}
app.conf.visibility_timeout = 1
