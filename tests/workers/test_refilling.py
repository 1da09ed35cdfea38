"""Filling the queue: what is recorded of a sample, how many, by whom, and what happens when a policy is promoted."""

import threading

import pytest
from django.db import connection
from django.db.models import Count

from rlhf_core.config import SamplingConfig
from rlhf_core.store import checkpoint_path
from tests.workers.conftest import make_project
from webapp.feedback import services as feedback
from webapp.feedback.models import Comparison, Sample, Slot
from webapp.projects.models import Project, Prompt
from webapp.projects.services import import_prompts
from webapp.registry.selectors import serving
from webapp.registry.services import change_sampling, promote, record_checkpoint
from workers.locks import try_lock
from workers.refilling import choose_kinds, plan_items, refill, refill_all
from workers.sampler.client import SamplerClient


def test_a_refill_brings_the_queue_to_its_target_and_a_second_adds_nothing(project, start_sampler, steersman_data):
    _, client = start_sampler(steersman_data / "checkpoints")
    made = refill(project.pk, client)
    assert made == 12
    assert Slot.objects.filter(project=project, state="open").count() == 12
    assert refill(project.pk, client) == 0
    assert refill_all(client) == 0
    kinds = set(Comparison.objects.values_list("kind", flat=True))
    assert "pair" in kinds


def test_a_sample_says_all_it_takes_to_draw_it_again(project, start_sampler, steersman_data):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    pointer = serving(project)
    for sample in Sample.objects.select_related("prompt", "checkpoint", "sampling"):
        assert (sample.checkpoint, sample.sampling) == (pointer.checkpoint, pointer.sampling)
        assert sample.prompt.split == "train"
        again = client.draw(sample.checkpoint.sha256, [sample.prompt.text], [sample.seed], sample.sampling.values)
        assert again.samples[0].tokens == sample.tokens
        assert again.samples[0].prompt_tokens == sample.prompt_tokens
        assert again.samples[0].log_prob == pytest.approx(sample.log_prob, abs=1e-4)


def test_each_prompt_is_asked_about_before_any_comes_again(project, start_sampler, steersman_data):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    prompts = list(Comparison.objects.values_list("prompt", flat=True))
    assert len(prompts) == len(set(prompts))


def test_overlap_counts_slots_and_not_items(project, start_sampler, steersman_data):
    project.overlap = 5
    project.save()
    _, client = start_sampler(steersman_data / "checkpoints")
    assert refill(project.pk, client) == 3  # 12 slots wanted: 3 items of 5 are the fewest that reach it
    assert Slot.objects.filter(project=project, state="open").count() == 15


def test_after_a_promotion_the_queue_holds_the_new_policy_alone(project, start_sampler, steersman_data, make_policy):
    _, client = start_sampler(steersman_data / "checkpoints")
    refill(project.pk, client)
    newer = record_checkpoint(
        project=project, kind="policy", sha256=make_policy(steersman_data / "checkpoints", seed=1).id
    )
    promote(project=project, checkpoint=newer, actor=None, expected_epoch=1)
    assert refill(project.pk, client) == 12
    waiting = Slot.objects.filter(project=project, state="open").values_list("comparison__first__checkpoint", flat=True)
    assert set(waiting) == {newer.pk}


def test_a_paused_project_and_one_without_a_policy_draw_nothing(project, start_sampler, steersman_data):
    _, client = start_sampler(steersman_data / "checkpoints")
    project.is_paused = True
    project.save()
    assert refill(project.pk, client) == 0
    assert refill_all(client) == 0


def test_without_a_sampler_or_with_a_damaged_policy_nothing_is_written(project, start_sampler, steersman_data, caplog):
    assert refill(project.pk, SamplerClient(steersman_data / "nobody.sock")) == 0
    assert "does not answer" in caplog.text
    sampler, client = start_sampler(steersman_data / "checkpoints")
    (checkpoint_path(steersman_data / "checkpoints", serving(project).checkpoint.sha256) / "manifest.json").write_text(
        ""
    )
    assert refill(project.pk, client) == 0
    assert "altered" in caplog.text
    assert Sample.objects.count() == 0


def test_prompts_as_long_as_an_import_takes_them_fill_the_queue(project, start_sampler, steersman_data):
    _, client = start_sampler(steersman_data / "checkpoints")
    lines = "".join(f"{number} " + "é" * 15_000 + "\n" for number in range(40))
    import_prompts(actor=None, project=project, text=lines, format="text", held_out_percent=0)
    Prompt.objects.filter(project=project, text__startswith="The film").update(split="held_out")
    project.buffer_target = 40
    project.pair_percent = 100
    project.save()
    assert refill(project.pk, client) == 40


def test_a_request_that_the_sampler_refuses_stops_no_other_project(project, start_sampler, steersman_data, caplog):
    _, client = start_sampler(steersman_data / "checkpoints", batch_rows=1)
    project.pair_percent = 100
    project.save()
    assert refill_all(client) == 0
    assert "one seed each, 1 to 1 rows" in caplog.text


def test_each_project_gets_its_turn_where_the_time_suffices_for_one(
    project, start_sampler, steersman_data, make_policy, monkeypatch
):
    monkeypatch.setattr("workers.refilling.TICK_SECONDS", 0.0)
    monkeypatch.setattr("workers.refilling.ROUND_SECONDS", 0.0)
    other = make_project(make_policy(steersman_data / "checkpoints").id, slug="other", buffer_target=12)
    _, client = start_sampler(steersman_data / "checkpoints")
    assert refill_all(client) == 4, "the first small batch of one project, and no more"
    for _ in range(40):
        refill_all(client)
    waiting = Slot.objects.filter(state="open").order_by().values_list("project").annotate(Count("id"))
    assert dict(waiting) == {project.pk: 12, other.pk: 12}


@pytest.mark.django_db(transaction=True)
def test_while_one_worker_fills_another_leaves_it_be(steersman_data):
    found = []

    def look():
        with try_lock("same") as had:
            found.append(had)
        connection.close()

    with try_lock("same") as had:
        assert had
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    with try_lock("same") as had:
        assert had
    assert found == [False]


def test_the_first_item_is_a_pair_if_there_are_any():
    assert choose_kinds(50, {"pair": 0}) == ["single"] * 50
    assert choose_kinds(50, {"pair": 1})[0] == "pair"
    assert choose_kinds(50, {"pair": 100}) == ["pair"] * 50
    assert choose_kinds(50, {"pair": 0, "ranking": 100}) == ["ranking"] * 50
    found = choose_kinds(4000, {"pair": 60, "ranking": 30})
    assert [round(found.count(kind) / 400) for kind in ("pair", "ranking", "single")] == pytest.approx([6, 3, 1], abs=1)


def test_a_batch_holds_no_more_answers_than_the_sampler_draws_at_once():
    prompts = [Prompt(text=str(n)) for n in range(16)]
    plan = plan_items(Project(pair_percent=0, ranking_percent=100, ranking_size=6), prompts)
    assert [(kind, count) for _, kind, count in plan] == [("ranking", 6)] * 5  # 30 of 32
    pairs = plan_items(Project(pair_percent=100), prompts)
    assert [(kind, count) for _, kind, count in pairs] == [("pair", 2)] * 16


def test_a_policy_that_only_makes_twins_ends_the_tick(project, start_sampler, steersman_data):
    _, client = start_sampler(steersman_data / "checkpoints")
    project.pair_percent = 100
    project.save()
    greedy = SamplingConfig(max_new_tokens=8, max_prompt_tokens=8, temperature=1e-6)
    change_sampling(project=project, config=greedy, actor=None, expected_epoch=1)
    assert refill(project.pk, client) == 0
    assert feedback.slots_missing(project=project) == 12
