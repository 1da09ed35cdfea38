"""Checkpoints, and the pointer to the one that serves."""

from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from rlhf_core.config import SamplingConfig
from webapp import queue
from webapp.accounts.models import Audit
from webapp.errors import NoPolicy, PromotionConflict, WrongCheckpoint
from webapp.projects.services import import_prompts
from webapp.registry.models import Checkpoint, Promotion, SamplingSettings
from webapp.registry.selectors import held_out_prompts, policies, promotions, serving
from webapp.registry.services import adopt_policy, change_sampling, promote, record_checkpoint, sampling_settings


def test_checkpoints_are_numbered_by_project_and_kind_and_recorded_once(studio):
    here, there = studio.project(), studio.project()
    first = record_checkpoint(project=here, kind="policy", sha256="a" * 64, metrics={"kl": 1.5})
    assert record_checkpoint(project=here, kind="policy", sha256="a" * 64) == first
    assert [studio.checkpoint(here).version, studio.checkpoint(here, "reward_model").version] == [2, 1]
    assert record_checkpoint(project=there, kind="policy", sha256="a" * 64).version == 1
    with pytest.raises(WrongCheckpoint):
        record_checkpoint(project=here, kind="reward_model", sha256="a" * 64)
    assert [row.version for row in policies(here)] == [2, 1]


def test_checkpoints_recorded_at_once_have_versions_of_their_own(live_studio, at_once):
    project = live_studio.project()
    found = at_once(*[lambda: live_studio.checkpoint(project).version] * 6)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]


def test_equal_sampling_settings_are_one_row(studio):
    one, two = sampling_settings(SamplingConfig(top_k=50)), sampling_settings(SamplingConfig(top_k=50))
    assert one == two
    assert one.values["top_k"] == 50
    assert sampling_settings(SamplingConfig(top_k=51)) != one


def test_the_first_promotion_makes_the_pointer_at_epoch_1(studio):
    project = studio.project()
    assert serving(project) is None
    promotion = promote(
        project=project, checkpoint=studio.checkpoint(project), actor=studio.admin, expected_epoch=0, reason="base"
    )
    pointer = serving(project)
    assert (pointer.epoch, pointer.checkpoint, promotion.epoch) == (1, promotion.to_checkpoint, 1)
    assert pointer.sampling.values["max_new_tokens"] == 64  # the defaults
    assert (promotion.from_checkpoint, promotion.actor, promotion.reason) == (None, studio.admin, "base")
    assert Audit.objects.filter(action="policy.promote").count() == 1


@pytest.mark.parametrize("expected_epoch", [0, 2, 7])
def test_a_promotion_decided_on_another_state_changes_nothing(studio, expected_epoch):
    project = studio.ready_project()
    with pytest.raises(PromotionConflict, match="v1 serves now") as refused:
        promote(
            project=project, checkpoint=studio.checkpoint(project), actor=studio.admin, expected_epoch=expected_epoch
        )
    assert refused.value.epoch == serving(project).epoch == 1
    assert Promotion.objects.count() == 1


@pytest.mark.parametrize("first", [True, False])
def test_of_two_admins_who_promote_at_once_one_wins(live_studio, at_once, first):
    project = live_studio.project() if first else live_studio.ready_project()
    one, two = live_studio.checkpoint(project), live_studio.checkpoint(project)
    epoch = 0 if first else 1
    answers = at_once(
        *[
            lambda row=row: promote(project=project, checkpoint=row, actor=live_studio.admin, expected_epoch=epoch)
            for row in (one, two)
        ]
    )
    won = [answer for answer in answers if isinstance(answer, Promotion)]
    assert len(won) == 1
    assert sum(isinstance(answer, PromotionConflict) for answer in answers) == 1
    assert (serving(project).epoch, serving(project).checkpoint) == (epoch + 1, won[0].to_checkpoint)


def test_a_rollback_is_a_promotion_of_an_earlier_policy(studio):
    project = studio.ready_project()
    first = serving(project).checkpoint
    second = studio.promoted(project)
    studio.promoted(project, first)
    assert (serving(project).checkpoint, serving(project).epoch) == (first, 3)
    assert [row.to_checkpoint for row in promotions(project)] == [first, second, first]
    assert promotions(project)[0].from_checkpoint == second


def test_only_a_policy_of_the_project_can_serve(studio):
    project = studio.ready_project()
    for other in (studio.checkpoint(project, "reward_model"), studio.checkpoint(studio.project())):
        with pytest.raises(WrongCheckpoint):
            promote(project=project, checkpoint=other, actor=studio.admin, expected_epoch=1)


def test_other_sampling_settings_move_the_epoch_and_keep_the_policy(studio):
    project = studio.ready_project()
    promotion = change_sampling(
        project=project, config=SamplingConfig(temperature=0.7), actor=studio.admin, expected_epoch=1
    )
    pointer = serving(project)
    assert (pointer.epoch, pointer.checkpoint.version, pointer.sampling.values["temperature"]) == (2, 1, 0.7)
    assert promotion.from_checkpoint == promotion.to_checkpoint
    studio.promoted(project)
    assert serving(project).sampling.values["temperature"] == 0.7  # a promotion leaves them
    with pytest.raises(NoPolicy):
        change_sampling(project=studio.project(), config=SamplingConfig(), actor=None, expected_epoch=0)


def test_the_sampler_is_rung_for_once_the_promotion_is_committed(
    studio, monkeypatch, django_capture_on_commit_callbacks
):
    rung = []
    monkeypatch.setattr(queue, "refill", rung.append)
    project = studio.project()
    checkpoint = studio.checkpoint(project)
    with django_capture_on_commit_callbacks(execute=True):
        promote(project=project, checkpoint=checkpoint, actor=studio.admin, expected_epoch=0)
        assert rung == []
    assert rung == [project.pk]


def test_what_is_registered_cannot_be_changed(studio):
    project = studio.ready_project()
    for change in (
        lambda: Checkpoint.objects.update(sha256=uuid4().hex),
        lambda: Promotion.objects.update(reason="another"),
        lambda: Promotion.objects.all().delete(),
        lambda: SamplingSettings.objects.update(values={}),
    ):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()
    assert serving(project).epoch == 1


# --- Taken over from another project ---------------------------------------------------------------------------------


def test_a_policy_keeps_where_it_was_taken_over_from(studio):
    here, there, by_command = studio.ready_project(), studio.project(), studio.project()
    source = serving(here).checkpoint
    taken = adopt_policy(project=there, source=serving(here), actor=studio.admin).to_checkpoint
    assert (taken.source, taken.parent, source.source) == (source, None, None)
    assert record_checkpoint(project=by_command, kind="policy", sha256=source.sha256).source == source
    child = record_checkpoint(project=there, kind="policy", sha256="c" * 64, parent=taken)
    assert child.source is None


def test_what_a_policy_learned_from_in_another_project_is_not_held_out_here(studio):
    """The same 200 prompts everywhere: 20 of 100 are held out where it was trained, 50 of 100 where it went to."""
    here, early, there, beyond = studio.ready_project(), studio.project(), studio.project(), studio.project()
    text = "".join(f"prompt {number}\n" for number in range(200))
    for project, percent in ((here, 20), (early, 50), (there, 50), (beyond, 50)):
        import_prompts(actor=studio.admin, project=project, text=text, format="text", held_out_percent=percent)
    hashes = {project: set(project.prompts.filter(split="held_out").values_list("sha256")) for project in (here, there)}
    base = serving(here).checkpoint
    adopt_policy(project=early, source=serving(here), actor=studio.admin)
    studio.promoted(here, studio.checkpoint(here, parent=base))
    adopt_policy(project=there, source=serving(here), actor=studio.admin)
    adopt_policy(project=beyond, source=serving(there), actor=studio.admin)
    assert set(held_out_prompts(here).values_list("sha256")) == hashes[here]
    assert set(held_out_prompts(early).values_list("sha256")) == hashes[there], "the base had learned from none"
    assert 0 < len(hashes[here] & hashes[there]) < len(hashes[there])
    for project in (there, beyond):
        assert set(held_out_prompts(project).values_list("sha256")) == hashes[here] & hashes[there]
