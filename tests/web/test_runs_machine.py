"""Runs under any order of events: claims, renewals, lapsed leases, crashes, cancels, messages that come again."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rlhf_core.config import PolicyConfig
from webapp.errors import FenceLost
from webapp.runs.leases import claim, reap, renew, requeue
from webapp.runs.models import Run, RunOutput
from webapp.runs.progress import record_metrics, record_progress, record_saved
from webapp.runs.results import fail, finish_cancelled, succeed
from webapp.runs.services import cancel, start_policy_run

FINISHED = {"succeeded", "failed", "cancelled"}
STARTED = {"starting", "running"}


@pytest.mark.slow
def test_a_run_has_one_holder_at_most_and_an_end_that_lasts(studio):
    project = studio.ready_project(prompts=1)
    model = studio.checkpoint(project, "reward_model")

    class Runs(RuleBasedStateMachine):
        @initialize()
        def ask(self):
            self.run_id = start_policy_run(
                actor=None, project=project, config=PolicyConfig(), reward_model=model, request_id=uuid4()
            ).pk
            self.claims = []
            self.fence = 0
            self.final = None
            self.asked_to_cancel = False

        def row(self):
            return Run.objects.get(pk=self.run_id)

        def is_held_by(self, held):
            """What we expect, from the rows alone: the newest fence, in a state that is held."""
            row = self.row()
            return held.fence == row.fence and row.state in STARTED | {"cancelling"}

        @rule(owner=st.sampled_from(["one", "two"]))
        def message_comes(self, owner):
            before = self.row()
            free = before.state == "queued" or (
                before.state in STARTED and (before.lease_until is None or before.lease_until < timezone.now())
            )
            held = claim(self.run_id, owner)
            assert (held is not None) == (free and before.attempt < 3)
            if held:
                assert held.fence == before.fence + 1
                self.claims.append(held)

        @rule(gone=st.booleans())
        def lease_lapses(self, gone):
            until = None if gone else timezone.now() - timedelta(seconds=1)
            Run.objects.filter(pk=self.run_id, state__in=STARTED | {"cancelling"}).update(lease_until=until)

        @rule()
        def reaper_looks(self):
            before = self.row()
            waiting = reap(now=timezone.now())
            after = self.row()
            assert (self.run_id in waiting) == (after.state == "queued")
            lapsed = before.lease_until is None or before.lease_until < timezone.now()
            if before.state in STARTED and lapsed:
                assert after.state == ("queued" if before.attempt < 3 else "failed")
            elif before.state == "cancelling" and lapsed:
                assert after.state == "cancelled"
            else:
                assert after.state == before.state

        @rule()
        def admin_cancels(self):
            before = self.row().state
            after = cancel(actor=None, run=self.row()).state
            expected = {"queued": "cancelled", "starting": "cancelling", "running": "cancelling"}
            assert after == expected.get(before, before)
            self.asked_to_cancel |= before not in FINISHED

        @precondition(lambda self: self.claims)
        @rule(data=st.data())
        def holder_renews(self, data):
            held = data.draw(st.sampled_from(self.claims))
            expected = self.is_held_by(held)
            found = renew(held)
            assert found.alive == expected
            assert found.cancel_requested == (expected and self.asked_to_cancel)

        @precondition(lambda self: self.claims)
        @rule(
            data=st.data(),
            act=st.sampled_from(
                [
                    lambda held: record_progress(held, step=1, total_steps=3, phase="x"),
                    lambda held: record_metrics(held, [(1, {"kl": 0.5})]),
                    lambda held: record_saved(held, held.fence),
                    lambda held: requeue(held, spend_attempt=True),
                    lambda held: requeue(held, spend_attempt=False),
                    lambda held: fail(held, "diverged"),
                    lambda held: finish_cancelled(held),
                    lambda held: succeed(held, outputs=[{"kind": "policy", "id": uuid4().hex * 2}], result={}),
                ]
            ),
        )
        def holder_writes(self, data, act):
            held = data.draw(st.sampled_from(self.claims))
            expected, before = self.is_held_by(held), self.snapshot()
            try:
                act(held)
            except FenceLost:
                assert not expected
                assert self.snapshot() == before
            else:
                assert expected

        def snapshot(self):
            row = Run.objects.values().get(pk=self.run_id)
            return row, RunOutput.objects.filter(run=self.run_id).count()

        @invariant()
        def one_claim_at_most_holds(self):
            if hasattr(self, "claims"):
                assert sum(held.held().exists() for held in self.claims) <= 1

        @invariant()
        def who_holds_it_no_longer_cannot_write(self):
            if hasattr(self, "claims"):
                for held in self.claims[-3:]:
                    if not self.is_held_by(held):
                        with pytest.raises(FenceLost):
                            record_progress(held, step=99)

        @invariant()
        def the_fence_only_grows(self):
            if hasattr(self, "claims"):
                fence = self.row().fence
                assert fence >= self.fence
                self.fence = fence

        @invariant()
        def an_end_is_final(self):
            if hasattr(self, "claims"):
                now = self.snapshot()
                if self.final:
                    assert now == self.final
                elif now[0]["state"] in FINISHED:
                    self.final = now
                    assert now[1] == (1 if now[0]["state"] == "succeeded" else 0)
                    assert not (self.asked_to_cancel and now[0]["state"] == "succeeded")

    run_state_machine_as_test(
        Runs,
        settings=settings(
            max_examples=12,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a failing run is printed as it is: making it shorter takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
