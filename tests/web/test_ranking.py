"""Rankings: places against samples, exact submissions, comparisons of the right weight, a page that works as a form."""

import re
from collections import Counter
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from rlhf_core.records import Comparison as Record
from tests.studio import enter, fields_of, values_of
from webapp.errors import ChoiceInvalid, SettingsRefused, SubmissionConflict
from webapp.feedback.models import Comparison, FurtherSample, Presentation, Rating, Slot
from webapp.feedback.modes import verdict_in_words
from webapp.feedback.modes.ranking import RankingMode
from webapp.feedback.selectors import own_item, shown
from webapp.feedback.services import claim, find_presentation, make_items, revise
from webapp.projects.services import update_project
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import dataset_bytes, feedback_records, freeze

HTMX = {"HX-Request": "true"}


def ranking(studio, project, count=4):
    return studio.ask(project, "ranking", *(f"answer {n}" for n in range(count)))


def test_a_ranking_of_six_takes_as_many_queries_as_one_of_three(studio, django_assert_num_queries):
    project = studio.ready_project()
    ada = studio.rater(project)
    for count in (3, 6):
        ranking(studio, project, count)
        presentation = studio.shown(ada, project)
        with django_assert_num_queries(2):
            item = shown(presentation, project)
        assert len(item.answers) == count
        with django_assert_num_queries(4):
            found = find_presentation(rater=ada, project=project, token=presentation.token)
            assert len(found.samples) == count
        studio.say(ada, presentation, ",".join("1" * count))


def test_a_ranking_holds_its_samples_in_the_order_of_their_ids_and_one_slot_a_wanted_rating(studio):
    project = studio.ready_project(overlap=3)
    item = ranking(studio, project, 6)
    assert item.samples == sorted(item.samples, key=lambda sample: sample.pk.int)
    assert len(item.samples) == 6
    assert item.slots.count() == 3
    prompt = item.prompt
    again = make_items(project=project, samples_by_prompt={prompt.pk: item.samples}, kinds={prompt.pk: "ranking"})
    assert again == []
    assert (Comparison.objects.count(), Slot.objects.count(), FurtherSample.objects.count()) == (1, 3, 4)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        FurtherSample.objects.update(ordinal=5)


def test_twins_are_ranked_once_and_twins_alone_are_not_asked_about(studio):
    project = studio.ready_project()
    item = studio.ask(project, "ranking", "one", "two", "one", "three")
    assert sorted(sample.text for sample in item.samples) == ["one", "three", "two"]
    (prompt,) = studio.prompts(project, 1)
    samples = studio.samples(prompt, 3, ["same"] * 3)
    items = make_items(project=project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: "ranking"})
    assert [(one.kind, one.slots.count()) for one in items] == [("pair", 0), ("single", 1)]


def test_each_order_is_drawn_and_none_more_often_than_chance_has_it(studio, monkeypatch):
    """600 draws of six orders: 100 each, standard deviation 9.1; five of them is never passed."""
    from webapp.feedback.services import draw_order

    project = studio.ready_project()
    item = ranking(studio, project, 3)
    found = Counter(tuple(draw_order(item.pk)) for _ in range(600))
    assert len(found) == 6
    assert all(54 < count < 146 for count in found.values())


def test_places_are_stored_against_samples_and_told_again_in_the_order_that_was_shown(studio):
    project = studio.ready_project()
    item = ranking(studio, project, 4)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    assert sorted(presentation.order) == [0, 1, 2, 3]
    assert list(shown(presentation, project).answers) == [item.samples[index].text for index in presentation.order]
    rating = studio.say(ada, presentation, "2,1,4,1").rating  # a gap, and two that share the first place
    places = {presentation.samples[index].pk: place for index, place in enumerate([2, 1, 3, 1])}
    assert rating.details == {"places": {str(key): place for key, place in places.items()}}
    assert (rating.verdict, rating.both_bad) == (2, False)
    entry = own_item(ada, project, presentation.token)
    assert entry.choice == "2,1,3,1"
    assert RankingMode().told(entry.choice, entry.extras) == "2 = 4 > 1 > 3"
    expected = {
        sample.pk: name for sample, name in zip(item.samples, ("first", "second", "third", "fourth"), strict=True)
    }
    best = " = ".join(name for key, name in expected.items() if places[key] == 1)
    assert verdict_in_words(rating).startswith(f"{best} > ")


def test_a_ranking_served_again_stands_in_the_same_order(studio):
    project = studio.ready_project()
    ranking(studio, project, 6)
    ada = studio.rater(project)
    assert studio.shown(ada, project).order == studio.shown(ada, project).order


@pytest.mark.parametrize("choice", ["", "1", "1,2", "1,2,", "1,2,4", "0,1,2", "1,2,3,1", "one,2,3", "7", "1, 2,3"])
def test_what_is_no_ranking_of_three_is_refused_with_what_is_permitted(studio, choice):
    project = studio.ready_project()
    ranking(studio, project, 3)
    ada = studio.rater(project)
    with pytest.raises(ChoiceInvalid, match="a place, 1 to 3, for each of the 3 answers"):
        studio.say(ada, studio.shown(ada, project), choice)
    assert Rating.objects.count() == 0


def test_a_ranking_sent_twice_is_one_rating_and_another_one_is_refused(studio):
    project = studio.ready_project()
    ranking(studio, project, 3)
    ada = studio.rater(project)
    presentation, key = studio.shown(ada, project), uuid4()
    first = studio.say(ada, presentation, "1,2,3", submission_id=key)
    assert studio.say(ada, presentation, "1,2,3", submission_id=key).rating == first.rating
    assert studio.say(ada, presentation, "1,2,3").is_duplicate, "from another tab"
    for other in ("1,3,2", "1,2,2", "0"):
        with pytest.raises(SubmissionConflict, match="1,2,3"):
            studio.say(ada, presentation, other)
    changed = studio.say(ada, presentation, "3,2,1", act=revise).rating
    assert (changed.revision, Rating.objects.count()) == (2, 2)
    assert own_item(ada, project, presentation.token).choice == "3,2,1"
    assert claim(rater=ada, project=project) is None


def test_a_ranking_of_four_becomes_six_comparisons_that_weigh_two(studio):
    """K (K - 1) / 2 = 6 pairs of weight 1 / (K - 1) = 1/3 each: 2 in all, as if its four answers were two pairs."""
    project = studio.ready_project()
    item = ranking(studio, project, 4)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    rating = studio.say(ada, presentation, "1,2,2,3").rating
    best, second, third, worst = (tuple(sample.tokens) for sample in presentation.samples)
    dataset = freeze(actor=None, project=project)
    records = list(feedback_records(dataset))
    assert all(isinstance(record, Record) and record.rating_id == str(rating.pk) for record in records)
    found = {(record.chosen_tokens, record.rejected_tokens): record.strength for record in records}
    tie = {pair: strength for pair, strength in found.items() if set(pair) == {second, third}}
    assert list(tie.values()) == [0]
    clear = {(best, second), (best, third), (best, worst), (second, worst), (third, worst)}
    assert {pair for pair, strength in found.items() if strength == 2} == clear
    assert sum(record.weight for record in records) == pytest.approx(2.0)
    for sample in item.samples:  # 3 pairs of 1/3: an answer counts as much as one of a pair
        mine = [one.weight for one in records if tuple(sample.tokens) in (one.chosen_tokens, one.rejected_tokens)]
        assert sum(mine) == pytest.approx(1.0)
    assert len(b"".join(dataset_bytes(dataset)).splitlines()) == 6
    assert (dataset.counts["total"], dataset.counts["rankings"], dataset.counts["pairs"]) == (1, 1, 0)


def test_a_ranking_of_two_is_one_comparison_as_a_pair_is(studio):
    project = studio.ready_project()
    ranking(studio, project, 2)
    ada = studio.rater(project)
    studio.say(ada, studio.shown(ada, project), "2,1")
    (record,) = feedback_records(freeze(actor=None, project=project))
    assert (record.strength, record.weight) == (2, 1.0)


def test_rankings_of_equals_teach_nothing_and_are_counted_as_ties(studio):
    project = studio.ready_project()
    ada = studio.rater(project)
    for choice in ("1,1,1", "0"):
        ranking(studio, project, 3)
        studio.say(ada, studio.shown(ada, project), choice)
    counts = usable_ratings(project)
    assert (counts.total, counts.rankings, counts.ties, counts.both_bad) == (2, 2, 2, 1)
    assert counts.is_one_sided
    ranking(studio, project, 3)
    studio.say(ada, studio.shown(ada, project), "1,1,2")
    assert not usable_ratings(project).is_one_sided


def test_reading_and_freezing_rankings_costs_a_fixed_number_of_queries(studio, django_assert_max_num_queries):
    project = studio.ready_project()
    ada = studio.rater(project)
    for size in (2, 8):
        for _ in range(size):
            ranking(studio, project, 4)
            studio.say(ada, studio.shown(ada, project), "4,3,2,1")
        with django_assert_max_num_queries(10):
            dataset = freeze(actor=None, project=project)
        with django_assert_max_num_queries(2):
            list(feedback_records(dataset))


def test_shares_of_modes_cannot_add_up_to_more_than_all(studio):
    project = studio.ready_project(pair_percent=60)
    update_project(actor=studio.admin, project=project, ranking_percent=40, ranking_size=6)
    with pytest.raises(SettingsRefused, match=r"add up to 101 % \(pair 61\xa0%, ranking 40\xa0%\)"):
        update_project(actor=studio.admin, project=project, pair_percent=61)
    with pytest.raises(SettingsRefused, match="less than or equal to 6"):
        update_project(actor=studio.admin, project=project, pair_percent=60, ranking_size=7)


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_a_ranking_can_be_given_and_changed_by_a_plain_form(studio):
    project = studio.ready_project()
    update_project(actor=studio.admin, project=project, ranking_question="Best first, please?")
    ranking(studio, project, 3)
    ada = studio.rater(project)
    client, address = enter(ada), f"/p/{project.slug}/rate/"
    html = client.get(address).content.decode()
    assert "Best first, please?" in html
    assert html.count('<select name="place"') == 3
    assert len(re.findall(r'class="shown"[^>]*>answer \d', html)) == 3
    answer = client.post(address, {**fields_of(html), "choice": "ranked", "place": ["3", "1", ""]}, follow=True)
    assert "a place, 1 to 3, for each of the 3 answers" in answer.content.decode()
    answer = client.post(address, {**fields_of(html), "choice": "ranked", "place": ["3", "1", "2"]})
    assert (answer.status_code, Rating.objects.count()) == (302, 1)
    presentation = Presentation.objects.get()
    places = Rating.objects.get().details["places"]
    assert [places[str(sample.pk)] for sample in presentation.samples] == [3, 1, 2]

    html = client.get(f"/p/{project.slug}/history/").content.decode()
    assert "2 &gt; 3 &gt; 1" in html
    address = f"/p/{project.slug}/history/{presentation.token}/"
    html = client.get(address).content.decode()
    assert re.findall(r'<option value="(\d)" selected', html) == ["3", "1", "2"]
    key = re.search(r'name="submission_id" value="([^"]*)"', html)[1]
    answer = client.post(address, {"submission_id": key, "choice": "ranked", "place": ["1", "1", "2"]})
    assert answer.status_code == 302
    assert Rating.objects.get(is_current=True).verdict == 1


def test_nothing_on_the_page_tells_which_policy_ranked_what(studio):
    project = studio.ready_project()
    item = ranking(studio, project, 4)
    html = enter(studio.rater(project)).get(f"/p/{project.slug}/rate/").content.decode()
    for sample in item.samples:
        assert str(sample.pk) not in html
        assert sample.checkpoint.sha256 not in html
    assert str(item.pk) not in html


def test_an_admin_reads_a_ranking_in_words_and_in_the_order_given(studio):
    project = studio.ready_project()
    item = studio.ask(project, "ranking", "alpha", "beta", "gamma")
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    by_text = {"alpha": 2, "beta": 3, "gamma": 1}
    studio.say(ada, presentation, ",".join(str(by_text[sample.text]) for sample in presentation.samples))
    admin = enter(studio.admin)
    html = admin.get(f"/p/{project.slug}/ratings/").content.decode()
    names = dict(zip((sample.text for sample in item.samples), ("first", "second", "third"), strict=True))
    assert f"{names['gamma']} &gt; {names['alpha']} &gt; {names['beta']}" in html
    html = admin.get(f"/p/{project.slug}/ratings/{Rating.objects.get().pk}/").content.decode()
    assert re.findall(r'<p class="verbatim">(\w+)', html) == ["gamma", "alpha", "beta"]


def test_an_admin_chooses_the_mix_of_modes_on_a_page_of_its_own(studio):
    project = studio.ready_project()
    admin, address = enter(studio.admin), f"/p/{project.slug}/settings/modes/"
    values = values_of(admin.get(address).content.decode())
    values |= {"pair_percent": 50, "ranking_percent": 30, "ranking_size": 5, "ranking_question": "Order them."}
    assert admin.post(address, values).status_code == 302
    project.refresh_from_db()
    assert (project.pair_percent, project.ranking_percent, project.ranking_size) == (50, 30, 5)
    answer = admin.post(address, values | {"pair_percent": 71})
    assert answer.status_code == 422
    assert "add up to 101 %" in answer.content.decode()
    assert enter(studio.rater(project)).get(address).status_code == 404
