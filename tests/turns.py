"""Turns of the loop for page tests: ratings, and runs that a pretended supervisor finishes at once."""

import uuid
from typing import Any

from rlhf_core.config import PolicyConfig, RewardConfig
from tests.studio import Studio
from webapp.accounts.models import User
from webapp.accounts.services import ensure_simulated_rater
from webapp.feedback import services as feedback
from webapp.projects.models import Membership
from webapp.registry.models import Checkpoint
from webapp.runs import services as runs
from webapp.runs.models import Run

REWARD = {"loss": 0.61, "accuracy": 0.7, "holdout_accuracy": 0.75, "holdout_count": 40}
POLICY = {"reward": 0.8, "score": 1.2, "kl": 8.0, "entropy": 2.25, "response_length": 48.0}


def rater_of(studio: Studio) -> User:
    """The studio's rater."""
    name = f"rita-of-{studio.project.slug}"
    return studio.raters.get(name) or studio.add_rater(name)


def rate(studio: Studio, count: int, *, rater: User | None = None, source: str = "human") -> None:
    """``count`` pairs, each rated by ``rater`` (the studio's if not given), left and right by turns."""
    rater = rater or rater_of(studio)
    for n in range(count):
        studio.add_item(
            f"Opening {studio.seed} of {source}", f"Answer one of {studio.seed}", f"Answer two {studio.seed}"
        )
        shown = feedback.claim(rater=rater, project=studio.project)
        assert shown is not None
        feedback.submit(rater=rater, token=shown.token, submission_id=uuid.uuid4(), choice="26"[n % 2], source=source)


def rate_by_machine(studio: Studio, count: int) -> None:
    """``count`` pairs rated by a simulated rater."""
    rater = ensure_simulated_rater(username="simulated")
    Membership.objects.get_or_create(project=studio.project, user=rater)
    rate(studio, count, rater=rater, source="simulated")


def ask_for_reward_run(studio: Studio, **settings: Any) -> Run:
    return runs.start_reward_run(
        actor=studio.admin, project=studio.project, config=RewardConfig(**settings), request_id=uuid.uuid4()
    )


def ask_for_policy_run(studio: Studio, reward_model: Checkpoint, **settings: Any) -> Run:
    return runs.start_policy_run(
        actor=studio.admin,
        project=studio.project,
        config=PolicyConfig(**settings),
        reward_model=reward_model,
        request_id=uuid.uuid4(),
    )


def begin(run: Run, *, step: int = 0, total_steps: int = 10, metrics: dict[str, float] | None = None) -> runs.Claim:
    """A supervisor has claimed the run and come to ``step``."""
    claim = runs.claim(run.pk, "test")
    assert claim is not None
    runs.record_progress(claim, step=step, total_steps=total_steps, phase="learning")
    values = metrics or (POLICY if run.kind == Run.Kind.POLICY else REWARD)
    runs.record_metrics(claim, [(n, values) for n in range(1, step + 1)])
    return claim


def finish(run: Run, *, steps: int = 10) -> Checkpoint:
    """Train the run to its end; gives what it made."""
    claim = begin(run, step=steps, total_steps=steps)
    kind = "policy" if run.kind == Run.Kind.POLICY else "reward_model"
    result = POLICY if run.kind == Run.Kind.POLICY else REWARD
    runs.succeed(claim, outputs=[{"kind": kind, "id": uuid.uuid4().hex * 2}], result=result)
    return run.outputs.get()


def turn(studio: Studio) -> Checkpoint:
    """A whole turn on the ratings there are; gives the candidate."""
    reward_model = finish(ask_for_reward_run(studio))
    return finish(ask_for_policy_run(studio, reward_model))
