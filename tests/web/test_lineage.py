"""From a policy back to the ratings that trained it, and from a rating to what it fed; and the loop board."""

from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from rlhf_core.config import PolicyConfig, RewardConfig
from webapp.accounts.services import ensure_simulated_rater
from webapp.projects.selectors import overview_for
from webapp.runs.leases import claim
from webapp.runs.live import read_live
from webapp.runs.models import Run
from webapp.runs.origins import origin_of
from webapp.runs.progress import record_log, record_metrics
from webapp.runs.results import succeed
from webapp.runs.run_details import find_run
from webapp.runs.selectors import board, curves, fate_of, lineage_of, runs_of
from webapp.runs.services import start_policy_run, start_reward_run
from webapp.runs.shown_ratings import ratings_in


def turn(studio, project, *, pairs=4):
    """One turn of the loop: ratings, a reward model, a policy, its promotion; gives the new policy."""
    studio.items(project, pairs=pairs)
    rater = studio.rater(project)
    studio.rate_all(rater, project)
    asked = {"actor": studio.admin, "project": project}
    run = start_reward_run(**asked, config=RewardConfig(minimum_ratings=2), request_id=uuid4())
    model = finish(run, "reward_model", {"holdout_accuracy": 0.7})
    run = start_policy_run(**asked, config=PolicyConfig(), reward_model=model, request_id=uuid4())
    return studio.promoted(project, finish(run, "policy", {"kl": 2.0}))


def finish(run, kind, metrics):
    held = claim(run.pk, "one")
    record_metrics(held, [(step, {"loss": 1 / (step + 1)}) for step in range(5)])
    record_log(held, "half way")
    succeed(held, outputs=[{"kind": kind, "id": uuid4().hex * 2}], result=metrics)
    return run.outputs.get()


def ratings_behind(policy):
    """The ratings that are listed as those that a policy learned from, the newest first."""
    page, _ = ratings_in(origin_of(policy).dataset, source="", page=None)
    return list(page)


def runs_in(fate):
    return sorted(run.number for one in fate.taught for run in (one.reward_run, *(run for run, _ in one.policies)))


def test_a_policy_leads_back_to_the_ratings_that_trained_it(studio):
    project = studio.ready_project()
    policy = turn(studio, project)
    steps = lineage_of(policy)
    assert [str(step.checkpoint) for step in steps] == ["v2", "reward model 1", "v1"]
    assert [step.run.number if step.run else None for step in steps] == [2, 1, None]
    assert (str(steps[0].parent), str(steps[0].reward_model), steps[1].ratings) == ("v1", "reward model 1", 4)
    behind = ratings_behind(policy)
    assert len(behind) == 4
    assert {item.rating for item in steps[1].dataset.items.all()} == set(behind)
    assert origin_of(steps[2].checkpoint).dataset is None
    assert policy.parent == steps[2].checkpoint


def test_a_rating_leads_to_all_that_it_fed(studio):
    project = studio.ready_project()
    first = turn(studio, project)
    second = turn(studio, project)
    old = ratings_behind(first)[0]
    new = next(rating for rating in ratings_behind(second) if rating not in ratings_behind(first))
    assert runs_in(fate_of(old)) == [1, 2, 3, 4]
    assert runs_in(fate_of(new)) == [3, 4]
    assert len(ratings_behind(second)) == 8
    assert [str(step.checkpoint) for step in lineage_of(second)] == [
        "v3",
        "reward model 2",
        "v2",
        "reward model 1",
        "v1",
    ]


def test_the_fate_of_a_rating_is_told_step_by_step(studio):
    project = studio.ready_project()
    first = turn(studio, project)
    rating = ratings_behind(first)[0]
    turn(studio, project)
    turn(studio, project, pairs=2)
    found = fate_of(rating)
    assert [dataset.counts["total"] for dataset in found.datasets] == [4, 8, 10]
    assert [str(one.reward_model) for one in found.taught] == ["reward model 1", "reward model 2", "reward model 3"]
    assert [[str(policy) for _, policy in one.policies] for one in found.taught] == [["v2"], ["v3"], ["v4"]]
    assert (found.unfinished, found.heirs, found.reached) == ([], [], True)


def test_policies_made_from_what_a_rating_taught_carry_it_on(studio):
    project = studio.ready_project()
    policy = turn(studio, project)
    child = studio.checkpoint(project, parent=policy)
    grandchild = studio.checkpoint(project, parent=child)
    studio.checkpoint(project, parent=policy.parent)
    assert fate_of(ratings_behind(policy)[0]).heirs == [child, grandchild]


def test_a_rating_that_nothing_learned_from_has_no_fate_yet(studio):
    project = studio.ready_project()
    studio.items(project, pairs=4)
    first, *_ = studio.rate_all(studio.rater(project), project)
    found = fate_of(first)
    assert (found.datasets, found.taught, found.reached) == ([], [], False)
    config = RewardConfig(minimum_ratings=2)
    run = start_reward_run(actor=None, project=project, config=config, request_id=uuid4())
    assert fate_of(first).unfinished == [run]


def test_the_board_tells_each_turn_of_the_loop(studio):
    project = studio.ready_project()
    assert [(str(row.policy), row.run, row.is_serving) for row in board(project).cycles] == [("v1", None, True)]
    turn(studio, project)
    studio.items(project, pairs=3)
    studio.rate_all(studio.rater(project), project)
    found = board(project)
    newest, base = found.cycles
    assert (newest.policy.version, newest.run.number, newest.reward_model.version, newest.reward_run.number) == (
        2,
        2,
        1,
        1,
    )
    assert (newest.dataset.counts["total"], newest.is_serving) == (4, True)
    assert (base.run, base.is_serving) == (None, False)
    assert (found.usable.total, found.new_ratings, found.queue.done, found.prompts.total) == (7, 3, 7, 7)
    assert [run.number for run in found.runs] == [2, 1]
    assert found.active_runs == []
    assert found.last_promotion.to_checkpoint == newest.policy
    assert found.last_rating_at


def test_new_ratings_are_those_that_the_newest_dataset_has_not(studio):
    project = studio.ready_project()
    machine = ensure_simulated_rater(username="simulated-1")
    studio.items(project, pairs=6)
    studio.rate_all(machine, project)
    config = RewardConfig(minimum_ratings=2)
    run = start_reward_run(actor=studio.admin, project=project, config=config, request_id=uuid4())
    finish(run, "reward_model", {})
    assert board(project).new_ratings == 0
    project.use_simulated_ratings = False
    project.save()
    studio.items(project, pairs=3)
    studio.rate_all(studio.rater(project), project)
    found = board(project)
    assert (found.usable.total, found.usable.left_out, found.new_ratings) == (3, 6, 3)


def test_an_empty_project_has_a_board_too(studio):
    found = board(studio.project())
    assert (found.serving, found.cycles, found.runs, found.new_ratings, found.last_rating_at) == (None, [], [], 0, None)


def test_pages_cost_as_many_queries_after_many_turns_as_after_one(studio):
    project = studio.ready_project()
    other = studio.ready_project()
    turn(studio, other)
    costs = []
    for turns in (1, 3):
        for _ in range(turns):
            policy = turn(studio, project, pairs=2 * turns)
        run = Run.objects.get(project=project, number=1)
        reads = {
            "board": lambda: [(row.dataset, row.run, row.policy.version) for row in board(project).cycles],
            "lineage": lambda policy=policy: [step.ratings for step in lineage_of(policy)],
            "ratings behind": lambda policy=policy: [
                (row.rater.username, row.comparison.first.text) for row in ratings_behind(policy)
            ],
            "runs": lambda: [(row.policy.version, [str(out) for out in row.outputs.all()]) for row in runs_of(project)],
            "run": lambda: read_live(find_run(project, 1), now=timezone.now()),
            "curves": lambda run=run: curves(run),
            "fate": lambda policy=policy: fate_of(ratings_behind(policy)[-1]),
            "home": lambda: overview_for(studio.admin),
        }
        counted = {}
        for name, read in reads.items():
            with CaptureQueriesContext(
                connection,
            ) as queries:
                read()
            counted[name] = len(queries)
        costs.append(counted)
    assert costs[0] == costs[1]
    assert costs[0]["board"] <= 14
    assert costs[0]["lineage"] <= 4


def test_a_run_of_another_project_is_not_found(studio):
    project = studio.ready_project()
    turn(studio, project)
    with pytest.raises(Run.DoesNotExist):
        find_run(studio.project(), 1)
