"""Turns of the loop for page tests: ratings, and runs that a pretended supervisor finishes at once."""

import uuid
from typing import Any

from rlhf_core.config import EvaluateConfig, PolicyConfig, RewardConfig, SFTConfig
from tests.studio import Studio, open_studio, sha256
from webapp.accounts.models import User
from webapp.accounts.services import ensure_simulated_rater
from webapp.feedback import services as feedback
from webapp.feedback.services import NewSample
from webapp.projects.models import Membership, Prompt
from webapp.quality.demonstrations import DemonstrationRules
from webapp.registry.models import Checkpoint
from webapp.runs import leases, progress, results, services
from webapp.runs.models import Evaluation, Run

REWARD = {"loss": 0.61, "accuracy": 0.7, "holdout_accuracy": 0.75, "holdout_count": 40}
SFT = {"loss": 2.5, "validation_loss": 2.6, "parent_validation_loss": 2.9, "kl": 1.5, "epoch": 3.0}
POLICY = {"reward": 0.8, "score": 1.2, "kl": 8.0, "entropy": 2.25, "response_length": 48.0}
RESULTS = {Run.Kind.SFT: SFT, Run.Kind.REWARD: REWARD, Run.Kind.POLICY: POLICY}
ANSWERS = {
    "response_length": 40.0,
    "end_rate": 0.75,
    "distinct_1": 0.25,
    "distinct_2": 0.6,
    "distinct_3": 0.9,
    "repetition": 0.05,
}


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
        feedback.submit(
            rater=rater,
            project=studio.project,
            token=shown.token,
            submission_id=uuid.uuid4(),
            choice="26"[n % 2],
            source=source,
        )


def open_rated_studio(count: int) -> Studio:
    """A studio with ``count`` rated pairs."""
    studio = open_studio()
    rate(studio, count)
    return studio


def rate_by_machine(studio: Studio, count: int) -> None:
    """``count`` pairs rated by a simulated rater."""
    rater = ensure_simulated_rater(username="simulated")
    Membership.objects.get_or_create(project=studio.project, user=rater)
    rate(studio, count, rater=rater, source="simulated")


def ask_for_reward_run(studio: Studio, **settings: Any) -> Run:
    return services.start_reward_run(
        actor=studio.admin, project=studio.project, config=RewardConfig(**settings), request_id=uuid.uuid4()
    )


def ask_for_policy_run(
    studio: Studio, reward_model: Checkpoint, judge: Checkpoint | None = None, **settings: Any
) -> Run:
    return services.start_policy_run(
        actor=studio.admin,
        project=studio.project,
        config=PolicyConfig(**settings),
        reward_model=reward_model,
        judge=judge,
        request_id=uuid.uuid4(),
    )


def train_with_judge(studio: Studio, **settings: Any) -> tuple[Checkpoint, Checkpoint]:
    """A reward model and its judge, each made on one half of the ratings there are."""
    first = services.start_reward_run(
        actor=studio.admin,
        project=studio.project,
        config=RewardConfig(**settings),
        request_id=uuid.uuid4(),
        with_judge=True,
    )
    return finish(first), finish(Run.objects.get(project=studio.project, number=first.number + 1))


def over_optimise(claim: leases.Claim, updates: int = 12) -> None:
    """The policy pleases its reward model more and more, and from the middle on its judge less and less."""
    for n in range(1, updates + 1):
        told = {"kl": float(n), "score": 0.1 * n, "judge_score": 1 - 0.05 * (n - 6) ** 2, "judge_score_error": 0.05}
        progress.record_metrics(claim, [(n, POLICY | told)])


def train_reward_model(studio: Studio) -> Checkpoint:
    """A reward model of twenty ratings."""
    rate(studio, 20)
    return finish(ask_for_reward_run(studio))


def begin_watched_run(studio: Studio) -> leases.Claim:
    """A policy run with a judge that goes on and has learned too much of what its reward model likes."""
    claim = begin(ask_for_policy_run(studio, *train_with_judge(studio, minimum_ratings=4)), total_steps=40)
    over_optimise(claim)
    return claim


def ask_for_sft_run(studio: Studio, minimum: int = 2, **settings: Any) -> Run:
    return services.start_sft_run(
        actor=studio.admin,
        project=studio.project,
        config=SFTConfig(**settings),
        rules=DemonstrationRules(minimum_demonstrations=minimum),
        request_id=uuid.uuid4(),
    )


def begin(run: Run, *, step: int = 0, total_steps: int = 10, metrics: dict[str, float] | None = None) -> leases.Claim:
    """A supervisor has claimed the run and come to ``step``."""
    claim = leases.claim(run.pk, "test")
    assert claim is not None
    progress.record_progress(claim, step=step, total_steps=total_steps, phase="learning")
    if step:
        values = metrics or RESULTS[run.kind]
        progress.record_metrics(claim, [(n, values) for n in range(1, step + 1)])
    return claim


def finish(run: Run, *, steps: int = 10) -> Checkpoint:
    """Train the run to its end; gives what it made."""
    claim = begin(run, step=steps, total_steps=steps)
    kind = "reward_model" if run.kind == Run.Kind.REWARD else "policy"
    results.succeed(claim, outputs=[{"kind": kind, "id": uuid.uuid4().hex * 2}], result=RESULTS[run.kind])
    return run.outputs.get()


def turn(studio: Studio) -> Checkpoint:
    """A whole turn on the ratings there are; gives the candidate."""
    reward_model = finish(ask_for_reward_run(studio))
    return finish(ask_for_policy_run(studio, reward_model))


def estimate(value: float, count: int = 320) -> dict:
    return {"value": value, "error": 0.1, "low": value - 0.2, "high": value + 0.2, "count": count}


def hold_out(studio: Studio, count: int) -> None:
    for number in range(count):
        text = f"Held-out opening {number} <b>bold</b>"
        Prompt.objects.get_or_create(
            project=studio.project, sha256=sha256(text), defaults={"text": text, "split": "held_out"}
        )


def evaluate(studio: Studio, version: int = 2, seed: int = 0, reward: bool = True, **settings: Any) -> Evaluation:
    """An evaluation that a pretended supervisor has brought to its end."""
    candidate = Checkpoint.objects.get(project=studio.project, kind="policy", version=version)
    reward_model = studio.project.checkpoints.filter(kind="reward_model").first()
    run = services.start_evaluation(
        actor=studio.admin,
        project=studio.project,
        config=EvaluateConfig(seed=seed, **settings),
        policy=candidate,
        reward_model=reward_model if reward else None,
        request_id=uuid.uuid4(),
    )
    claim = leases.claim(run.pk, "test")
    assert claim is not None
    asked = {"candidate": candidate, **results.references_of(claim.run)}
    prompts = list(Prompt.objects.filter(project=studio.project, split="held_out"))
    answers = [
        results.DrawnAnswer(
            checkpoint=one.sha256,
            sample=NewSample(
                prompt_id=prompt.pk,
                seed=1000 * seed + number,
                prompt_tokens=[1, 5],
                tokens=[7, 2],
                text=f" <script>{one}</script> answers {number}",
                finish_reason="end",
                log_prob=-3.0,
            ),
            reward=0.5 if reward else None,
        )
        for one in set(asked.values())
        for number, prompt in enumerate(prompts)
    ]
    others = [part for part in asked if part != "candidate"]
    report = {
        "prompts": len(prompts),
        "policies": {part: {**ANSWERS, "reward": estimate(1.25) if reward else None} for part in asked},
        "kl": {part: {**estimate(6.25), "k3": estimate(6.5)} for part in others},
        "reward_differences": {part: estimate(0.412) for part in others} if reward else {},
    }
    results.succeed(claim, outputs=[], result={"kl_base": 6.25}, evaluation=results.EvaluationResult(report, answers))
    return Evaluation.objects.get(run=run)
