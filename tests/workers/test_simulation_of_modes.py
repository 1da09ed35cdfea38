"""Simulated raters before several modes, over HTTP: what a taste suffices for they judge, the rest they skip."""

import pytest

from tests.studio import open_studio
from webapp.feedback.models import Rating, Skip
from webapp.projects.models import Rule
from workers.simulation.browser import Browser
from workers.simulation.choices import Rater
from workers.simulation.raters import Shift, come_in
from workers.simulation.tastes import Scale


@pytest.mark.django_db(transaction=True)
def test_simulated_raters_rank_and_score_and_pass_by_what_takes_more_than_a_taste(live_server):
    studio = open_studio()
    studio.project.axes = ["helpful"]
    studio.project.save()
    Rule.objects.create(project=studio.project, text="It is short.")
    rewrite = studio.add_item("Opening 0", "Dull.", kind="rewrite")
    ranking = studio.add_item("Opening 1", "xx", "xxxx", "x", kind="ranking")
    rule = studio.add_item("Opening 2", "One.", kind="rule")
    single = studio.add_item("Opening 3", "xxxxxxxx", kind="single")
    rater = studio.add_rater("sim")
    rater.is_simulated = True
    rater.save()
    browser = Browser(live_server.url)
    come_in(browser, rater)
    longest = Rater(lambda prompt, text: float(len(text)), Scale(4.0, 1.0, 9), 1000.0, "seed")
    told: list[int] = []
    Shift([browser], [longest], f"{live_server.url}/p/{studio.project.slug}/rate/", 2, told.append).work()
    assert told == [1, 2]
    given = {rating.comparison_id: rating for rating in Rating.objects.all()}
    assert set(given) == {ranking.pk, single.pk}
    places = given[ranking.pk].details["places"]
    assert {sample.text: places[str(sample.pk)] for sample in ranking.samples} == {"xx": 2, "xxxx": 1, "x": 3}
    assert given[single.pk].verdict == 5
    skipped = Skip.objects.values_list("comparison", "reason")
    assert set(skipped) == {(rewrite.pk, "expertise"), (rule.pk, "expertise")}
