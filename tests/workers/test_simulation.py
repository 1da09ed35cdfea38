"""The parts of a simulation: tastes, choices, what a page says, and the figures."""

import math
import sys
from pathlib import Path

import pytest

from webapp.runs.figures import interval_of_share
from workers.simulation.browser import BrowserError, Item, read_page
from workers.simulation.choices import Rater
from workers.simulation.figures import Judged, accuracy, taste_change
from workers.simulation.loop import run_seed
from workers.simulation.report import table
from workers.simulation.tastes import SHIPPED, Scale, TasteError, as_shown, judge, load_taste, measure_scale

# --- Tastes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty; modules that are loaded from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    return tmp_path


def test_a_taste_is_loaded_from_the_current_folder(folder):
    (folder / "my_taste.py").write_text("def long(prompt, response):\n    return len(response)\n")
    assert load_taste("my_taste:long")("p", "four") == 4
    assert load_taste(SHIPPED)("p", "a wonderful film") > load_taste(SHIPPED)("p", "a dull film")


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("taste_without_function", "", "not of the form module:function"),
        ("nowhere_to_be_found:like", "", "no module 'nowhere_to_be_found'.*PYTHONPATH"),
        ("needy:like", "import nowhere_to_be_found", "needs 'nowhere_to_be_found': install it"),
        ("broken:like", "1 / 0", "fails when it is loaded: ZeroDivisionError"),
        ("empty:like", "", "has no 'like'"),
        ("number:like", "like = 3", "is a int; a taste is a function"),
    ],
)
def test_a_taste_that_cannot_be_had_is_refused_with_cause_and_cure(folder, name, source, said):
    (folder / f"{name.partition(':')[0]}.py").write_text(source) if not name.startswith("nowhere") else None
    with pytest.raises(TasteError, match=said):
        load_taste(name)


@pytest.mark.parametrize("value", ["good", None, math.nan, math.inf, 1j])
def test_a_taste_must_return_a_finite_number(value):
    with pytest.raises(TasteError, match="must return a"):
        judge(lambda prompt, response: value, "p", "r")


def test_a_taste_that_fails_is_told_with_the_text_it_failed_at():
    with pytest.raises(TasteError, match="fails at the response '' to 'p': IndexError"):
        judge(lambda prompt, response: ord(response[0]), "p", "")


def test_the_scale_is_measured_on_what_the_page_shows():
    # by hand: lengths 1 and 3 once leading blanks are gone: mean 2, deviations 1 and 1
    assert measure_scale(lambda prompt, response: len(response), [("p", "  a"), ("p", "\nabc")]) == Scale(2.0, 1.0, 2)
    assert as_shown(" \n") == ""


def test_a_taste_that_tells_nothing_apart_is_refused():
    with pytest.raises(TasteError, match="says 0.1 of all 3 responses"):
        measure_scale(lambda prompt, response: 0.1, [("p", "a"), ("p", "b"), ("p", "c")])
    with pytest.raises(TasteError, match="there are 1"):
        measure_scale(lambda prompt, response: 1, [("p", "a")])


# --- Choices ---------------------------------------------------------------------------------------------------------


def length(prompt: str, response: str) -> float:
    return float(len(response))


@pytest.mark.parametrize(("ability", "share"), [(0.0, 0.5), (1.0, 0.7311), (2.0, 0.8808)])
def test_a_rater_prefers_with_the_probability_of_the_noisy_difference(ability, share):
    # two characters more at a sd of 2 are a difference of 1: sigma(ability * 1)
    raters = [Rater(length, Scale(0.0, 2.0, 9), ability, f"seed {number}") for number in range(4000)]
    assert sum(int(rater.choose("p", "abc", "a")) < 4 for rater in raters) / 4000 == pytest.approx(share, abs=0.025)
    assert sum(int(rater.choose("p", "a", "abc")) > 4 for rater in raters) / 4000 == pytest.approx(share, abs=0.025)


def test_turning_a_pair_round_turns_the_verdict_round():
    for number in range(50):
        rater = Rater(length, Scale(0.0, 2.0, 9), 1.0, f"seed {number}")
        assert int(rater.choose("p", "abc", "a")) == 8 - int(rater.choose("p", "a", "abc"))


def test_strength_follows_the_noisy_difference_and_no_difference_is_a_tie():
    sure = Rater(length, Scale(0.0, 1.0, 9), 1000.0, "seed")
    assert sure.choose("p", "aaaa", "a") == "1"
    assert sure.choose("p", "a", "aaaa") == "7"
    assert sure.choose("p", "ab", "cd") == "4"
    unsure = [Rater(length, Scale(0.0, 1.0, 9), 1.0, str(number)).choose("p", "ab", "a") for number in range(400)]
    assert set(unsure) == {"1", "2", "3", "5", "6", "7"}


def test_scores_use_the_whole_scale_about_evenly_over_the_base_policys_responses():
    texts = ["x" * number for number in range(400)]
    scale = measure_scale(length, (("p", text) for text in texts))
    scores = [Rater(length, scale, 2.0, "seed").score("p", text) for text in texts]
    assert all(0.1 < scores.count(str(score)) / 400 < 0.3 for score in range(1, 6))
    assert [Rater(length, scale, 1000.0, "s").score("p", texts[at]) for at in (0, 200, 399)] == ["1", "3", "5"]


def test_a_ranking_prefers_each_two_as_a_pair_does_and_equal_texts_share_a_place():
    sure = Rater(length, Scale(0.0, 1.0, 9), 1000.0, "seed")
    assert sure.rank("p", ["aa", "aaaa", "a", "aaaa"]) == ["2", "1", "3", "1"]
    # two characters more at a sd of 2 and an ability of 2 are a difference of 2: sigma(2) = 0.8808
    raters = [Rater(length, Scale(0.0, 2.0, 9), 2.0, f"seed {number}") for number in range(4000)]
    places = [rater.rank("p", ["abc", "a", "ab"]) for rater in raters]
    assert sum(long < short for long, short, _ in places) / 4000 == pytest.approx(0.8808, abs=0.02)
    assert {place for one in places for place in one} == {"1", "2", "3"}


# --- Pages -----------------------------------------------------------------------------------------------------------

PAGE = """<header><form action="/logout/"><button>Log out</button></form></header>
<ul><li class="notice success">The settings   are saved.</li></ul>
<div id="item" data-kind="pair"><div class="shown" id="shown-prompt">A &lt;b&gt; film</div>
<article><div class="shown">one two</div></article><article><div class="shown"><em>nothing</em></div></article>
<form id="verdict" action="/p/x/rate/"><input type="hidden" name="token" value="t&amp;t"><button name="choice"
value="1"></button></form></div>
<form><input name="seed" value="3"><input type="checkbox" name="on" checked><input type="checkbox" name="off">
<select name="word"><option value="a">A</option><option value="b" selected>B</option></select>
<textarea name="body">
first
second</textarea></form>"""


def test_a_page_is_read_as_a_person_reads_it():
    page = read_page("http://studio/p/x/rate/", PAGE)
    assert page.item == Item("A <b> film", ("one two", ""), "pair")
    assert page.says == "The settings are saved."
    verdict = page.form("token")
    assert (verdict.action, verdict.filled(choice="1")) == ("/p/x/rate/", [("token", "t&t"), ("choice", "1")])
    assert verdict.filled(place=["2", "1"]) == [("token", "t&t"), ("place", "2"), ("place", "1")]
    assert page.named("verdict") == verdict
    with pytest.raises(BrowserError, match="no form named 'skip'"):
        page.named("skip")
    assert ("choice", "1") in verdict.buttons
    assert dict(page.form("seed").values) == {"seed": "3", "on": "on", "word": "b", "body": "first\nsecond"}
    assert page.form() == page.form("seed")  # the last one that is sent to the page itself
    with pytest.raises(BrowserError, match="no form with guess; it says: The settings are saved"):
        page.form("guess")


def test_an_item_with_other_answers_than_its_mode_has_is_refused():
    with pytest.raises(BrowserError, match="shows 1 prompts and 2 answers as a 'single'"):
        read_page("http://studio/", PAGE.replace('data-kind="pair"', 'data-kind="single"'))
    with pytest.raises(BrowserError, match="shows 0 prompts"):
        read_page("http://studio/", PAGE.replace("shown-prompt", "other"))
    page = read_page("http://studio/", PAGE.replace('data-kind="pair"', 'data-kind="rewrite"'))
    assert page.item == Item("A <b> film", ("one two", ""), "rewrite")


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_share_is_wilsons():
    # by hand with z^2 = 3.8415: (0.5 + 3.8415/20) / 1.38415 = 0.5; z * sqrt(0.025 + 3.8415/400) / 1.38415 = 0.2634
    assert interval_of_share(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert interval_of_share(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert interval_of_share(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert interval_of_share(0.0, 0) is None


def test_accuracy_counts_pairs_in_the_tastes_order_and_leaves_its_ties_out():
    right, wrong = (Judged(2.0, 1.0), Judged(1.0, 0.0)), (Judged(1.0, 1.0), Judged(2.0, 0.0))
    undecided, tie = (Judged(1.0, 1.0), Judged(1.0, 0.0)), (Judged(2.0, 1.0), Judged(1.0, 1.0))
    found = accuracy([right, right, wrong, undecided, tie])
    assert (found["value"], found["n"]) == (0.625, 4)  # 2.5 of 4
    # Wilson with z^2 = 3.8415: (0.625 + 3.8415/8) / 1.96036 = 0.5638; z * sqrt(0.0586 + 0.0600) / 1.96036 = 0.3443
    assert (found["low"], found["high"]) == pytest.approx((0.2194, 0.9081), abs=1e-4)
    assert accuracy([tie]) == {"value": None, "low": None, "high": None, "n": 0}


def test_the_change_of_taste_is_paired():
    found = taste_change([0.0, 10.0, 20.0], [1.0, 12.0, 23.0])
    # differences 1, 2, 3: mean 2, s = 1, error 1/sqrt(3), t with 2 degrees of freedom 4.3027
    assert (found["before"], found["after"], found["difference"], found["n"]) == (10.0, 12.0, 2.0, 3)
    assert found["low"] == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-4)
    assert found["high"] == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-4)


def test_each_run_has_a_seed_of_its_own_that_stays():
    assert run_seed(0, 1, "reward") == run_seed(0, 1, "reward")
    assert len({run_seed(seed, turn, use) for seed in (0, 1) for turn in (1, 2) for use in ("reward", "policy")}) == 8


def test_the_table_has_a_row_a_round():
    turn = {
        "seconds": {"rate": 10.0, "policy": 20.0},
        "taste": {"before": 0.1, "after": 0.5, "difference": 0.4, "low": 0.3, "high": 0.5, "n": 300},
        "kl": {"value": 4.0, "se": 0.2},
        "rm_accuracy": {"value": None, "low": None, "high": None, "n": 0},
        "distinct2_ratio": 0.9,
        "length_ratio": 1.1,
    }
    lines = table([{"seed": 3, "labels": 400, **turn, "round2": turn}]).split("\n")
    assert [line.split()[:2] for line in lines[1:]] == [["3", "1"], ["3", "2"]]
    assert lines[1].endswith("30")
    assert "0.4 (0.3 to 0.5)" in lines[1]
