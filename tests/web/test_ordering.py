"""Which item a rater gets first: the oldest, or the one that the reward model is least sure of; by hand."""

import threading

import pytest
from django.db import transaction

from tests.studio import enter, until_another_waits, values_of
from webapp.feedback.models import Report, Slot
from webapp.feedback.ordering import most_uncertain, order_queue
from webapp.feedback.reports import settle
from webapp.feedback.scores import NewScore, record_scores
from webapp.feedback.services import claim, make_items, void_retired
from webapp.projects.models import Project
from webapp.projects.services import update_project


@pytest.fixture
def project(studio) -> Project:
    """Four items are kept ready, so one comes first."""
    return studio.ready_project(buffer_target=4)


@pytest.fixture
def doubt(studio, project):
    """Let the project's reward model be so uncertain of the answers of items, in their order."""
    reward_model = studio.checkpoint(project, "reward_model")

    def doubt(*items):
        for item, values in items:
            found = [NewScore(sample.pk, 0.0, one) for sample, one in zip(item.samples, values, strict=True)]
            record_scores(reward_model=reward_model, scores=found)
        return reward_model

    return doubt


def want(studio, project, choice="uncertain"):
    return update_project(actor=studio.admin, project=project, choice=choice)


def priorities(project) -> dict:
    return dict(Slot.objects.filter(project=project).values_list("comparison", "priority"))


def test_the_item_with_the_highest_mean_uncertainty_comes_first(studio, project, doubt):
    pairs = studio.items(project, pairs=4)
    marks = [(0.2, 0.2), (0.1, 0.9), (0.6, 0.5), (0.9, 0.0)]  # means 0.2, 0.5, 0.55, 0.45
    reward_model = doubt(*zip(pairs, marks, strict=True))
    assert most_uncertain(project, reward_model, limit=3) == [pairs[2].pk, pairs[1].pk, pairs[3].pk]
    ada, ben = studio.rater(project), studio.rater(project)
    assert order_queue(project=project, reward_model=reward_model) == [], "the project wants none of it"
    assert studio.shown(ada, project).slot.comparison == pairs[0]
    want(studio, project)
    assert order_queue(project=project, reward_model=reward_model) == [pairs[2].pk]
    assert studio.shown(ben, project).slot.comparison == pairs[2]


def test_at_most_one_item_a_prompt_comes_first(studio, project, doubt):
    want(studio, project).buffer_target = 12  # three come first
    project.save()
    (prompt,) = studio.prompts(project, 1)
    same = make_items(project=project, samples_by_prompt={prompt.pk: studio.samples(prompt, 4)})
    others = studio.items(project, pairs=2)
    reward_model = doubt((same[0], (0.8, 0.8)), (same[1], (0.9, 0.9)), (others[0], (0.2, 0.2)), (others[1], (0.1, 0.1)))
    assert order_queue(project=project, reward_model=reward_model) == [same[1].pk, others[0].pk, others[1].pk]
    assert priorities(project) == {same[0].pk: 0, same[1].pk: 1, others[0].pk: 1, others[1].pk: 1}


def test_where_items_are_rated_several_times_fewer_of_them_come_first(studio, doubt, project):
    project = update_project(actor=studio.admin, project=project, choice="uncertain", buffer_target=8, overlap=2)
    one, two = studio.items(project, pairs=2)
    assert Slot.objects.filter(project=project).count() == 4
    reward_model = doubt((one, (0.1, 0.1)), (two, (0.2, 0.2)))
    assert order_queue(project=project, reward_model=reward_model) == [two.pk], "a quarter of four items, not of eight"


def test_who_came_first_goes_back_and_what_a_rater_holds_is_left_alone(studio, project, doubt):
    one, two, three = studio.items(project, singles=3)
    reward_model = doubt((one, [0.1]), (two, [0.3]), (three, [0.2]))
    want(studio, project)
    order_queue(project=project, reward_model=reward_model)
    assert priorities(project) == {one.pk: 0, two.pk: 1, three.pk: 0}
    held = studio.shown(studio.rater(project), project)
    assert held.slot.comparison == two
    assert order_queue(project=project, reward_model=reward_model) == [three.pk]
    assert priorities(project) == {one.pk: 0, two.pk: 1, three.pk: 1}
    want(studio, project, "random")
    assert order_queue(project=project, reward_model=reward_model) == []
    assert priorities(project) == {one.pk: 0, two.pk: 1, three.pk: 0}
    assert studio.slot(held).state == "leased"


def test_what_one_model_alone_or_half_a_pair_says_puts_nothing_first(studio, project, doubt):
    pair, single = studio.items(project, pairs=1, singles=1)
    want(studio, project)
    reward_model = doubt((single, [None]))
    record_scores(reward_model=reward_model, scores=[NewScore(pair.first.pk, 0.0, 0.7)])
    assert order_queue(project=project, reward_model=reward_model) == []
    assert order_queue(project=project, reward_model=None) == []


def test_all_answers_of_a_ranking_count_and_a_prompts_priority_stays(studio, project, doubt):
    ranking = studio.ask(project, "ranking", "a", "b", "c")
    ranking.priority = 5
    ranking.save()
    Slot.objects.filter(comparison=ranking).update(priority=5)
    (single,) = studio.items(project, singles=1)
    reward_model = doubt((ranking, (0.1, 0.1, 0.7)), (single, [0.29]))  # mean 0.3
    want(studio, project)
    assert order_queue(project=project, reward_model=reward_model) == [ranking.pk]
    assert priorities(project) == {ranking.pk: 6, single.pk: 0}


def test_the_queries_do_not_grow_with_the_queue(studio, project, doubt, django_assert_num_queries):
    want(studio, project)
    for pairs in (1, 5):
        reward_model = doubt(*((item, (0.5, 0.5)) for item in studio.items(project, pairs=pairs)))
        with django_assert_num_queries(8):  # a savepoint's two and the lock among them
            order_queue(project=project, reward_model=reward_model)


def order(project):
    order_queue(project=project, reward_model=None)


def withdraw(project):
    report = Report.objects.get()
    assert settle(actor=report.rater, project=project, report=report.pk, is_withdrawn=True)


@pytest.mark.parametrize("change", [order, lambda project: void_retired(project=project), withdraw])
def test_who_changes_many_slots_waits_for_the_one_who_does_and_raters_do_not(live_studio, at_once, change):
    project = live_studio.ready_project()
    items = live_studio.items(project, pairs=3)
    rater = live_studio.rater(project)
    Report.objects.create(comparison=items[2], rater=rater, words="")
    is_ordered, done = threading.Event(), []

    def order_first():
        with transaction.atomic():
            order(project)
            is_ordered.set()
            until_another_waits()
            done.append("order")

    def go_on():
        is_ordered.wait(10)
        assert claim(rater=rater, project=project).slot.comparison == items[0]
        done.append("claim")
        change(project)
        done.append("change")

    assert at_once(order_first, go_on) == [None, None]
    assert done == ["claim", "order", "change"]


def test_an_admin_chooses_it_in_the_settings(studio, project):
    admin = enter(studio.admin)
    address = f"/p/{project.slug}/settings/"
    html = admin.get(address).content.decode()
    assert '<option value="random" selected>' in html
    for choice in ("uncertain", "random"):
        assert admin.post(address, {**values_of(html), "choice": choice}).status_code == 302
        project.refresh_from_db()
        assert project.choice == choice
    want(studio, project)
    assert admin.post(address, values_of(html)).status_code == 302
    project.refresh_from_db()
    assert project.choice == "uncertain", "what a form leaves out stays"
    assert admin.post(address, {**values_of(html), "choice": "loudest"}).status_code == 422
