"""What is to be said of samples that have no score by the reward model of today."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.feedback.models import NoScore, Sample
from webapp.feedback.scores import reasons_for_no_score
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint
from webapp.runs import selectors


@dataclass(frozen=True)
class Unscored:
    """Samples on a page that have no score by the reward model of today; None: there is no such model."""

    reward_model: Checkpoint | None
    waiting: int  # all of them, where there is no reward model
    not_finite: int = 0  # the model was asked, and has no number for them
    unread: int = 0  # their tokens are none that the model reads


def unscored_among(project: Project, samples: Iterable[Sample]) -> Unscored | None:
    """What is to be said of the samples of a page, whose scores were loaded, that have none (three queries at most)."""
    reward_model = selectors.current_reward_model(project)
    wanted = None if reward_model is None else reward_model.pk
    missing = {
        one.pk for one in samples if not any(wanted in (None, score.reward_model_id) for score in one.scores.all())
    }  # by key: two ratings of one comparison show its samples twice
    if not missing or reward_model is None:
        return Unscored(reward_model, len(missing)) if missing else None
    without = Counter(reasons_for_no_score(reward_model, missing).values())
    return Unscored(
        reward_model,
        len(missing) - without.total(),
        not_finite=without[NoScore.Reason.NOT_FINITE],
        unread=without[NoScore.Reason.TOKENS],
    )
