"""Seconds of each step of the loop on the demo policy: ``python -m benchmarks.loop [--ratings 400]``; JSON out.

Goals on two cores without a GPU: reward model on 400 comparisons <= 90 s, PPO with preset "CPU" <= 240 s, promotion to
the first new sample in the queue <= 15 s. The buffer is full and no simulated rater is at work while a run trains.
"""

import argparse
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from benchmarks.studio import studio


def wait(condition: Callable[[], Any], seconds: float, what: str, pause_seconds: float = 0.25) -> Any:
    """The first true value of ``condition``; RuntimeError when ``seconds`` have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(pause_seconds)
    raise RuntimeError(f"waited {seconds:g} s for {what}")


def measure(ratings: int) -> dict[str, Any]:
    """Walk the loop once through the studio's own services and workers."""
    from rlhf_core.config import PolicyConfig, RewardConfig
    from webapp.accounts.services import ensure_admin
    from webapp.feedback.models import Rating, Slot
    from webapp.projects.models import Project
    from webapp.projects.services import update_project
    from webapp.registry.models import Checkpoint
    from webapp.registry.selectors import serving
    from webapp.registry.services import promote
    from webapp.runs.models import Run
    from webapp.runs.selectors import presets_for
    from webapp.runs.services import ask_for_simulated_ratings, start_policy_run, start_reward_run

    admin = ensure_admin()
    project = Project.objects.get(slug="film-reviews")
    update_project(actor=admin, project=project, pair_percent=100)
    seconds: dict[str, float] = {}

    def open_slots(checkpoint: Checkpoint) -> bool:
        return Slot.objects.filter(project=project, state="open", comparison__first__checkpoint=checkpoint).exists()

    def train(name: str, run: Run) -> Run:
        def finished() -> bool:
            run.refresh_from_db()
            return run.is_finished

        wait(finished, 1200, f"run {run.number}")
        if run.state != Run.State.SUCCEEDED:
            raise RuntimeError(f"run {run.number} {run.state}: {run.error}")
        seconds[name] = (run.finished_at - run.created_at).total_seconds()  # type: ignore[operator]
        return run

    def wait_for_ratings(target: int) -> None:
        wait(lambda: given.count() >= target, 900, "the simulated ratings")

    begun = time.monotonic()
    given = Rating.objects.filter(project=project, is_current=True)  # singles that waited already are rated too
    pairs = given.filter(comparison__kind="pair")
    while (missing := ratings - pairs.count()) > 0:
        ask_for_simulated_ratings(actor=admin, project=project, count=missing)
        wait_for_ratings(given.count() + missing)
    seconds["ratings"] = time.monotonic() - begun
    wait(lambda: Slot.objects.filter(project=project, state="open").count() >= project.buffer_target, 300, "the buffer")
    reward_config, policy_config = presets_for(project, "reward")["CPU"], presets_for(project, "policy")["CPU"]
    assert isinstance(reward_config, RewardConfig)
    assert isinstance(policy_config, PolicyConfig)
    reward = train(
        "reward", start_reward_run(actor=admin, project=project, config=reward_config, request_id=uuid.uuid4())
    )
    reward_model = reward.outputs.get()
    policy = train(
        "policy",
        start_policy_run(
            actor=admin, project=project, config=policy_config, reward_model=reward_model, request_id=uuid.uuid4()
        ),
    )
    candidate = policy.outputs.get()
    pointer = serving(project=project)
    assert pointer is not None
    begun = time.monotonic()
    promote(project=project, checkpoint=candidate, actor=admin, reason="benchmark", expected_epoch=pointer.epoch)
    wait(lambda: open_slots(candidate), 120, "samples of the new policy", pause_seconds=0.1)
    seconds["promote_to_first_sample"] = time.monotonic() - begun
    return {
        "ratings": pairs.count(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "reward_result": reward.result,
        "policy_result": policy.result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratings", type=int, default=400, help="comparisons to train on")
    arguments = parser.parse_args()
    with studio():
        print(json.dumps(measure(arguments.ratings), indent=1))


if __name__ == "__main__":
    main()
