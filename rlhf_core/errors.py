"""Every error that this library raises on purpose, as one tree; standard library only."""

from typing import Any


class SteersmanError(Exception):
    """The root: catch it to catch whatever the library or the studio refuses on purpose."""


class ConfigError(SteersmanError, ValueError):
    """A setting is outside its permitted range, of the wrong type, or unknown.

    Args:
        field: name of the setting.
        value: what was given.
        permitted: the permitted range, in words.
    """

    def __init__(self, field: str, value: Any, permitted: str) -> None:
        super().__init__(f"{field} = {value!r} is not permitted: {permitted}")
        self.field = field
        self.value = value
        self.permitted = permitted


class DatasetError(SteersmanError, ValueError):
    """The feedback cannot train a model: too little, one-sided, or malformed."""


class FunctionError(SteersmanError, ValueError):
    """A reward or taste that somebody wrote cannot be used, or says what it may not; names cause and cure."""


class ScoreError(FunctionError):
    """A reward gave something else than one number for each response."""


class CheckpointError(SteersmanError):
    """A checkpoint is missing, torn, altered, or of another kind than asked for."""


class TrainingDiverged(SteersmanError):
    """A loss, reward or KL became non-finite or passed its hard cap; the last good state was kept."""


class OutOfMemory(SteersmanError):
    """A device or the machine had no memory left; the message says what helps, and the last saved state stands."""


class ProcessLost(SteersmanError):
    """Another process of the same run ended or does not answer; started again, the run goes on from its last state."""


class QueueFull(SteersmanError):
    """The sampler's bounded queue has no room; try again after ``retry_after_seconds``."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the sampling queue is full; try again in {retry_after_seconds:g} s")
        self.retry_after_seconds = retry_after_seconds
