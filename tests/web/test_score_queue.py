"""Which samples wait for a score: found without a look at those that have one, and none is lost or asked for twice."""

import threading

import pytest
from django.db import IntegrityError, connection, transaction

from benchmarks.volume import explain, nodes, rows_seen
from tests.studio import enter, until_another_waits
from webapp.errors import WrongCheckpoint
from webapp.feedback.models import NoScore, Sample, SampleScore, ScoreWanted
from webapp.feedback.scores import (
    NewScore,
    may_want_scores,
    next_without_score,
    open_queue,
    record_no_score,
    record_scores,
    without_score,
)
from webapp.feedback.services import NewSample, record_samples
from webapp.projects.models import Prompt
from webapp.runs.selectors import current_reward_model, wants_scores

LARGE = {"feedback_sample", "feedback_samplescore", "feedback_noscore"}


def drawn(studio, project) -> Sample:
    return studio.samples(studio.prompts(project, 1)[0], 1)[0]


def say(reward_model, *samples: Sample) -> None:
    record_scores(reward_model=reward_model, scores=[NewScore(sample.pk, 0.5) for sample in samples])


def keys(samples) -> set:
    return {sample.pk for sample in samples}


# --- Speed -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(request, studio):
    """Three projects of so many samples in all, and a reward model of each that has scored all but its oldest three."""
    projects = [studio.ready_project() for _ in range(3)]
    for project in projects:
        drawn(studio, project)
        studio.checkpoint(project, "reward_model")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # the rows point where they should: no checks
        cursor.execute(
            """
            INSERT INTO feedback_sample (id, prompt_id, checkpoint_id, sampling_id, seed, prompt_tokens, tokens, text,
                                         text_sha256, finish_reason, log_prob, created_at)
            SELECT gen_random_uuid(), prompt_id, checkpoint_id, sampling_id, 1000000 + n, prompt_tokens, tokens, text,
                   text_sha256, finish_reason, log_prob, created_at
            FROM feedback_sample, generate_series(1, %s) AS n
            """,
            [request.param // 3],
        )
        cursor.execute(
            """
            INSERT INTO feedback_samplescore (sample_id, reward_model_id, score, created_at)
            SELECT id, reward_model_id, 0, now()
            FROM (SELECT sample.id, model.id AS reward_model_id,
                         row_number() OVER (PARTITION BY policy.project_id ORDER BY sample.id) AS place
                  FROM feedback_sample AS sample
                  JOIN registry_checkpoint AS policy ON policy.id = sample.checkpoint_id
                  JOIN registry_checkpoint AS model ON model.project_id = policy.project_id
                                                   AND model.kind = 'reward_model') AS placed
            WHERE place > 3
            """
        )
        cursor.execute("SET LOCAL session_replication_role = origin")
        for table in ("feedback_sample", "feedback_samplescore", "feedback_scorewanted"):
            cursor.execute(f"ANALYZE {table}")
    return projects


def look(project, reward_model) -> list[Sample]:
    """What a worker asks at each ring and for each batch, which reads no more than it finds; returns the batch."""
    asked = (
        lambda: may_want_scores(project, reward_model),
        lambda: next_without_score(project, reward_model, 16, but_of={project.pk}, but={project.pk}),
    )
    found = asked[-1]()
    for act in asked:
        plans = explain(act)
        every = [node for plan in plans for node in nodes(plan["Plan"])]
        assert {node["Relation Name"] for node in every if node["Node Type"] == "Seq Scan"} & LARGE == set()
        assert rows_seen(plans) <= 4 * len(found) + 10, "a row that waits, its sample and policy, and no other"
    return found


@pytest.mark.parametrize("large", [6_000, pytest.param(200_000, marks=pytest.mark.slow)], indirect=True)
def test_those_without_a_score_are_found_and_no_others_looked_at(large, studio):
    for project in large:
        open_queue(project, current_reward_model(project))
    for left in (3, 0):  # all but a few are scored, then all
        for project in large:
            found = look(project, current_reward_model(project))
            assert len(found) == left
            say(current_reward_model(project), *found)
    newer = studio.checkpoint(large[0], "reward_model")
    assert len(look(large[0], newer)) == 16, "nothing is scored"
    assert ScoreWanted.objects.count() == Sample.objects.filter(checkpoint__project=large[0]).count()


def test_a_policy_that_is_left_out_is_stepped_past(studio):
    project = studio.ready_project()
    old = [drawn(studio, project) for _ in range(3)]
    studio.promoted(project)
    new = [drawn(studio, project) for _ in range(5)]
    reward_model = studio.checkpoint(project, "reward_model")
    refused = {new[0].checkpoint_id}
    assert next_without_score(project, reward_model, 2) == new[:-3:-1]
    assert next_without_score(project, reward_model, 2, but_of=refused) == old[:0:-1]
    assert next_without_score(project, reward_model, 9, but_of=refused, but={old[1].pk}) == [old[2], old[0]]


# --- Rows ------------------------------------------------------------------------------------------------------------


def test_what_is_drawn_waits_from_its_own_transaction_on_and_what_is_held_out_never(studio):
    project = studio.ready_project()
    reward_model = studio.checkpoint(project, "reward_model")
    assert list(without_score(project, reward_model)) == []
    assert not wants_scores(project)
    first = drawn(studio, project)
    assert wants_scores(project)
    assert list(without_score(project, reward_model)) == [first]
    words = {"checkpoint": first.checkpoint, "sampling": first.sampling}
    for prompt, seed in ((first.prompt, first.seed), (studio.prompts(project, 1)[0], 1)):
        Prompt.objects.filter(pk=prompt.pk).exclude(pk=first.prompt_id).update(split="held_out")
        record_samples(samples=[NewSample(prompt.pk, seed, [1, 5], [7, 2], "x", "end", -1.0)], **words)
    assert Sample.objects.count() == 2
    assert list(without_score(project, reward_model)) == [first]
    say(reward_model, first)
    assert not wants_scores(project)
    record_samples(samples=[NewSample(first.prompt_id, first.seed, [1, 5], [7, 2], "x", "end", -1.0)], **words)
    assert not wants_scores(project), "delivered twice, it is scored once"


def test_what_has_no_score_is_asked_of_no_reward_model_twice_and_of_each_once(studio):
    project = studio.ready_project()
    older = studio.checkpoint(project, "reward_model")
    odd, fine = drawn(studio, project), drawn(studio, project)
    assert keys(without_score(project, older)) == {odd.pk, fine.pk}
    for _ in range(2):
        record_no_score(reward_model=older, reason=NoScore.Reason.NOT_FINITE, samples=[odd.pk])
    assert list(without_score(project, older)) == [fine]
    row = NoScore.objects.get()
    assert (row.sample, row.reward_model, row.reason) == (odd, older, "not_finite")
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        NoScore.objects.all().delete()
    newer = studio.checkpoint(project, "reward_model")
    assert wants_scores(project)
    assert keys(without_score(project, newer)) == {odd.pk, fine.pk}
    assert list(without_score(project, older)) == [fine], "back again, it knows what it said"
    with pytest.raises(WrongCheckpoint):
        record_no_score(reward_model=odd.checkpoint, reason=NoScore.Reason.TOKENS, samples=[odd.pk])


def test_what_an_older_reward_model_says_late_takes_nothing_from_the_newer(studio):
    project = studio.ready_project()
    older, newer = (studio.checkpoint(project, "reward_model") for _ in range(2))
    one, two = drawn(studio, project), drawn(studio, project)
    open_queue(project, older)
    open_queue(project, newer)
    say(older, one)
    record_no_score(reward_model=older, reason=NoScore.Reason.TOKENS, samples=[two.pk])
    assert keys(without_score(project, newer)) == {one.pk, two.pk}


def test_admins_read_why_an_answer_has_no_score_and_not_that_it_waits(studio):
    project = studio.ready_project()
    reward_model = studio.checkpoint(project, "reward_model")
    one, two, three, _ = (drawn(studio, project) for _ in range(4))
    admin = enter(studio.admin)

    def page() -> str:
        return " ".join(admin.get(f"/p/{project.slug}/policies/1/").content.decode().split())

    assert "4 answers have no score by reward model 1 yet." in page()
    record_no_score(reward_model=reward_model, reason=NoScore.Reason.NOT_FINITE, samples=[one.pk])
    record_no_score(reward_model=reward_model, reason=NoScore.Reason.TOKENS, samples=[two.pk, three.pk])
    for said in (
        "1 answer has no score by reward model 1 yet.",
        "1 answer has no score by reward model 1, because what it computes for the answer is no finite number.",
        "2 answers have no score by reward model 1, which does not read the tokens that they are made of.",
    ):
        assert said in page()
    say(reward_model, *Sample.objects.exclude(pk__in=[one.pk, two.pk, three.pk]))
    assert "no score by reward model 1 yet" not in page()
    studio.checkpoint(project, "reward_model")
    assert "4 answers have no score by reward model 2 yet." in page()


# --- Many at once ----------------------------------------------------------------------------------------------------


def test_who_makes_the_queue_anew_waits_for_who_writes_scores_and_misses_nothing(live_studio, at_once):
    project = live_studio.ready_project()
    older, newer = (live_studio.checkpoint(project, "reward_model") for _ in range(2))
    sample = drawn(live_studio, project)
    open_queue(project, older)
    prompt = live_studio.prompts(project, 1)[0]
    new: list[Sample] = []
    began = threading.Event()

    def score_and_draw():
        with transaction.atomic():
            say(older, sample)
            new.extend(live_studio.samples(prompt, 1))
            began.set()
            until_another_waits()
        return "written"

    def make_anew():
        assert began.wait(10)
        open_queue(project, newer)
        return "made"

    assert at_once(score_and_draw, make_anew) == ["written", "made"]
    assert keys(without_score(project, newer)) == {sample.pk, new[0].pk}


def test_who_writes_scores_of_an_older_reward_model_waits_for_who_makes_the_queue_anew(live_studio, at_once):
    project = live_studio.ready_project()
    older, newer = (live_studio.checkpoint(project, "reward_model") for _ in range(2))
    sample = drawn(live_studio, project)
    open_queue(project, older)
    made = threading.Event()

    def make_anew():
        with transaction.atomic():
            open_queue(project, newer)
            made.set()
            until_another_waits()
        return "made"

    def score_late():
        assert made.wait(10)
        say(older, sample)
        return "written"

    assert at_once(make_anew, score_late) == ["made", "written"]
    assert list(without_score(project, newer)) == [sample]


def test_workers_that_do_the_same_at_once_do_no_harm(live_studio, at_once):
    project = live_studio.ready_project()
    reward_model = live_studio.checkpoint(project, "reward_model")
    samples = [drawn(live_studio, project) for _ in range(30)]

    def score_all():
        open_queue(project, reward_model)
        say(reward_model, *samples[:20])
        record_no_score(reward_model=reward_model, reason=NoScore.Reason.TOKENS, samples=[samples[20].pk])
        return "done"

    def score_backwards():
        open_queue(project, reward_model)
        say(reward_model, *reversed(samples[:20]))
        return "done"

    assert (
        at_once(score_all, score_backwards, score_all, lambda: drawn(live_studio, project) and "done") == ["done"] * 4
    )
    assert (SampleScore.objects.count(), NoScore.objects.count()) == (20, 1)
    waiting = keys(without_score(project, reward_model))
    assert waiting == keys(Sample.objects.all()) - keys(samples[:21])
    assert ScoreWanted.objects.count() == len(waiting) == 10
