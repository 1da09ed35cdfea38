"""Runs are asked for once, with all that they need."""

from uuid import uuid4

import pytest

from rlhf_core.config import PolicyConfig, RewardConfig, settings_hash
from tests.web.rated_projects import FEW, rated_project, reward_run
from webapp import queue
from webapp.errors import (
    NoPolicy,
    NoPrompts,
    NotEnoughFeedback,
    OneSidedFeedback,
    RequestReused,
    WrongCheckpoint,
)
from webapp.quality.models import Dataset
from webapp.registry.models import ServingPointer
from webapp.runs.models import Run
from webapp.runs.services import start_policy_run


@pytest.fixture
def project(studio):
    """A project with 5 ratings, enough for FEW."""
    return rated_project(studio)


def test_a_reward_run_freezes_the_ratings_and_starts_from_the_serving_policy(studio, project):
    run = reward_run(studio, project)
    assert (run.number, run.kind, run.state, run.policy.version) == (1, "reward", "queued", 1)
    assert run.dataset.counts["total"] == 5
    assert run.config["minimum_ratings"] == 4
    assert run.config_sha256 == settings_hash(FEW)
    assert [event.kind for event in run.events.all()] == ["queued"]
    assert reward_run(studio, project).number == 2


def test_a_double_click_is_one_run(studio, project):
    key = uuid4()
    assert reward_run(studio, project, request_id=key) == reward_run(studio, project, request_id=key)
    assert Run.objects.count() == 1
    with pytest.raises(RequestReused):
        reward_run(studio, rated_project(studio), request_id=key)


def test_clicks_at_the_same_moment_are_one_run(live_studio, at_once):
    project, key = rated_project(live_studio), uuid4()
    found = at_once(*[lambda: reward_run(live_studio, project, request_id=key)] * 4)
    assert len({run.pk for run in found}) == 1
    other = at_once(*[lambda: reward_run(live_studio, project)] * 3)
    assert sorted(run.number for run in other) == [2, 3, 4]


def test_too_few_ratings_are_refused_with_both_numbers_and_nothing_is_written(studio, project):
    with pytest.raises(NotEnoughFeedback, match="There are 5 usable ratings, and the run needs 20. Collect 15 more"):
        reward_run(studio, project, RewardConfig())
    assert (Run.objects.count(), Dataset.objects.count()) == (0, 0)
    with pytest.raises(NotEnoughFeedback) as refused:
        reward_run(studio, studio.ready_project(), RewardConfig())
    assert (refused.value.found, refused.value.needed) == (0, 20)


def test_simulated_ratings_that_are_left_out_do_not_count(studio):
    project = studio.ready_project(use_simulated_ratings=False)
    studio.items(project, pairs=5)
    studio.rate_all(studio.rater(project, is_simulated=True), project)
    with pytest.raises(NotEnoughFeedback, match="There are 0"):
        reward_run(studio, project)


@pytest.mark.parametrize("choices", ["4", "04"])
def test_ratings_that_are_all_ties_are_refused(studio, choices):
    with pytest.raises(OneSidedFeedback, match="all 5 comparisons are ties"):
        reward_run(studio, rated_project(studio, choices))
    assert Dataset.objects.count() == 0


def test_nothing_can_be_trained_where_no_policy_serves(studio, project):
    ServingPointer.objects.all().delete()
    with pytest.raises(NoPolicy):
        reward_run(studio, project)


def test_a_policy_run_takes_the_serving_policy_and_a_reward_model_of_the_project(studio, project):
    model = studio.checkpoint(project, "reward_model")
    newer = studio.promoted(project)
    key = uuid4()
    values = {"actor": studio.admin, "project": project, "config": PolicyConfig(), "request_id": key}
    run = start_policy_run(reward_model=model, **values)
    assert (run.policy, run.reward_model, run.dataset) == (newer, model, None)
    assert start_policy_run(reward_model=model, **values) == run
    foreign = studio.checkpoint(studio.project(), "reward_model")
    for wrong in (foreign, newer):
        with pytest.raises(WrongCheckpoint):
            start_policy_run(reward_model=wrong, **{**values, "request_id": uuid4()})


def test_a_policy_run_needs_prompts(studio):
    project = studio.ready_project()
    with pytest.raises(NoPrompts):
        start_policy_run(
            actor=None,
            project=project,
            config=PolicyConfig(),
            reward_model=studio.checkpoint(project, "reward_model"),
            request_id=uuid4(),
        )


def test_a_worker_is_rung_for_after_the_commit(studio, project, monkeypatch, django_capture_on_commit_callbacks):
    rung = []
    monkeypatch.setattr(queue, "ring", rung.append)
    with django_capture_on_commit_callbacks(execute=True):
        run = reward_run(studio, project)
        assert rung == []
    assert rung == [run.pk]
