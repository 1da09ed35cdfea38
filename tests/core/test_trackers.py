"""Trackers: refused by name and cure where they are missing, fed with metrics where they are there."""

from pathlib import Path

import pytest

from rlhf_core import trackers
from rlhf_core.config import PolicyConfig
from rlhf_core.errors import ConfigError
from rlhf_core.training.run_directory import RunDirectory


@pytest.mark.parametrize("missing", ["accelerate", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch, missing):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == missing else "there")
    with pytest.raises(ConfigError, match=f"track = 'wandb' is not permitted: .* pip install {missing}$"):
        trackers.check_trackers(["wandb"])


def test_an_unknown_tracker_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="one of tensorboard, wandb"):
        trackers.check_trackers(["mlflow"])


def make_run(path: Path) -> RunDirectory:
    return RunDirectory.create(path / "run", kind="policy", config=PolicyConfig(kl_target=None), store=path / "store")


def test_without_trackers_nothing_listens(tmp_path):
    with trackers.tracking([], make_run(tmp_path), "steersman") as listen:
        assert listen is None


def test_metrics_and_samples_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path)
    with trackers.tracking(["tensorboard"], run, "steersman") as listen:
        run.listener = listen
        for step in (1, 2):
            run.metrics(step, {"score": step / 2, "kl": float("nan")})
        run.sample(2, "It was", " good")
        run.progress(2, 2, "learn")
    found = EventAccumulator(str(run.path / "tensorboard" / "steersman")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("score")] == [(1, 0.5), (2, 1.0)]
    assert "kl" not in found.Tags()["scalars"]
    assert any("sample" in name for name in found.Tags()["tensors"])
