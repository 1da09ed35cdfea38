"""What the registry tells to the apps above it, which it may not import."""

from django.dispatch import Signal

promoted = Signal()
"""A project's serving policy changed. Sent within the transaction, with ``project`` and ``promotion``."""
