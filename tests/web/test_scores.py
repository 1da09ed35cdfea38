"""What reward models say of samples: rows that stay, admins who read them, raters who never do."""

import json
import re
import uuid

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from rlhf_core.config import RewardConfig
from tests.studio import enter, open_studio, queries_of
from tests.turns import begin, finish, train_with_judge
from tests.turns import rate as rate_film_reviews
from webapp import queue
from webapp.errors import WrongCheckpoint
from webapp.feedback.exports import rating_lines
from webapp.feedback.models import Sample, SampleScore
from webapp.feedback.scores import NewScore, record_scores, without_score
from webapp.quality.services import freeze
from webapp.runs import results, services
from webapp.runs.models import Run
from webapp.runs.selectors import current_reward_model

MINUS = "\N{MINUS SIGN}"


def words(html: str) -> str:
    """The text of a page, marks left out."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def read(client, project, path: str) -> str:
    answer = client.get(f"/p/{project.slug}/{path}")
    assert answer.status_code == 200
    return words(answer.content.decode())


@pytest.fixture
def rated(studio):
    """A project of three rated pairs, of two reward models, and their rater."""
    project = studio.ready_project()
    studio.items(project, pairs=3)
    ada = studio.rater(project)
    ratings = studio.rate_all(ada, project)
    models = [studio.checkpoint(project, "reward_model") for _ in range(2)]
    return project, ada, ratings, models


def score_all_by(reward_model, score: float, uncertainty: float | None = None) -> None:
    found = [NewScore(pk, score, uncertainty) for pk in Sample.objects.values_list("pk", flat=True)]
    record_scores(reward_model=reward_model, scores=found)


# --- Rows ------------------------------------------------------------------------------------------------------------


def test_a_score_is_written_once_and_stays(studio):
    project = studio.ready_project()
    reward_model = studio.checkpoint(project, "reward_model")
    (sample,) = studio.samples(studio.prompts(project, 1)[0], 1)
    record_scores(reward_model=reward_model, scores=[NewScore(sample.pk, 1.5, 0.25)])
    record_scores(reward_model=reward_model, scores=[NewScore(sample.pk, 9.0, None)])
    row = SampleScore.objects.get()
    assert (row.sample, row.reward_model, row.score, row.uncertainty) == (sample, reward_model, 1.5, 0.25)
    for change in (lambda: SampleScore.objects.update(score=2.0), lambda: SampleScore.objects.all().delete()):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()


@pytest.mark.parametrize("wrong", [NewScore(uuid.uuid4(), float("nan")), NewScore(uuid.uuid4(), 0.0, float("inf"))])
def test_a_batch_with_a_number_that_is_none_is_refused_whole(studio, wrong):
    project = studio.ready_project()
    (sample,) = studio.samples(studio.prompts(project, 1)[0], 1)
    with pytest.raises(ValueError, match="is not finite"):
        record_scores(reward_model=studio.checkpoint(project, "reward_model"), scores=[NewScore(sample.pk, 1.0), wrong])
    with pytest.raises(WrongCheckpoint, match="v2 scores nothing"):
        record_scores(reward_model=studio.checkpoint(project), scores=[NewScore(sample.pk, 1.0)])
    assert not SampleScore.objects.exists()


def test_what_waits_for_a_score_comes_newest_first_and_by_reward_model(studio):
    project, other = studio.ready_project(), studio.ready_project()
    one, two = (studio.checkpoint(project, "reward_model") for _ in range(2))
    samples = [studio.samples(prompt, 1)[0] for prompt in studio.prompts(project, 3)]
    studio.samples(studio.prompts(other, 1)[0], 1)
    newest_first = sorted(samples, key=lambda sample: sample.pk.int, reverse=True)
    record_scores(reward_model=one, scores=[NewScore(newest_first[0].pk, 0.0)])
    assert list(without_score(project, one)) == newest_first[1:]
    assert list(without_score(project, two)) == newest_first
    assert not without_score(project, two, but_of={samples[0].checkpoint_id}).exists()


# --- The reward model of today, and the doorbell ---------------------------------------------------------------------


def test_a_judge_scores_nothing_and_a_new_reward_model_is_rung_for(db, broker_url, django_capture_on_commit_callbacks):
    film_reviews = open_studio()
    rate_film_reviews(film_reviews, 40)
    assert current_reward_model(film_reviews.project) is None
    rewarding, judge = train_with_judge(film_reviews)
    assert judge.version > rewarding.version
    assert current_reward_model(film_reviews.project) == rewarding
    asked = {"actor": None, "project": film_reviews.project, "request_id": uuid.uuid4()}
    held = begin(services.start_reward_run(config=RewardConfig(), **asked))
    with django_capture_on_commit_callbacks() as rung:
        results.succeed(held, outputs=[{"kind": "reward_model", "id": "c" * 64}], result={"holdout_accuracy": 0.7})
    assert [(call.func, call.args) for call in rung] == [(queue.score, (film_reviews.project.pk,))]
    assert current_reward_model(film_reviews.project).sha256 == "c" * 64
    assert queue.score(film_reviews.project.pk), "the broker takes it"


def test_where_nothing_is_left_to_score_the_end_of_a_run_rings_for_nobody(db, django_capture_on_commit_callbacks):
    film_reviews = open_studio()
    rate_film_reviews(film_reviews, 40)
    asked = {"actor": None, "project": film_reviews.project, "request_id": uuid.uuid4()}
    first = services.start_reward_run(config=RewardConfig(), with_judge=True, **asked)
    rewarding = finish(first)
    waiting = without_score(film_reviews.project, rewarding)
    assert waiting
    record_scores(reward_model=rewarding, scores=[NewScore(sample.pk, 0.5) for sample in waiting])
    with django_capture_on_commit_callbacks() as rung:
        finish(Run.objects.get(project=film_reviews.project, number=first.number + 1))
    assert current_reward_model(film_reviews.project) == rewarding, "a judge scores nothing"
    assert rung == []


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_admins_read_the_reward_how_sure_it_is_and_by_which_model(studio, rated):
    project, _, ratings, (older, newer) = rated
    admin = enter(studio.admin)
    score_all_by(older, -0.5)
    score_all_by(newer, 1.25, 0.75)
    by_older, by_newer = f"reward {MINUS}0.500 by reward model 1", "reward 1.25 ± 0.750 by reward model 2"
    policy = read(admin, project, "policies/1/")
    assert (policy.count(by_newer), by_older in policy) == (6, False)
    one = read(admin, project, f"ratings/{ratings[0].pk}/")
    assert (one.count(by_newer), one.count(by_older)) == (2, 2), "a rating's own page tells of every model"
    listed = read(admin, project, "ratings/")
    assert (listed.count(by_newer), by_older in listed) == (6, False)
    dataset = freeze(actor=None, project=project)
    behind = read(admin, project, f"datasets/{dataset.pk}/")
    assert (behind.count(by_newer), by_older in behind) == (6, False)
    for page in (policy, one, behind):
        assert "have no score" not in page
        assert "No reward model has scored" not in page


def test_where_nothing_was_scored_the_page_says_what_to_do(studio, rated):
    project, _, ratings, models = rated
    admin = enter(studio.admin)
    for path, count in (("policies/1/", 6), (f"ratings/{ratings[0].pk}/", 2)):
        page = read(admin, project, path)
        assert f"{count} answers have no score by reward model 2 yet. They are scored while the sampler" in page
    first, *others = Sample.objects.all()
    record_scores(reward_model=models[1], scores=[NewScore(sample.pk, 0.0) for sample in others])
    assert "1 answer has no score by reward model 2 yet. It is scored" in read(admin, project, "policies/1/")

    empty = studio.ready_project()
    studio.items(empty, singles=1)
    page = admin.get(f"/p/{empty.slug}/policies/1/").content.decode()
    assert "No reward model has scored these answers." in page
    assert f'<a href="/p/{empty.slug}/runs/reward/">Train a reward model</a>' in page


def test_an_answer_that_two_raters_judged_is_counted_once_among_the_unscored(studio):
    project = studio.ready_project(overlap=2)
    studio.items(project, pairs=1)
    for rater in (studio.rater(project), studio.rater(project)):
        studio.rate_all(rater, project)
    studio.checkpoint(project, "reward_model")
    dataset = freeze(actor=None, project=project)
    page = read(enter(studio.admin), project, f"datasets/{dataset.pk}/")
    assert "2 answers have no score by reward model 1 yet." in page


def test_scores_cost_as_many_queries_for_many_answers_as_for_few(studio, rated):
    project, ada, ratings, models = rated
    admin = enter(studio.admin)
    score_all_by(models[1], 0.5, 0.1)
    paths = [f"/p/{project.slug}/{path}" for path in ("policies/1/", "ratings/", f"ratings/{ratings[0].pk}/")]
    few = [queries_of(admin, path) for path in paths]
    studio.items(project, pairs=5)
    studio.rate_all(ada, project, "5")
    studio.ask(project, "ranking", "a", "b", "c")
    studio.say(ada, studio.shown(ada, project), "1,2,3")
    score_all_by(models[0], 0.5)
    score_all_by(models[1], 0.5)
    more = [queries_of(admin, path) for path in paths]
    assert more[::2] == few[::2]
    assert more[1] == few[1] + 1, "the samples of rankings, once for all"


def test_the_download_tells_what_each_model_said_in_no_more_queries(studio, rated):
    project, ada, _, (older, newer) = rated
    studio.ask(project, "ranking", "a", "b", "c")
    studio.say(ada, studio.shown(ada, project), "1,2,3")
    score_all_by(older, -0.5)
    score_all_by(newer, 1.25, 0.75)
    with CaptureQueriesContext(connection) as queries:
        lines = [json.loads(line) for line in rating_lines(project)]
    assert len(queries) == 2, "the ratings, and the samples of rankings"
    assert [len(line["answers"]) for line in lines] == [2, 2, 2, 3]
    for line in lines:
        for answer in line["answers"]:
            assert answer["rewards"] == [
                {"reward_model": 1, "reward_model_sha256": older.sha256, "score": -0.5, "uncertainty": None},
                {"reward_model": 2, "reward_model_sha256": newer.sha256, "score": 1.25, "uncertainty": 0.75},
            ]


def test_a_rater_sees_the_same_bytes_whatever_was_scored(studio):
    """Blindness: no page of a rater's changes by a score, and none names a reward or a model."""
    project = studio.ready_project()
    studio.items(project, pairs=2)
    ada = studio.rater(project)
    studio.say(ada, studio.shown(ada, project), "2")
    client = enter(ada)
    before = [seen(client, project, path) for path in RATERS_PAGES]
    score_all_by(studio.checkpoint(project, "reward_model"), 4.321, 0.987)
    after = [seen(client, project, path) for path in RATERS_PAGES]
    assert after == before
    for html in after:
        assert not re.search(r"4\.32|0\.987|reward|uncertain", html)
    for path in ("policies/1/", "ratings/", "ratings.jsonl"):
        assert client.get(f"/p/{project.slug}/{path}").status_code == 404


RATERS_PAGES = ("rate/", "rate/keys/", "history/")
RANDOM = re.compile(r'nonce="[^"]+"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|csrfmiddlewaretoken" value="[^"]+"')


def seen(client, project, path: str) -> str:
    """A page as the browser gets it, but for what is drawn at random for each."""
    answer = client.get(f"/p/{project.slug}/{path}")
    assert answer.status_code == 200
    html = RANDOM.sub("", answer.content.decode())
    return re.sub(r'X-CSRFToken(&quot;|"): *(&quot;|")\w+', "", html)
