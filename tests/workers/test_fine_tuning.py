"""A fine-tuning from the wish to the candidate: a real process learns, is killed and goes on, and is evaluated."""

import hashlib
import json
import signal
from uuid import uuid4

import pytest

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import METRICS, EvaluateConfig, SFTConfig
from rlhf_core.store import checkpoint_path
from webapp.accounts.models import User
from webapp.feedback.services import NewSample, make_items, record_samples, submit
from webapp.feedback.services import claim as claim_item
from webapp.projects.models import Membership, Prompt
from webapp.projects.selectors import prompts_to_train_on
from webapp.quality.demonstrations import DemonstrationRules
from webapp.registry.selectors import serving
from webapp.runs.models import Evaluation, Run, RunEvent, RunMetrics, RunSample
from webapp.runs.services import cancel, start_evaluation, start_sft_run
from workers.run_files import run_folder, write_run_directory
from workers.supervisor import supervise

QUICK = SFTConfig(
    epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=0,
    max_prompt_tokens=16,
    holdout_fraction=0.2,
    validation_interval=3,
    save_interval=2,
    sample_tokens=4,
    samples=2,
    threads=1,
)
RULES = DemonstrationRules(minimum_demonstrations=8)


@pytest.fixture
def rated(project):
    """Twelve prompts whose single answers were scored 5, every fourth answer cut at the longest length."""
    pointer = serving(project)
    rater = User.objects.create(username="rita")
    Membership.objects.create(project=project, user=rater)
    for number, prompt in enumerate(prompts_to_train_on(project)[:12]):
        (sample,) = record_samples(
            checkpoint=pointer.checkpoint,
            sampling=pointer.sampling,
            samples=[
                NewSample(
                    prompt_id=prompt.pk,
                    seed=number,
                    prompt_tokens=[1, 7],
                    tokens=[9, 2],
                    text=" and I liked it a lot!",
                    finish_reason="end" if number % 4 else "length",
                    log_prob=-1.0,
                )
            ],
        )
        make_items(project=project, samples_by_prompt={prompt.pk: [sample]})
        shown = claim_item(rater=rater, project=project)
        submit(rater=rater, project=project, token=shown.token, submission_id=uuid4(), choice="5")
    return project


def ask(project, config=QUICK) -> Run:
    return start_sft_run(actor=None, project=project, config=config, rules=RULES, request_id=uuid4())


def fresh(run: Run) -> Run:
    return Run.objects.select_related("project", "policy", "dataset").get(pk=run.pk)


def test_a_run_leaves_a_candidate_that_was_killed_on_the_way_and_can_be_evaluated(rated, settings, monkeypatch):
    monkeypatch.setenv("STEERSMAN_FAILPOINT", "before-rename:2")  # each life saves one state, then dies
    run = ask(rated)
    assert supervise(run.pk)
    run = fresh(run)
    assert (run.state, run.error) == ("succeeded", "")
    assert RunEvent.objects.filter(run=run, kind="log", message__contains=signal.SIGKILL.name).exists()
    policy = run.outputs.get()
    assert (str(policy), str(policy.parent), str(serving(rated).checkpoint)) == ("v2", "v1", "v1")
    assert policy.metrics["validation_loss"] < policy.metrics["parent_validation_loss"]
    assert policy.metrics["kl"] > 0
    manifest = load_policy(checkpoint_path(settings.CHECKPOINT_STORE, policy.sha256))[2]
    assert manifest["meta"]["dataset_sha256"] == run.dataset.sha256
    assert manifest["meta"]["parent"] == run.policy.sha256
    learned = RunMetrics.objects.filter(run=run).latest("step").values
    assert set(learned) == set(METRICS["sft"])
    texts = RunSample.objects.filter(run=run)
    steps = sorted(set(texts.values_list("step", flat=True)))
    assert steps[-1] == run.total_steps
    assert all(texts.filter(step=step).count() == QUICK.samples for step in steps)

    monkeypatch.delenv("STEERSMAN_FAILPOINT")
    config = EvaluateConfig(prompts=2, max_new_tokens=4, max_prompt_tokens=16, threads=1)
    asked = start_evaluation(actor=None, project=rated, config=config, policy=policy, request_id=uuid4())
    assert supervise(asked.pk)
    found = Evaluation.objects.get()
    assert (found.checkpoint, found.parent, found.base) == (policy, run.policy, run.policy)


def test_the_process_reads_the_frozen_demonstrations_and_prompts_that_may_be_learned_from(rated):
    run = fresh(ask(rated))
    directory = write_run_directory(run)
    (path,) = directory.inputs["demonstrations"]
    data = (run_folder(run) / "demonstrations.jsonl").read_bytes()
    assert path == str(run_folder(run) / "demonstrations.jsonl")
    assert hashlib.sha256(data).hexdigest() == run.dataset.sha256
    lines = [json.loads(line) for line in data.splitlines()]
    assert (len(lines), sum(line["is_cut"] for line in lines)) == (12, 3)
    assert {line["response"] for line in lines} == {" and I liked it a lot!"}
    held_out = set(Prompt.objects.filter(project=rated, split="held_out").values_list("text", flat=True))
    asked = {prompt.text for prompt in directory.read_prompts()}
    assert asked
    assert held_out
    assert not held_out & (asked | {line["prompt"] for line in lines})


def test_a_cancelled_run_makes_no_policy(rated):
    run = ask(rated)
    cancel(actor=None, run=run)
    assert not supervise(run.pk)
    assert (fresh(run).state, run.outputs.exists()) == ("cancelled", False)
