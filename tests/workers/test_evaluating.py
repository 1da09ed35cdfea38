"""An evaluation from the wish to the rows: a real process draws, the supervisor writes down, nothing comes twice."""

import json
import shutil
import signal
from uuid import uuid4

import pytest
import torch
from django.db import IntegrityError, transaction

from rlhf_core import cli
from rlhf_core.checkpoint import save_reward_model
from rlhf_core.config import EvaluateConfig, ModelConfig, PolicyConfig
from rlhf_core.errors import ConfigError
from rlhf_core.masking import join_sequences
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from webapp.accounts.models import User
from webapp.errors import FenceLost, NoHeldOutPrompts, RequestReused, WrongCheckpoint
from webapp.feedback.models import Comparison, Sample, Slot
from webapp.feedback.services import slots_missing
from webapp.projects.models import Prompt
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.registry.services import promote, record_checkpoint
from webapp.runs import results
from webapp.runs.leases import claim
from webapp.runs.models import Evaluation, EvaluationSample, Run, RunEvent
from webapp.runs.results import references_of
from webapp.runs.services import start_evaluation, start_policy_run
from workers.run_files import read_evaluation, run_folder, write_run_directory
from workers.supervisor import supervise

QUICK = EvaluateConfig(prompts=3, batch_size=2, max_new_tokens=6, max_prompt_tokens=8, temperature=0.7, threads=1)


@pytest.fixture
def policies(project, steersman_data, make_policy) -> list[Checkpoint]:
    """v1, which serves; v2, made from it; v3, made from v2."""
    found = [serving(project).checkpoint]
    for seed in (1, 2):
        sha256 = make_policy(steersman_data / "checkpoints", seed).id
        found.append(record_checkpoint(project=project, kind="policy", sha256=sha256, parent=found[-1]))
    return found


@pytest.fixture
def reward_model(project, steersman_data, tokenizer) -> Checkpoint:
    torch.manual_seed(7)
    shape = ModelConfig(num_tokens=tokenizer.vocab_size, dim=16, depth=1, heads=2, dim_head=8)
    model = RewardModel(PaLM.from_config(shape), num_binned_output=5)
    sha256 = save_reward_model(steersman_data / "checkpoints", model, tokenizer, {}).id
    return record_checkpoint(project=project, kind="reward_model", sha256=sha256)


def ask(project, policy, reward_model=None, config=QUICK, request_id=None) -> Run:
    return start_evaluation(
        actor=None,
        project=project,
        config=config,
        policy=policy,
        reward_model=reward_model,
        request_id=request_id or uuid4(),
    )


def test_an_evaluation_leaves_every_answer_and_what_they_say(project, policies, reward_model):
    run = ask(project, policies[2], reward_model)
    assert supervise(run.pk)
    run.refresh_from_db()
    assert (run.state, run.error) == ("succeeded", "")
    found = Evaluation.objects.get()
    assert (found.run, found.checkpoint, found.parent, found.base, found.serving) == (
        run,
        policies[2],
        policies[1],
        policies[0],
        policies[0],
    )
    assert (found.reward_model, found.prompts, found.sampling.values["temperature"]) == (reward_model, 3, 0.7)
    assert set(found.metrics["kl"]) == {"parent", "base", "serving"}
    assert found.metrics["kl"]["base"] == found.metrics["kl"]["serving"]
    assert found.metrics["reward_differences"]["parent"]["count"] == 3
    assert run.result["kl_base"] == found.metrics["kl"]["base"]["value"]
    samples = list(found.samples.select_related("prompt"))
    assert len(samples) == 9
    assert {sample.prompt.split for sample in samples} == {"held_out"}
    assert sorted(sample.checkpoint.version for sample in samples) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    rewards = [item.reward for item in found.items.filter(sample__checkpoint=policies[2])]
    assert sum(rewards) / 3 == pytest.approx(found.metrics["policies"]["candidate"]["reward"]["value"])
    assert {item.uncertainty for item in found.items.all()} == {None}  # one model alone has nobody to disagree with
    assert not run.outputs.exists()
    assert serving(project).checkpoint == policies[0]


def test_how_far_an_ensemble_disagrees_is_kept_with_every_answer(project, policies, tokenizer, steersman_data):
    torch.manual_seed(7)
    palm = PaLM.from_config(ModelConfig(num_tokens=tokenizer.vocab_size, dim=16, depth=1, heads=2, dim_head=8))
    model = RewardModel(palm, num_binned_output=5, ensemble=2, ensemble_members="heads").eval()
    sha256 = save_reward_model(steersman_data / "checkpoints", model, tokenizer, {}).id
    run = ask(project, policies[0], record_checkpoint(project=project, kind="reward_model", sha256=sha256))
    assert supervise(run.pk)
    kept = list(Evaluation.objects.get(run=run).items.select_related("sample"))
    assert len(kept) == 3
    for item in kept:
        read = join_sequences([item.sample.prompt_tokens], [item.sample.tokens])
        assert item.reward == pytest.approx(float(model.score(read)), abs=1e-4)
        assert item.uncertainty == pytest.approx(float(model.uncertainty(read)), abs=1e-4)
        assert item.uncertainty > 0


def test_ppo_is_given_the_prompts_that_no_evaluation_is(project, policies, reward_model):
    asked = {
        "train": start_policy_run(
            actor=None, project=project, config=PolicyConfig(), reward_model=reward_model, request_id=uuid4()
        ),
        "held_out": ask(project, policies[1]),
    }
    given = {}
    for split, run in asked.items():
        directory = write_run_directory(Run.objects.get(pk=run.pk))
        lines = [json.loads(line) for line in (directory.path / "prompts.jsonl").read_text().splitlines()]
        given[split] = {(line["prompt_id"], line["text"]) for line in lines}
        wanted = Prompt.objects.filter(project=project, split=split).values_list("pk", "text")
        assert given[split] == {(str(pk), text) for pk, text in wanted}, split
        assert len(lines) == len(given[split]) > 0
    assert not given["train"] & given["held_out"]
    assert len(given["train"] | given["held_out"]) == Prompt.objects.count()


def test_a_function_named_in_a_form_reaches_no_run(client, project, policies, reward_model):
    client.force_login(User.objects.get(is_superuser=True))
    sent = {"preset": "CPU", "reward_model": reward_model.pk, "request_id": str(uuid4())}
    named = {"reward": "os:system", "inputs": '{"reward": "os:system"}'}
    assert client.post(f"/p/{project.slug}/runs/policy/", {**sent, **named}).status_code == 302
    run = Run.objects.get()
    request = json.loads((write_run_directory(run).path / "run.json").read_bytes())
    assert request["inputs"].keys() == {"policy", "reward_model"}
    assert "os:system" not in json.dumps(request)
    shutil.rmtree(run_folder(run))
    run.config = {**run.config, "reward": "os:system"}  # nor would a row that somebody had altered
    with pytest.raises(ConfigError, match="reward = 'os:system' is not permitted: no such setting"):
        write_run_directory(run)


def test_raters_never_see_the_answers_of_an_evaluation(project, policies):
    before = slots_missing(project=project)
    assert supervise(ask(project, policies[1]).pk)
    assert Sample.objects.filter(checkpoint=policies[1]).count() == 3
    assert not Comparison.objects.exists()
    assert not Slot.objects.exists()
    assert slots_missing(project=project) == before


def test_the_same_settings_again_are_the_same_samples_and_an_evaluation_of_their_own(project, policies):
    for _ in range(2):
        assert supervise(ask(project, policies[1]).pk)
    first, second = Evaluation.objects.order_by("created_at")
    assert set(first.samples.all()) == set(second.samples.all())
    assert first.metrics["kl"] == second.metrics["kl"]
    assert Sample.objects.count() == 6


def test_a_process_that_is_killed_goes_on_and_nothing_comes_twice(project, policies, monkeypatch):
    monkeypatch.setenv("STEERSMAN_FAILPOINT", "before-rename:2")  # each life saves one policy's answers, then dies
    run = ask(project, policies[2])
    assert supervise(run.pk)
    run.refresh_from_db()
    assert run.state == "succeeded", run.error
    told = RunEvent.objects.filter(run=run, kind="log", message__contains=signal.SIGKILL.name).count()
    assert told >= 1
    assert Evaluation.objects.count() == 1
    assert EvaluationSample.objects.count() == Sample.objects.count() == 9


def test_a_supervisor_that_dies_before_the_end_is_written_leaves_nothing_behind(project, policies, monkeypatch):
    run = ask(project, policies[1])
    held = claim(run.pk, "one")
    directory = write_run_directory(held.run)
    assert cli.train(directory.path, "evaluate") == 0
    found = read_evaluation(held.run, directory.result)
    with monkeypatch.context() as patched:
        patched.setattr(results, "end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            results.succeed(held, outputs=[], result={}, evaluation=found)
    assert not Evaluation.objects.exists()
    assert not Sample.objects.exists()
    results.succeed(held, outputs=[], result={}, evaluation=found)
    assert Evaluation.objects.get().samples.count() == 6
    with pytest.raises(FenceLost):
        results.succeed(held, outputs=[], result={}, evaluation=found)


def test_altered_samples_are_not_recorded(project, policies):
    run = ask(project, policies[1])
    write_run_directory(Run.objects.select_related("project", "policy", "serving").get(pk=run.pk))
    folder = run_folder(run)
    (folder / "samples.jsonl").write_text("{}\n")
    report = {"samples": {"file": "samples.jsonl", "sha256": "0" * 64}}
    (folder / "result.json").write_text(json.dumps({"outputs": [], "metrics": {}, "report": report}))
    assert supervise(run.pk)
    run.refresh_from_db()
    assert run.state == "failed"
    assert "samples are damaged" in run.error
    assert not Evaluation.objects.exists()


def test_a_double_click_is_one_evaluation(project, policies):
    key = uuid4()
    assert ask(project, policies[1], request_id=key) == ask(project, policies[1], request_id=key)
    assert Run.objects.count() == 1
    run = Run.objects.get()
    assert (run.number, run.kind, run.policy, run.serving) == (1, "evaluate", policies[1], policies[0])


def test_the_policy_that_serves_is_remembered_as_it_was_when_asked(project, policies):
    run = ask(project, policies[2])
    promote(project=project, checkpoint=policies[1], actor=None, expected_epoch=serving(project).epoch)
    run.refresh_from_db()
    assert references_of(run) == {"parent": policies[1], "base": policies[0], "serving": policies[0]}
    assert references_of(ask(project, policies[0])) == {"serving": policies[1]}
    assert references_of(ask(project, policies[1])) == {"parent": policies[0], "base": policies[0]}


def test_what_cannot_be_evaluated_is_refused_with_the_cure(project, policies, reward_model):
    with pytest.raises(WrongCheckpoint, match="not one of the project's policies"):
        ask(project, reward_model)
    with pytest.raises(WrongCheckpoint, match="reward models"):
        ask(project, policies[1], policies[0])
    key = uuid4()
    ask(project, policies[1], request_id=key)
    Run.objects.update(kind="policy")
    with pytest.raises(RequestReused):
        ask(project, policies[1], request_id=key)
    Prompt.objects.filter(project=project).update(split="train")
    with pytest.raises(NoHeldOutPrompts, match="Import some"):
        ask(project, policies[1])


def test_an_evaluation_cannot_be_changed(project, policies):
    assert supervise(ask(project, policies[1]).pk)
    for change in (
        lambda: Evaluation.objects.update(prompts=9),
        lambda: EvaluationSample.objects.update(reward=1.0),
        lambda: EvaluationSample.objects.all().delete(),
    ):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()
