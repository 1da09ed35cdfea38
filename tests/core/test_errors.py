"""The error tree: one root, and messages that name field, value and range."""

import pytest

from rlhf_core import errors
from rlhf_core.errors import CheckpointError, ConfigError, DatasetError, QueueFull, SteersmanError, TrainingDiverged


@pytest.mark.parametrize("kind", [ConfigError, DatasetError, CheckpointError, TrainingDiverged, QueueFull])
def test_every_error_stands_under_one_root(kind):
    assert issubclass(kind, SteersmanError)


def test_what_a_user_gave_wrongly_is_also_a_value_error():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DatasetError, ValueError)


def test_a_config_error_names_field_value_and_range():
    error = ConfigError("steps", 0, "at least 1")
    assert str(error) == "steps = 0 is not permitted: at least 1"
    assert (error.field, error.value, error.permitted) == ("steps", 0, "at least 1")


def test_a_full_queue_says_when_to_try_again():
    assert QueueFull(2.5).retry_after_seconds == 2.5
    assert "2.5 s" in str(QueueFull(2.5))


def test_no_error_is_left_out_of_the_tree():
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    assert len(own) >= 6
    assert all(issubclass(kind, SteersmanError) for kind in own)
