"""A reward run's page says whether the model is as sure as it may be."""

import pytest

from tests.studio import Studio
from tests.turns import ask_for_reward_run, begin, finish, open_rated_studio
from webapp.runs import results
from webapp.runs.calibration import Bin, Calibration, across, calibration_of, down

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]
REPORT = {
    "calibration": {
        "error": 0.125,
        "count": 60,
        "bins": [
            {"low": 0.5, "high": 0.6, "count": 30, "sure": 0.55, "right": 0.5},
            {"low": 0.9, "high": 1.0, "count": 30, "sure": 0.95, "right": 0.75},
        ],
    }
}


@pytest.fixture
def studio() -> Studio:
    return open_rated_studio(20)


def made(studio: Studio, report):
    run = ask_for_reward_run(studio)
    claim = begin(run, step=10, total_steps=10)
    outputs = [{"kind": "reward_model", "id": "ab" * 32}]
    results.succeed(claim, outputs=outputs, result={"holdout_accuracy": 0.7, "holdout_count": 40}, report=report)
    run.refresh_from_db()
    return run


def test_the_page_draws_how_sure_the_model_was_against_how_often_raters_agreed(studio, admin):
    run = made(studio, REPORT)
    page = admin.get(f"/p/{studio.project.slug}/runs/{run.number}/").content.decode()
    assert "Is it as sure as it may be?" in page
    assert "Of 60 held-out comparisons" in page
    assert "<strong>12.5\xa0%</strong> off" in page
    assert "It is too sure." in page  # 75 % of 30 is at most 87 % within its interval, and it said 95 %
    assert page.count('<circle class="dot"') == 2
    assert "<td>90.0\xa0% to 100.0\xa0%</td>" in page
    assert 'style="' not in page
    live = admin.get(f"/p/{studio.project.slug}/runs/{run.number}/live/", headers={"HX-Request": "true"})
    assert 'id="calibration" hx-swap-oob="true"' in live.content.decode()


def test_nothing_is_concluded_or_drawn_from_fewer_comparisons_than_it_takes(studio, admin):
    bins = [{"low": 0.9, "high": 1.0, "count": 1, "sure": 1.0, "right": 0.0}]
    run = made(studio, {"calibration": {"error": 1.0, "count": 1, "bins": bins}})
    page = admin.get(f"/p/{studio.project.slug}/runs/{run.number}/").content.decode()
    assert "Is it as sure as it may be?" in page
    assert "1 held-out comparison is too few to tell: that takes 50." in page
    assert "too sure" not in page
    assert "<svg" not in page.partition('id="calibration"')[2].partition("</section>")[0]
    assert [Calibration(0.1, count, ()).tells for count in (49, 50)] == [False, True]


@pytest.mark.parametrize("report", [None, {}, {"calibration": None}])
def test_a_run_that_held_nothing_out_says_nothing_of_it(studio, admin, report):
    run = made(studio, report)
    assert calibration_of(run) is None
    page = admin.get(f"/p/{studio.project.slug}/runs/{run.number}/").content.decode()
    assert "Is it as sure as it may be?" not in page


def test_a_run_of_another_kind_has_no_such_picture(studio, admin):
    run = ask_for_reward_run(studio)
    assert calibration_of(run) is None  # before its end
    finish(run)
    run.refresh_from_db()
    assert calibration_of(run) is None  # trained before there was a report


def test_the_picture_by_hand():
    assert (across(0.5), across(1.0), across(0.75)) == (54.0, 354.0, 204.0)
    assert (down(1.0), down(0.0), down(0.5)) == (30.0, 270.0, 150.0)
    timid = Bin(0.5, 0.6, 400, 0.55, 0.9)
    fine = Bin(0.9, 1.0, 20, 0.95, 0.9)
    assert Calibration(0.3, 420, (timid, fine)).leaning == "too timid"
    assert Calibration(0.05, 20, (fine,)).leaning == ""
    assert fine.top < fine.y < fine.bottom
    assert Calibration(0.05, 20, (fine,)).diagonal == (54.0, 150.0, 354.0, 30.0)
