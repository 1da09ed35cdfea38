"""Scores of what raters are shown: by which model, beside the raters' way, once each whatever happens to a worker."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from django.db import IntegrityError
from kombu import Connection

from rlhf_core.config import SamplingConfig
from rlhf_core.masking import join_sequences
from rlhf_core.store import checkpoint_path
from rlhf_core.text.tokenizer import Tokenizer
from tests.faults.watching import WORKER, until
from tests.reward_models import make_reward_model, without_numbers
from webapp import queue
from webapp.feedback.models import NoScore, Sample, SampleScore, Slot
from webapp.feedback.ordering import most_uncertain
from webapp.feedback.services import NewSample, record_samples
from webapp.projects.models import Prompt
from webapp.registry.selectors import serving
from webapp.registry.services import promote, record_checkpoint
from workers.refilling import refill
from workers.sampler.client import SamplerClient
from workers.sampler.wire import TokensUnread
from workers.scoring import BATCH_ROWS, ring, score, score_all

WISHES = SamplingConfig(max_new_tokens=6, max_prompt_tokens=8)


def scores_by(reward_model) -> dict:
    return {row.sample_id: row for row in SampleScore.objects.filter(reward_model=reward_model)}


def none_for(reward_model) -> dict:
    """The samples for which a reward model has no score, and why."""
    return dict(NoScore.objects.filter(reward_model=reward_model).values_list("sample", "reason"))


def assert_nobody_is_asked(project, caplog) -> None:
    """Nothing waits: no message is sent, and a worker asks no sampler, else the log would name the one that is gone."""
    caplog.clear()
    assert score_all() == 0
    assert score(project.pk, SamplerClient(Path("/nowhere/nobody.sock"))) == 0
    assert "project" not in caplog.text


def test_every_sample_for_raters_is_scored_with_the_ensembles_uncertainty(project, start_sampler, steersman_data, add):
    _, client = start_sampler(steersman_data / "checkpoints")
    assert refill(project.pk, client) == 12
    assert score(project.pk, client) == 0, "without a reward model there is nothing to do"
    reward_model, model = add(ensemble=3)
    assert score(project.pk, client) == Sample.objects.count() > BATCH_ROWS
    found = scores_by(reward_model)
    for sample in Sample.objects.all():
        read = join_sequences([sample.prompt_tokens], [sample.tokens])
        assert found[sample.pk].score == pytest.approx(float(model.score(read)), abs=1e-4)
        assert found[sample.pk].uncertainty == pytest.approx(float(model.uncertainty(read)), abs=1e-4)
        assert found[sample.pk].uncertainty > 0
    assert score(project.pk, client) == 0
    assert score_all() == 0


def test_a_newer_reward_model_scores_anew_and_what_the_older_one_said_stays(
    project, start_sampler, steersman_data, add
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    older, _ = add()
    score(project.pk, client)
    before = scores_by(older)
    newer, _ = add(seed=8)
    assert score(project.pk, client) == len(before)
    assert {row.uncertainty for row in scores_by(newer).values()} == {
        None
    }  # one model alone has nobody to disagree with
    assert {key: row.score for key, row in scores_by(older).items()} == {key: row.score for key, row in before.items()}
    with pytest.raises(IntegrityError, match="append-only"):
        SampleScore.objects.filter(reward_model=older).update(score=1.0)


def test_what_evaluations_drew_is_left_to_them(project, start_sampler, steersman_data, add):
    _, client = start_sampler(steersman_data / "checkpoints")
    pointer = serving(project)
    held_out = Prompt.objects.filter(project=project, split="held_out").first()
    drawn = NewSample(held_out.pk, 1, [1, 5], [7, 2], "x", "end", -1.0)
    record_samples(checkpoint=pointer.checkpoint, sampling=pointer.sampling, samples=[drawn])
    add()
    assert score(project.pk, client) == 0


def test_a_reward_model_that_fails_stops_no_sample_on_its_way(project, start_sampler, steersman_data, add, caplog):
    _, client = start_sampler(steersman_data / "checkpoints")
    reward_model, _ = add()
    (checkpoint_path(steersman_data / "checkpoints", reward_model.sha256) / "manifest.json").write_text("")
    assert refill(project.pk, client) == 12
    assert score(project.pk, client) == 0
    assert "no scores by reward model 1" in caplog.text
    assert "altered" in caplog.text
    assert not SampleScore.objects.exists()
    Slot.objects.filter(project=project).update(state="void")
    assert refill(project.pk, client) == 12
    assert score(project.pk, SamplerClient(steersman_data / "nobody.sock")) == 0
    assert "does not answer" in caplog.text


def test_a_policy_that_writes_other_tokens_is_left_out_and_the_others_are_scored(
    project, start_sampler, steersman_data, make_policy, save, caplog
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    first = Sample.objects.count()
    newer = record_checkpoint(
        project=project, kind="policy", sha256=make_policy(steersman_data / "checkpoints", seed=1).id
    )
    promote(project=project, checkpoint=newer, actor=None, expected_epoch=1)
    refill(project.pk, client)
    other = Tokenizer.train(["quite other words"] * 3, vocab_size=280)
    stranger = record_checkpoint(project=project, kind="reward_model", sha256=save(make_reward_model(other), other).id)
    assert score(project.pk, client) == 0
    assert caplog.text.count("reads other tokens than the policy writes") == 2, "each of the two policies is asked once"
    assert Sample.objects.count() > first
    assert none_for(stranger) == dict.fromkeys(Sample.objects.values_list("pk", flat=True), "tokens")
    assert_nobody_is_asked(project, caplog)


def test_a_policy_that_cannot_be_read_keeps_no_other_from_being_scored(
    project, start_sampler, steersman_data, make_policy, add, caplog
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    older = Sample.objects.count()
    newer = make_policy(steersman_data / "checkpoints", seed=1).id
    checkpoint = record_checkpoint(project=project, kind="policy", sha256=newer)
    sample = Sample.objects.first()
    drawn = NewSample(sample.prompt_id, 1, [1, 5], [7, 2], "x", "end", -1.0)
    record_samples(checkpoint=checkpoint, sampling=sample.sampling, samples=[drawn])
    (checkpoint_path(steersman_data / "checkpoints", newer) / "manifest.json").write_text("")
    add()
    assert score(project.pk, client) == older
    assert caplog.text.count("the policy cannot be read") == 1
    assert not NoScore.objects.exists(), "its files may come back"
    assert score_all() == 1


def test_a_sample_without_a_finite_score_keeps_no_other_from_being_scored(
    project, start_sampler, steersman_data, tokenizer, save, add, caplog
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    odd = tokenizer.vocab_size - 1
    some = Sample.objects.exclude(tokens__contains=[odd]).exclude(prompt_tokens__contains=[odd])
    older = set(some.values_list("pk", flat=True))
    assert len(older) > BATCH_ROWS
    model = make_reward_model(tokenizer)
    model.palm.token_emb.weight.data[odd] = 3e38  # whose squares no float32 holds
    model.palm.token_emb.weight.data[odd, ::2] = -3e38
    reward_model = record_checkpoint(project=project, kind="reward_model", sha256=save(model).id)
    sample = some.first()
    for seed, tokens in enumerate([[odd, 2], [7, 2]]):
        drawn = NewSample(sample.prompt_id, seed, [1, 5], tokens, "x", "end", -1.0)
        record_samples(checkpoint=sample.checkpoint, sampling=sample.sampling, samples=[drawn])
    assert score(project.pk, client) == len(older) + 1, "all but one, which is among the first that are scored"
    assert older < scores_by(reward_model).keys()
    assert f"samples without a score, {Sample.objects.count() - len(older) - 1}, are left out" in caplog.text
    assert "not finite" in caplog.text
    assert none_for(reward_model) == dict.fromkeys(
        set(Sample.objects.values_list("pk", flat=True)) - scores_by(reward_model).keys(), "not_finite"
    )
    assert_nobody_is_asked(project, caplog)
    newer, _ = add()
    assert score(project.pk, client) == Sample.objects.count(), "another reward model is asked about each"
    assert not none_for(newer)


def test_a_reward_model_without_any_finite_score_gets_one_slice_of_the_workers_time(
    project, start_sampler, steersman_data, tokenizer, save, caplog, monkeypatch, broker_url
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    record_checkpoint(project=project, kind="reward_model", sha256=save(without_numbers(tokenizer)).id)
    rest = Sample.objects.count() - BATCH_ROWS
    assert 0 < rest < BATCH_ROWS
    monkeypatch.setattr("workers.scoring.SLICE_SECONDS", 0.0)
    queue.sender.cache_clear()
    with Connection(broker_url) as connection:
        channel = connection.default_channel
        for count, rung in ((BATCH_ROWS, 1), (rest, 0)):
            channel.queue_purge("sample")
            assert score(project.pk, client) == 0
            assert f"samples without a score, {count}, are left out" in caplog.text
            assert channel.queue_declare("sample").message_count == rung, "it goes on until nothing is left"
    assert_nobody_is_asked(project, caplog)


@pytest.mark.parametrize(
    "fault",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        OSError(28, "No space left on device"),
        ValueError("a fault of ours"),
    ],
)
def test_what_fails_now_is_not_written_down_and_tried_again(
    project, start_sampler, steersman_data, add, monkeypatch, fault
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    add()

    def fail(*_):
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("workers.sampler.scoring.ModelReward.score_with_uncertainty", fail)
        assert score(project.pk, client) == 0
    assert not NoScore.objects.exists()
    assert score_all() == 1
    assert score(project.pk, client) == Sample.objects.count()


def test_tokens_that_the_reward_model_does_not_know_are_told_apart_from_a_malformed_request(
    project, start_sampler, steersman_data, add
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    fine = Sample.objects.count()
    sample = Sample.objects.first()
    drawn = NewSample(sample.prompt_id, 1, [1, 5], [10**6], "x", "end", -1.0)
    (odd,) = record_samples(checkpoint=sample.checkpoint, sampling=sample.sampling, samples=[drawn])
    reward_model, _ = add()
    assert score(project.pk, client) == fine
    assert none_for(reward_model) == {odd.pk: "tokens"}
    with pytest.raises(TokensUnread, match="a token is not between 0 and"):
        client.score(reward_model.sha256, sample.checkpoint.sha256, [[1]], [[10**6]])


def test_it_makes_room_after_each_batch_and_asks_for_its_own_continuation(
    project, start_sampler, steersman_data, add, broker_url
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    add()
    queue.sender.cache_clear()
    with Connection(broker_url) as connection:
        channel = connection.default_channel
        channel.queue_purge("sample")
        assert score(project.pk, client, should_yield=lambda: True) == BATCH_ROWS
        assert channel.queue_declare("sample").message_count == 1
        assert score_all() == 1
        assert channel.queue_declare("sample").message_count == 1, "one has been asked for already"
        rest = Sample.objects.count() - BATCH_ROWS
        assert score(project.pk, client, should_yield=lambda: True) == rest < BATCH_ROWS
        assert channel.queue_declare("sample").message_count == 1, "all is done: nobody needs to go on"
        channel.queue_purge("sample")


def test_two_messages_to_score_become_one(project, start_sampler, steersman_data, add, broker_url):
    project.buffer_target = 40
    project.save()
    _, client = start_sampler(steersman_data / "checkpoints")
    while refill(project.pk, client):
        pass
    add()
    assert Sample.objects.count() > 3 * BATCH_ROWS
    queue.sender.cache_clear()
    with Connection(broker_url) as connection:
        channel = connection.default_channel
        channel.queue_purge("sample")
        for _ in range(2):
            queue.score(project.pk)
        for _ in range(3):
            channel.basic_get("sample", no_ack=True)
            assert score(project.pk, client, should_yield=lambda: True) == BATCH_ROWS
            assert channel.queue_declare("sample").message_count == 1
        channel.queue_purge("sample")


@pytest.mark.parametrize("fault", ["no sampler", "no manifest", "a fault of ours"])
def test_what_could_not_be_scored_is_asked_for_again_after_a_rest_and_not_with_every_tick(
    project, start_sampler, steersman_data, add, broker_url, monkeypatch, fault
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    add()
    if fault == "no manifest":
        policy = serving(project).checkpoint
        (checkpoint_path(steersman_data / "checkpoints", policy.sha256) / "manifest.json").write_text("")
    if fault == "a fault of ours":
        monkeypatch.setattr("workers.sampler.scoring.ModelReward.score_with_uncertainty", lambda *_: int("x"))
    client = SamplerClient(steersman_data / "nobody.sock") if fault == "no sampler" else client
    queue.sender.cache_clear()
    with Connection(broker_url) as connection:
        channel = connection.default_channel
        channel.queue_purge("sample")
        assert score(project.pk, client) == 0
        ring()
        assert channel.queue_declare("sample").message_count == 0
        assert score_all() == 1
        assert channel.queue_declare("sample").message_count == 1, "the clock's look asks all the same, once a minute"
        channel.queue_purge("sample")
        monkeypatch.setattr("workers.scoring.REST_SECONDS", 0.0)
        assert score(project.pk, client) == 0
        ring()
        assert channel.queue_declare("sample").message_count == 1
        channel.queue_purge("sample")


@pytest.mark.parametrize("fault", ["no finite score", "other tokens"])
def test_what_can_never_be_scored_is_not_asked_for_again_and_what_is_drawn_later_is(
    project, start_sampler, steersman_data, tokenizer, save, broker_url, fault
):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    other = Tokenizer.train(["quite other words"] * 3, vocab_size=280)
    model = save(make_reward_model(other), other) if fault == "other tokens" else save(without_numbers(tokenizer))
    reward_model = record_checkpoint(project=project, kind="reward_model", sha256=model.id)
    queue.sender.cache_clear()
    with Connection(broker_url) as connection:
        channel = connection.default_channel
        channel.queue_purge("sample")
        assert score(project.pk, client) == 0
        assert score_all() == 0
        assert channel.queue_declare("sample").message_count == 0, "not even by the clock's look"
        sample = Sample.objects.first()
        drawn = NewSample(sample.prompt_id, 1, [1, 5], [7, 2], "x", "end", -1.0)
        record_samples(checkpoint=sample.checkpoint, sampling=sample.sampling, samples=[drawn])
        ring()
        assert channel.queue_declare("sample").message_count == 1, "the project does not rest"
        channel.queue_purge("sample")
    assert score(project.pk, client) == 0
    assert len(none_for(reward_model)) == Sample.objects.count()


def test_what_was_scored_orders_the_queue_where_the_project_wants_it(project, start_sampler, steersman_data, add):
    project.choice = "uncertain"
    project.save()
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    reward_model, _ = add(ensemble=2)
    score(project.pk, client)
    first = Slot.objects.filter(priority=1).values_list("comparison", flat=True)
    assert set(first) == set(most_uncertain(project, reward_model, limit=3))
    assert len(first) == 3  # a quarter of twelve
    project.choice = "random"
    project.save()
    score_all()
    assert not Slot.objects.filter(priority=1).exists()


# --- Faults ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def start_worker(process_environment, broker_url, tmp_path: Path):
    """Start a real worker of the queue ``sample``, in a process group of its own; what is left of it is killed."""
    queue.sender.cache_clear()
    begun: list[subprocess.Popen] = []

    def start(address: Path) -> subprocess.Popen:
        environment = {**process_environment, "SAMPLER_ADDRESS": f"unix:{address}", "STEERSMAN_ROLE": "worker"}
        with (tmp_path / f"worker-{len(begun)}.log").open("wb") as log:
            words = [sys.executable, *WORKER, "sample", "-c", "1", "-n", f"n{len(begun)}@%h"]
            begun.append(
                subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            )
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def test_a_worker_that_is_killed_while_it_scores_loses_nothing_and_doubles_nothing(
    transactional_db, project, start_sampler, steersman_data, add, start_worker, broker_url
):
    project.buffer_target = 40
    project.save()
    sampler, client = start_sampler(steersman_data / "checkpoints")
    with Connection(broker_url) as connection:
        connection.default_channel.queue_purge("sample")
        while refill(project.pk, client):
            pass
        waiting = connection.default_channel.queue_declare("sample").message_count
        assert waiting == 1, "the first filling asks for scores, and the others need not"
        connection.default_channel.queue_purge("sample")
    reward_model, _ = add(ensemble=2)
    wanted = Sample.objects.count()
    assert wanted > 3 * BATCH_ROWS
    reached, may_go_on = threading.Event(), threading.Event()
    score_some = sampler.score_some

    def score_slowly():
        if sampler.scored >= BATCH_ROWS and not may_go_on.is_set():  # in the middle of the second batch
            reached.set()
            may_go_on.wait(30)
        score_some()

    sampler.score_some = score_slowly
    worker = start_worker(client.address)
    queue.score(project.pk)
    assert reached.wait(60)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(10)
    assert SampleScore.objects.count() == BATCH_ROWS, "what was scored is kept, whole batches of it"
    may_go_on.set()
    start_worker(client.address)
    for _ in range(2):  # the clock's look, twice over
        assert score_all() == 1
    until(lambda: SampleScore.objects.count() == wanted, 60, "every sample is scored")
    assert set(scores_by(reward_model)) == set(Sample.objects.values_list("pk", flat=True))
    assert Slot.objects.filter(project=project, state="open").count() == 40
