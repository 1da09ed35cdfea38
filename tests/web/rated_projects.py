"""Projects with a few ratings, and reward runs on them."""

from uuid import uuid4

from rlhf_core.config import RewardConfig
from webapp.runs.services import start_reward_run

FEW = RewardConfig(minimum_ratings=4)


def rated_project(studio, choices="12367"):
    project = studio.ready_project()
    studio.items(project, pairs=5)
    studio.rate_all(studio.rater(project), project, choices)
    return project


def reward_run(studio, project, config=FEW, request_id=None):
    return start_reward_run(actor=studio.admin, project=project, config=config, request_id=request_id or uuid4())
