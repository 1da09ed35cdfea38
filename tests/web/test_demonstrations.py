"""Demonstrations: which rated answers they are, how they are frozen, and fine-tunings that learn from them."""

import hashlib
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from rlhf_core.config import PolicyConfig, RewardConfig, SamplingConfig, SFTConfig
from webapp.errors import NoPolicy, NotEnoughDemonstrations, RequestReused, WrongCheckpoint
from webapp.feedback.models import Rating
from webapp.feedback.modes import Extras
from webapp.feedback.services import make_items, revise
from webapp.projects.models import Prompt
from webapp.quality import demonstrations as rules_of
from webapp.quality.demonstrations import (
    DemonstrationRules,
    Verdict,
    demonstrations,
    elect,
    examples,
    may_fine_tune,
    preview,
)
from webapp.quality.models import Dataset, DatasetDemonstration, DatasetItem
from webapp.quality.services import demonstration_lines, freeze, freeze_demonstrations
from webapp.registry.models import ServingPointer
from webapp.registry.selectors import serving
from webapp.registry.services import change_sampling
from webapp.runs.leases import claim
from webapp.runs.models import Run, RunSample
from webapp.runs.origins import origin_of
from webapp.runs.progress import record_texts
from webapp.runs.results import succeed
from webapp.runs.selectors import board, fate_of, lineage_of, presets_for
from webapp.runs.services import start_policy_run, start_reward_run, start_sft_run

FEW = DemonstrationRules(minimum_demonstrations=2)
A, B, C = (UUID(int=number) for number in (1, 2, 3))


def say(*said: tuple, **rules) -> dict[UUID, int]:
    """Who is elected by what is said, and by how many ratings: (first, second or None, value) each."""
    verdicts = [Verdict(uuid4(), "pair" if second else "single", first, second, value) for first, second, value in said]
    return {sample: len(ratings) for sample, ratings in elect(verdicts, DemonstrationRules(**rules)).items()}


# --- Which answers ---------------------------------------------------------------------------------------------------


def test_a_single_answer_needs_its_mean_score():
    assert say((A, None, 4), (B, None, 3)) == {A: 1}
    assert say((A, None, 5), (A, None, 3)) == {A: 2}  # a mean of exactly 4
    assert say((A, None, 5), (A, None, 2)) == {}  # 3.5
    assert say((A, None, 5), (A, None, 2), minimum_score=3.5) == {A: 2}


def test_an_answer_of_a_pair_needs_more_than_half_of_its_verdicts():
    assert say((A, B, 1)) == {A: 1}
    assert say((A, B, -3)) == {B: 1}
    assert say((A, B, 1), (A, B, -3)) == {}  # one each is no majority
    assert say((A, B, 1), (A, B, 2), (A, B, -3)) == {A: 2}
    assert say((A, B, 1), (A, B, 0)) == {}  # a tie, or both bad, is a verdict that does not prefer it
    assert say((A, B, 1), (A, C, 1), (B, C, 1)) == {A: 2}  # B won one of two


def test_a_stronger_win_can_be_asked_for():
    said = ((A, B, 1), (A, B, 2), (A, B, 2))
    assert say(*said, minimum_strength=2) == {A: 2}
    assert say(*said, minimum_strength=3) == {}


def test_an_answer_that_was_scored_and_compared_must_be_good_in_both():
    assert say((A, B, 2), (A, None, 5)) == {A: 2}
    assert say((A, B, 2), (A, None, 3)) == {}
    assert say((A, B, -2), (A, None, 5)) == {B: 1}


def test_the_rule_is_said_in_words():
    assert DemonstrationRules().words == (
        "an answer that a rater wrote, one with a mean score of at least 4, or one that more than half of its "
        "comparisons call better"
    )
    assert DemonstrationRules(minimum_score=4.5, minimum_strength=3).words.endswith("call much better")


def texts(found) -> list[str]:
    return [one.record.response for one in found]


def test_prompts_that_are_held_out_give_none(studio):
    project = studio.ready_project()
    items = studio.items(project, singles=3)
    studio.rate_all(studio.rater(project), project, "5")
    Prompt.objects.filter(pk=items[0].prompt_id).update(split="held_out")
    found = demonstrations(project, FEW)
    assert {one.sample.prompt_id for one in found} == {items[1].prompt_id, items[2].prompt_id}


def test_the_switch_of_the_project_decides_about_simulated_ratings(studio):
    project = studio.ready_project()
    studio.items(project, singles=3)
    studio.rate_all(studio.rater(project, is_simulated=True), project, "5")
    assert len(demonstrations(project, FEW)) == 3
    project.use_simulated_ratings = False
    assert demonstrations(project, FEW) == []
    assert not may_fine_tune(project, FEW)
    with pytest.raises(NotEnoughDemonstrations, match="There are 0 demonstrations, and the run needs 2"):
        freeze_demonstrations(actor=None, project=project, rules=FEW)


def test_a_changed_mind_counts_as_it_stands_now(studio):
    project = studio.ready_project()
    studio.items(project, singles=1)
    rater = studio.rater(project)
    (rating,) = studio.rate_all(rater, project, "5")
    assert len(demonstrations(project, FEW)) == 1
    revise(rater=rater, project=project, token=rating.presentation.token, submission_id=uuid4(), choice="2")
    assert demonstrations(project, FEW) == []


def test_an_answer_without_words_is_none_and_the_same_words_are_one(studio):
    from webapp.feedback.services import make_items

    project = studio.ready_project()
    prompt, other = studio.prompts(project, 2)
    for sample in [*studio.samples(prompt, 3, [" \n", " same", " same"]), *studio.samples(other, 1, [" same"])]:
        make_items(project=project, samples_by_prompt={sample.prompt_id: [sample]})
    studio.rate_all(studio.rater(project), project, "5")
    found = demonstrations(project, FEW)
    assert texts(found) == [" same", " same"]
    assert {one.sample.prompt_id for one in found} == {prompt.pk, other.pk}


def test_the_prompt_is_as_it_was_asked_and_a_cut_answer_says_so(studio):
    project = studio.ready_project()
    item, whole = studio.items(project, singles=2)
    studio.rate_all(studio.rater(project), project, "5")
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger fires
        cursor.execute("UPDATE feedback_sample SET finish_reason = 'length' WHERE id = %s", [item.first_id])
        cursor.execute("SET LOCAL session_replication_role = origin")
    Prompt.objects.filter(pk=item.prompt_id).update(text="It was: ")
    found = {one.sample.pk: one.record for one in demonstrations(project, FEW)}
    assert (found[item.first_id].prompt, found[item.first_id].is_cut) == ("It was:", True)
    assert found[whole.first_id].is_cut is False


def test_of_a_ranking_the_first_place_is_better_and_the_others_are_not():
    places = {str(A): 1, str(B): 2, str(C): 3}
    ranking = Verdict(uuid4(), "ranking", A, B, 2, places)
    assert list(elect([ranking], FEW)) == [A]
    assert elect([ranking], DemonstrationRules(minimum_strength=3)) == {}  # a ranking says no more than "clearly"
    level = Verdict(uuid4(), "ranking", A, B, 0, dict.fromkeys(places, 1))  # all equal, or all bad
    assert elect([level], FEW) == {}
    assert list(elect([Verdict(uuid4(), "ranking", A, B, 1, {str(A): 1, str(B): 1, str(C): 2})], FEW)) == [A, B]


def test_rankings_choose_demonstrations_too(studio):
    project = studio.ready_project()
    item = studio.ask(project, "ranking", " one", " two", " three")
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    studio.say(ada, presentation, "2,1,3")
    (found,) = demonstrations(project, FEW)
    assert found.sample == presentation.samples[1]
    assert found.sample in item.samples


def test_what_raters_wrote_is_a_demonstration_in_place_of_the_answer(studio):
    project = studio.ready_project()
    ada = studio.rater(project)
    for _ in range(2):
        studio.ask(project, "rewrite", " A dull film.")
    rating = studio.say(ada, studio.shown(ada, project), "rewritten", Extras(text="A film that I loved.")).rating
    studio.say(ada, studio.shown(ada, project), "1")  # the other is good as it is
    found = demonstrations(project, FEW)
    assert texts(found) == [" A dull film.", " A film that I loved."]  # it goes on from the prompt as the answer did
    assert found[0].sample != found[1].sample
    assert (found[1].rewrite.rating, found[1].record.is_cut) == (rating.pk, False)
    dataset = freeze_demonstrations(actor=None, project=project, rules=FEW)
    assert (dataset.counts["demonstrations"], dataset.counts["written"]) == (2, 1)
    row = DatasetDemonstration.objects.get(dataset=dataset, rewrite=rating)
    assert (row.response, row.sample) == (" A film that I loved.", rating.comparison.first)
    assert hashlib.sha256(b"".join(demonstration_lines(dataset))).hexdigest() == dataset.sha256
    policy = finish(fine_tune(studio, project), "policy")
    assert [one for _, one in fate_of(rating).imitated] == [policy]
    assert may_fine_tune(project, FEW)
    Prompt.objects.filter(pk=row.prompt_id).update(split="held_out")
    assert texts(demonstrations(project, FEW)) == [" A dull film."]


def test_an_answer_that_was_rewritten_is_none_itself_though_others_liked_it(studio):
    said = [Verdict(uuid4(), "rewrite", A, None, 0), Verdict(uuid4(), "single", A, None, 5)]
    assert elect(said, FEW) == {}  # a mean of 1 and 5
    assert list(elect([Verdict(uuid4(), "rewrite", A, None, 1)], FEW)) == [A]


def test_examples_are_spread_over_the_demonstrations():
    assert examples(list(range(10)), 3) == [0, 3, 6]
    assert examples([1, 2], 3) == [1, 2]
    assert examples([], 3) == []


def test_a_preview_counts_what_the_dataset_would_have_without_reading_it(studio):
    project = studio.ready_project()
    ada, bob = studio.rater(project), studio.rater(project)
    for text in (" The same.", " The same.", " \n\u3000", *(f" Liked {n}." for n in range(6))):
        studio.ask(project, "single", text)
    prompt = Prompt.objects.order_by("id").first()
    twins = studio.samples(prompt, 2, [" Twin.", " Twin."])
    for twin in twins:
        make_items(project=project, samples_by_prompt={prompt.pk: [twin]})
    studio.rate_all(ada, project, "5")
    studio.ask(project, "single", " Not liked.")
    studio.rate_all(ada, project, "1")
    for n in range(4):
        studio.ask(project, "rewrite", f" Dull {n}.")
        studio.say(bob, studio.shown(bob, project), "rewritten", Extras(text=f"Written {n}."))
    Prompt.objects.filter(pk=Rating.objects.latest("id").comparison.prompt_id).update(split="held_out")
    with CaptureQueriesContext(connection) as queries:
        found = preview(project, FEW, 3)
    whole = demonstrations(project, FEW)
    assert found.count == len(whole) == 2 + 6 + 1 + 3
    assert [one.record for one in found.examples] == [whole[at].record for at in (0, 4, 8)]
    assert [one.ratings for one in found.examples] == [whole[at].ratings for at in (0, 4, 8)]
    assert len(queries) <= 6
    assert not [query for query in queries if 'tokens"' in query["sql"]]
    for most in (5, 12, 100):
        shown = [one.record for one in preview(project, FEW, most).examples]
        assert shown == [one.record for one in examples(whole, most)]


def test_the_board_looks_at_the_newest_ratings_alone(studio, monkeypatch):
    project = studio.ready_project()
    studio.items(project, singles=4)
    studio.rate_all(studio.rater(project), project, "5544")
    assert may_fine_tune(project, DemonstrationRules(minimum_demonstrations=4))
    monkeypatch.setattr(rules_of, "LOOKED_AT", 3)
    assert not may_fine_tune(project, DemonstrationRules(minimum_demonstrations=4))


# --- Frozen ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(studio):
    """Five pairs and three single answers, all of which have a good answer: 8 demonstrations."""
    project = studio.ready_project()
    studio.items(project, pairs=5, singles=3)
    studio.rate_all(studio.rater(project), project, "5")  # slightly better right, or a score of 5
    return project


def test_the_hash_of_a_dataset_is_that_of_the_bytes_a_run_reads(project):
    dataset = freeze_demonstrations(actor=None, project=project, rules=FEW)
    lines = b"".join(demonstration_lines(dataset))
    assert hashlib.sha256(lines).hexdigest() == dataset.sha256
    assert (lines.count(b"\n"), dataset.kind) == (8, "demonstrations")
    assert dataset.rules == {
        "sources": ["demo", "human", "simulated"],
        "minimum_score": 4.0,
        "minimum_strength": 1,
        "minimum_demonstrations": 2,
    }
    counts = {name: dataset.counts[name] for name in ("demonstrations", "total", "pairs", "singles", "raters")}
    assert counts == {"demonstrations": 8, "total": 8, "pairs": 5, "singles": 3, "raters": 1}


def test_only_the_ratings_that_speak_for_an_answer_are_behind_it(studio, project):
    studio.items(project, pairs=1, singles=1)
    silent = studio.rate_all(studio.rater(project), project, "4")  # a tie, and a score of 4
    rules = DemonstrationRules(minimum_score=5, minimum_demonstrations=2)
    dataset = freeze_demonstrations(actor=None, project=project, rules=rules)
    assert not DatasetItem.objects.filter(dataset=dataset, rating__in=silent).exists()
    assert DatasetItem.objects.filter(dataset=dataset).count() == 8


def test_freezing_the_same_again_gives_the_same_and_later_ratings_leave_it_as_it_is(studio, project):
    first = freeze_demonstrations(actor=studio.admin, project=project, rules=FEW)
    assert freeze_demonstrations(actor=None, project=project, rules=FEW) == first
    lines = list(demonstration_lines(first))
    studio.items(project, singles=1)
    studio.rate_all(studio.rater(project), project, "5")
    second = freeze_demonstrations(actor=None, project=project, rules=FEW)
    assert second != first
    assert list(demonstration_lines(first)) == lines
    assert (Dataset.objects.count(), DatasetDemonstration.objects.count()) == (2, 8 + 9)


def test_the_database_refuses_to_change_a_demonstration(project):
    freeze_demonstrations(actor=None, project=project, rules=FEW)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        DatasetDemonstration.objects.update(response="other")


def test_freezing_costs_as_many_queries_for_many_answers(studio, project):
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            freeze_demonstrations(actor=None, project=project, rules=FEW)
        return len(queries)

    before = cost()
    studio.items(project, pairs=20)
    studio.rate_all(studio.rater(project), project, "2")
    assert cost() == before


# --- The run ---------------------------------------------------------------------------------------------------------


def fine_tune(studio, project, rules=FEW, request_id=None, **settings) -> Run:
    return start_sft_run(
        actor=studio.admin,
        project=project,
        config=SFTConfig(**settings),
        rules=rules,
        request_id=request_id or uuid4(),
    )


def finish(run: Run, kind: str, metrics=None):
    held = claim(run.pk, "one")
    assert held
    succeed(held, outputs=[{"kind": kind, "id": uuid4().hex * 2}], result=metrics or {})
    return run.outputs.get()


def test_a_run_freezes_the_best_answers_and_starts_from_the_serving_policy(studio, project):
    key = uuid4()
    run = fine_tune(studio, project, request_id=key, epochs=2)
    assert (run.number, run.kind, run.state, str(run.policy)) == (1, "sft", "queued", "v1")
    assert (run.dataset.kind, run.dataset.counts["demonstrations"], run.reward_model) == ("demonstrations", 8, None)
    assert run.events.get().message == "fine-tuning from v1"
    assert fine_tune(studio, project, request_id=key, epochs=2) == run, "a double click is one run"
    with pytest.raises(RequestReused):
        start_reward_run(actor=None, project=project, config=RewardConfig(minimum_ratings=2), request_id=key)


def test_too_few_are_refused_in_words_and_nothing_is_written(studio, project):
    with pytest.raises(NotEnoughDemonstrations) as refused:
        fine_tune(studio, project, DemonstrationRules())
    assert str(refused.value) == (
        "There are 8 demonstrations, and the run needs 16. Each is an answer that a rater wrote, one with a mean score "
        "of at least 4, or one that more than half of its comparisons call better. Collect more ratings, or lower the "
        "smallest number in the run's settings."
    )
    assert (Run.objects.count(), Dataset.objects.count()) == (0, 0)


def test_nothing_can_be_fine_tuned_where_no_policy_serves(studio, project):
    ServingPointer.objects.all().delete()
    with pytest.raises(NoPolicy):
        fine_tune(studio, project)


def test_presets_answer_at_the_lengths_at_which_the_project_serves(studio, project):
    sampling = SamplingConfig(max_new_tokens=99, max_prompt_tokens=17, temperature=0.5)
    change_sampling(project=project, config=sampling, actor=None, expected_epoch=serving(project).epoch)
    for preset in presets_for(project, "sft").values():
        assert (preset.sample_tokens, preset.max_prompt_tokens) == (99, 17)


def test_what_comes_out_is_a_candidate_whose_way_back_leads_to_the_ratings(studio, project):
    run = fine_tune(studio, project)
    policy = finish(run, "policy", {"kl": 1.5})
    assert (str(policy), policy.kind, str(policy.parent), policy.metrics) == ("v2", "policy", "v1", {"kl": 1.5})
    assert str(serving(project).checkpoint) == "v1"
    origin = origin_of(policy)
    assert (origin.run, origin.reward_model, origin.dataset, origin.counts.demonstrations) == (
        run,
        None,
        run.dataset,
        8,
    )
    assert [str(step.checkpoint) for step in lineage_of(policy)] == ["v2", "v1"]
    newest = board(project).cycles[0]
    assert (newest.policy, newest.dataset, newest.reward_model) == (policy, run.dataset, None)
    rating = DatasetItem.objects.filter(dataset=run.dataset).first().rating
    found = fate_of(rating)
    assert (found.imitated, found.taught, found.heirs, found.reached) == ([(run, policy)], [], [], True)
    child = studio.checkpoint(project, parent=policy)
    assert fate_of(rating).heirs == [child]


def test_a_fine_tuned_policy_takes_no_rating_from_the_next_reward_model(studio, project):
    finish(fine_tune(studio, project), "policy")
    assert board(project).new_ratings == 8, "no reward model has learned from them"
    config = RewardConfig(minimum_ratings=2)
    run = start_reward_run(actor=None, project=project, config=config, request_id=uuid4())
    assert (run.dataset.kind, run.dataset, board(project).new_ratings) == (
        "ratings",
        freeze(actor=None, project=project),
        8,
    )
    model = finish(run, "reward_model")
    assert board(project).new_ratings == 0
    finish(fine_tune(studio, project), "policy")
    assert board(project).new_ratings == 0
    asked = {"actor": None, "project": project, "config": PolicyConfig(), "request_id": uuid4()}
    with pytest.raises(WrongCheckpoint):
        start_policy_run(reward_model=Run.objects.get(number=1).outputs.get(), **asked)
    assert start_policy_run(reward_model=model, **asked).kind == "policy"


def test_one_rating_can_teach_in_both_ways(studio, project):
    tuned = finish(fine_tune(studio, project), "policy")
    run = start_reward_run(actor=None, project=project, config=RewardConfig(minimum_ratings=2), request_id=uuid4())
    model = finish(run, "reward_model")
    found = fate_of(Rating.objects.filter(project=project).first())
    assert [policy for _, policy in found.imitated] == [tuned]
    assert [one.reward_model for one in found.taught] == [model]
    assert len(found.datasets) == 2


def test_texts_drawn_on_the_way_are_kept_once(studio, project):
    held = claim(fine_tune(studio, project).pk, "one")
    drawn = [{"step": 5, "prompt": "A film", "response": text} for text in (" is good", " is bad\0", " is good")]
    for _ in range(2):  # as a resumed run says them again
        record_texts(held, drawn)
    found = RunSample.objects.order_by("id").values_list("step", "prompt", "response")
    assert list(found) == [(5, "A film", " is good"), (5, "A film", " is bad\ufffd")]
