"""A whole studio in a temporary folder for the benchmarks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from webapp.local.temporary import environment_of, temporary_studio


@contextmanager
def studio() -> Iterator[str]:
    """Start everything, point Django of this process at it, and yield the address of the pages."""
    with temporary_studio() as started:
        os.environ.update(environment_of(started.data))
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
        import django

        django.setup()
        yield started.url
