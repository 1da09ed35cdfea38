"""What is written beside a run: its events, and texts and numbers as the database can hold them."""

import math
from typing import Any

from webapp.runs.models import Run, RunEvent

MAX_MESSAGE_CHARACTERS = 10_000


def note(run: Run, kind: str, message: str, fence: int | None = None) -> None:
    """Append to the run's events."""
    RunEvent.objects.create(run=run, kind=kind, message=clean(message), fence=run.fence if fence is None else fence)


def clean(message: str) -> str:
    """Text that the database can hold, of bounded length; of a longer one, the end tells more than the beginning."""
    text = message.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else "... " + text[-MAX_MESSAGE_CHARACTERS:]


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values for a JSON column, which has no NaN and no infinity: they become null."""
    return {name: finite_value(value) for name, value in values.items()}


def finite_value(value: Any) -> Any:
    """One value of ``finite``, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return finite(value)
    if isinstance(value, list | tuple):
        return [finite_value(item) for item in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
