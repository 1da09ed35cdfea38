"""The queue when it is long: what a rater's acts ask of the database is found by index, whoever asks.

At full size, a million ratings, ``python -m benchmarks.volume`` looks at the same and takes the time.
"""

import pytest
from django.db.models import F

from benchmarks import volume
from webapp.feedback.models import Rating, Slot

ITEMS, LEAD = 2000, 300
WALK = 10  # raters judge ten in turn, so many items in a row at most are judged by the same


@pytest.fixture
def people(studio):
    """A project of 2,000 pairs and 20,000 ratings; a rater of many, one of none, and one who is ahead of the others."""
    project = studio.ready_project(overlap=11)
    raters = [studio.rater(project) for _ in range(volume.RATERS)]
    leader, newcomer = studio.rater(project), studio.rater(project)
    volume.fill(project, items=ITEMS, raters=[rater.pk for rater in raters], leader=leader.pk, lead=LEAD)
    return project, {"rater": raters[0], "leader": leader, "newcomer": newcomer}


def test_a_raters_acts_are_found_by_index_and_look_at_few_rows(people):
    project, who = people
    seen = {}
    for name, person in who.items():
        for act, does in volume.acts_of(project, person).items():
            plans = volume.explain(does)
            assert volume.read_whole(plans) == [], (name, act)
            seen[name, act] = volume.rows_seen(plans)
    assert seen["leader", "claim"] > LEAD, "the leader walks past all open slots of what the leader has judged"
    for (name, act), rows in seen.items():
        claims = 2 if act == "ahead" else 1
        walk = LEAD if name == "leader" else WALK
        if act != "count_today":  # how many that are depends on the hour
            assert rows <= claims * (2 * walk + 30), (name, act)


def test_what_is_filled_in_hangs_together_as_the_services_would_have_it(people):
    project, who = people
    ratings = Rating.objects.filter(project=project)
    assert ratings.count() == 20_000
    assert ratings.filter(rater=who["leader"]).count() == LEAD
    assert Slot.objects.filter(project=project, state="open").count() == ITEMS
    whole = ratings.filter(
        rater__memberships__project=project,
        slot__rater=F("rater"),
        slot__state="done",
        slot__comparison=F("comparison"),
        presentation__slot=F("slot"),
        presentation__rater=F("rater"),
        presentation__token=F("slot__token"),
        comparison__first__prompt=F("comparison__prompt"),
        comparison__second__prompt=F("comparison__prompt"),
        comparison__first__checkpoint__project=project,
    )
    assert whole.count() == 20_000


def test_too_few_raters_are_refused(studio):
    project = studio.ready_project()
    raters = [studio.rater(project).pk for _ in range(10)]
    with pytest.raises(ValueError, match="10 raters cannot give 10 ratings to each pair by turns: 11 or more can"):
        volume.fill(project, items=3, raters=raters, leader=raters[0], lead=0)
