"""The one list of figures: whole, documented, and judged the right way round; the measures that are computed."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import simulate
from benchmarks.blindness import as_compared, compare_pages, fair_coin_p
from benchmarks.figures import FIGURES, MEASUREMENTS, Figure, goal_rows, measurement_rows, missed, quick, table
from benchmarks.simulate import sum_up

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")


def rows_under(heading: str) -> list[str]:
    """The rows of the table under a heading of the page, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def test_the_page_has_every_figure_with_its_goal_and_no_other():
    assert rows_under("Goals") == goal_rows(), "copy goal_rows() of benchmarks/figures.py into docs/benchmarks.md"


def test_the_page_has_every_measurement_and_no_other():
    assert rows_under("Measurements") == measurement_rows(), "copy measurement_rows() into docs/benchmarks.md"


def test_every_figure_has_a_measurement_and_every_measurement_a_command_or_words_for_hands():
    assert {figure.measurement for figure in FIGURES} <= set(MEASUREMENTS)
    for name, measurement in MEASUREMENTS.items():
        if measurement.command:
            assert importlib.util.find_spec(measurement.command[0]), name
            assert any(figure.measurement == name for figure in FIGURES), f"{name} finds nothing that is promised"
        else:
            assert measurement.by_hand, name
            assert measurement.is_slow, name


def test_no_figure_stands_twice():
    assert len({(figure.measurement, figure.path) for figure in FIGURES}) == len(FIGURES)


def test_every_measurement_named_on_a_page_exists():
    named = set()
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for words in re.findall(r'make figures ARGS="?([a-z0-9 -]+)', page.read_text(encoding="utf-8")):
            named |= set(words.split())
    assert named
    assert named - set(MEASUREMENTS) == {"all"}


@pytest.mark.parametrize(
    ("comparison", "reached"),
    [
        ("<=", [True, True, False]),
        ("<", [True, False, False]),
        (">=", [False, True, True]),
        (">", [False, False, True]),
    ],
)
def test_a_goal_is_a_border_on_the_right_side(comparison, reached):
    figure = Figure("start", "x", "words", comparison, 5)
    assert [figure.is_reached(value) for value in (4, 5, 6)] == reached


def test_the_table_says_what_was_reached_what_was_missed_and_how_to_measure_the_rest():
    results = {"start": {"first": {"total": 34.5}, "second": {"total": 15.5}}}
    lines = table(results).splitlines()
    (first,) = (line for line in lines if line.startswith("from an empty data folder"))
    (second,) = (line for line in lines if line.startswith("second start"))
    (loop,) = (line for line in lines if line.startswith("reward model on 400"))
    assert "34.5" in first
    assert first.endswith("<= 120 s  reached")
    assert second.endswith("<= 15 s  MISSED")
    assert loop.endswith('not measured: make figures ARGS="loop"')
    assert len(lines) == 1 + len(FIGURES) + 1  # the head, and what is done by hand
    assert lines[-1].startswith(
        "the loop through the containers: by hand; it needs a container engine: docker compose up"
    )
    assert [figure.path for figure in missed(results)] == ["second.total"]


def test_without_a_name_the_quick_ones_run():
    assert "start" in quick()
    assert not {"simulate", "tests", "compose", "loop"} & set(quick())


@pytest.mark.parametrize(("seconds", "code"), [(9.0, 0), (901.0, 1)])
def test_a_missed_figure_shows_in_the_exit_code(monkeypatch, capsys, seconds, code):
    monkeypatch.setattr("sys.argv", ["benchmarks", "tests", "compose"])
    found = {"tests": {"seconds": seconds}}
    monkeypatch.setattr(command, "measure", found.get)
    assert command.main() == code
    assert json.loads(capsys.readouterr().out.splitlines()[0])["machine"]["cores"] > 0


def test_what_is_done_by_hand_says_how(capsys):
    assert command.measure("compose") is None
    assert "docker compose exec web ./manage.py simulate" in capsys.readouterr().err


def test_a_measurement_that_fails_is_no_figure_reached(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "start"])
    monkeypatch.setattr(command, "measure", lambda name: None)
    assert command.main() == 1
    assert "failed: start" in capsys.readouterr().out


def test_a_fair_coin():
    assert fair_coin_p(5, 10) == pytest.approx(1.0)
    assert fair_coin_p(9, 10) == pytest.approx(22 / 1024)  # 9, 10, 1 or 0 heads: 10 + 1 + 1 + 10 of 1024 ways
    assert fair_coin_p(1, 10) == pytest.approx(22 / 1024)
    assert fair_coin_p(5300, 10_000) < 1e-8


def test_pages_that_tell_the_policies_apart_are_found():
    def page(texts: str, more: str = "") -> str:
        shown = "".join(f'<div class="shown" dir="auto">{text}</div>' for text in texts)
        return f'<script nonce="a{len(more)}"></script>{shown}{more}'

    assert compare_pages([page("ab"), page("ba"), page("ab"), page("cd")]) == {
        "shown": 4,
        "compared": 2,
        "different": 0,
        "lines": [],
    }
    assert compare_pages([page("ab"), page("ab", "<p>v2</p>")])["different"] == 2

    moments = [[("Date", f"0{n}:00"), ("Server-Timing", f"app;dur={n}.5"), ("Content-Length", "99")] for n in (1, 2)]
    assert compare_pages([as_compared(moment, page("ab")) for moment in moments])["different"] == 0
    policies = [[("Date", "01:00"), ("X-Policy", version)] for version in ("v1", "v2")]
    found = compare_pages([as_compared(told, page("ab")) for told in policies])
    assert (found["different"], found["lines"]) == (2, ["X-Policy: v1", "X-Policy: v2"])


def seed_line(**changes):
    taste = {"before": 0.1, "after": 0.5, "difference": 0.4, "low": 0.2, "high": 0.6, "n": 300}
    base = {
        "seconds": {"rate": 10.0, "reward": 20.0},
        "rm_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 80},
        "kl": {"value": 9.0, "se": 0.3},
        "taste": taste,
        "distinct2_ratio": 0.9,
        "length_ratio": 1.1,
        "round2": {
            "seconds": {"rate": 5.0},
            "rm_accuracy": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 80},
            "kl": {"value": 20.0, "se": 0.5},
            "taste": {**taste, "after": 0.6, "low": 0.4, "high": 0.6},
            "distinct2_ratio": 0.8,
            "length_ratio": 1.4,
        },
    }
    return {**base, **changes}


def test_seeds_are_summed_up_by_their_worst():
    worse = {"before": 0.1, "after": 0.2, "difference": 0.1, "low": -0.1, "high": 0.3, "n": 300}
    second = {**seed_line()["round2"], "seconds": {"rate": 6.0}, "kl": {"value": 18.0, "se": 0.5}}
    second["taste"] = {**worse, "after": -0.3, "low": -0.5, "high": -0.1}
    lines = [seed_line(), seed_line(taste=worse, length_ratio=0.7, kl={"value": 16.0, "se": 1.0}, round2=second)]
    found = sum_up(lines, 2)
    assert (found["seeds"], found["seeds_failed"], found["seeds_better_share"]) == (2, 0, 0.5)
    assert found["worst"] == {
        "kl": 16.0,
        "distinct2_ratio": 0.9,
        "length_change": pytest.approx(0.3),
        "rm_accuracy_low": 0.6,
        "round2_shortfall": pytest.approx(0.3),  # 0.2 - -0.3, less half of -0.1 - -0.5
        "seconds": 36.0,
    }
    assert found["worst_in_round2"] == {
        "kl": 20.0,
        "distinct2_ratio": 0.8,
        "length_change": pytest.approx(0.4),
        "rm_accuracy_low": 0.5,
    }
    assert found["lines"] == lines


def run_simulate(monkeypatch, folder, *, code: int, printed: int) -> int:
    """``benchmarks.simulate`` for four seeds, of which ``printed`` come from a command that ends with ``code``."""
    lines = "\n".join([json.dumps(seed_line())] * printed)
    (folder / "manage.py").write_text(f"import sys\nprint({lines!r})\nsys.exit({code})\n")
    monkeypatch.setattr(simulate, "MANAGE", folder / "manage.py")
    monkeypatch.setattr("sys.argv", ["simulate", "--seeds", "4"])
    return simulate.main()


def test_a_seed_that_failed_has_not_gained_and_the_others_count(tmp_path, monkeypatch, capsys):
    assert run_simulate(monkeypatch, tmp_path, code=1, printed=3) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seeds"], found["seeds_failed"], found["seeds_better_share"]) == (4, 1, 0.75)
    assert found["worst"]["kl"] == 9.0


@pytest.mark.parametrize(("code", "printed"), [(1, 0), (130, 2)])
def test_a_simulation_that_gave_nothing_or_was_stopped_by_hand_is_no_measurement(
    tmp_path, monkeypatch, capsys, code, printed
):
    assert run_simulate(monkeypatch, tmp_path, code=code, printed=printed) == code
    assert capsys.readouterr().out == ""
