"""Numbers in words, and which curves a chart draws."""

import pytest

from rlhf_core.config import METRICS, RewardConfig
from webapp.runs import charts, figures
from webapp.runs.forms import range_in_words


def test_numbers_and_ranges_are_written_as_one_says_them():
    assert range_in_words(RewardConfig.__dataclass_fields__["seed"].metadata) == "0 to 4,294,967,295"
    assert range_in_words({"minimum": None, "maximum": None, "above": 0}) == "above 0"
    assert range_in_words({"minimum": 2, "maximum": None, "above": None}) == "2 or more"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (3.14, "3.1 s"), (59.6, "1 min"), (221, "3 min 41 s"), (3600, "1 h"), (7_500, "2 h 5 min")],
)
def test_durations_are_said_in_words(seconds, words):
    assert figures.say_duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.7083, "share", "70.8\xa0%"),
        (1234.5, "", "1,234"),
        (9.876, "nats", "9.88"),
        (-0.0132, "", "−0.013"),
        (0.0003, "", "0.00030"),
        (2e-6, "", "2.0e−6"),
        (0, "", "0"),
        (13.0, "verdicts", "13"),
        (None, "", "–"),
    ],
)
def test_values_are_short_and_keep_their_sign(value, unit, words):
    assert figures.say_value(value, unit) == words


def test_every_metric_of_a_kind_is_drawn_once():
    for kind in ("reward", "policy"):
        drawn = [curve.metric for chart in charts.main_charts(kind) for curve in chart.curves]
        drawn += [
            curve.metric for group in charts.folded_charts(kind) for chart in group.charts for curve in chart.curves
        ]
        assert sorted(drawn) == sorted(charts.metrics_of(kind))
        assert set(METRICS[kind]) <= set(drawn)


def test_a_chart_has_one_unit():
    for kind in ("reward", "policy"):
        groups = [charts.main_charts(kind), *(group.charts for group in charts.folded_charts(kind))]
        for chart in (chart for group in groups for chart in group):
            assert len({curve.unit for curve in chart.curves}) == 1


def test_long_curves_are_thinned_with_both_ends_kept():
    points = [[n, 0.0] for n in range(1, 10_001)]
    found = charts.thin(points, most=600)
    assert len(found) <= 601
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert charts.thin(points[:600], most=600) == points[:600]
