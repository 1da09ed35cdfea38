"""The programs that are timed in turn: what they tell, how it is summed up, how they say that something is missing."""

import pytest

from benchmarks.decoding_peers import tokens_per_second_at_most
from benchmarks.peers import environments
from benchmarks.peers.child import Program, alternate, sum_up
from benchmarks.peers.shapes import SIZES


def test_two_programs_of_ours_take_turns_and_tell_speed_and_memory():
    task = {"vocabulary": 20_000, "tokens": 600, "dim": 8}
    with Program("ours", task="log-prob", **task) as ours, Program("ours", task="full-logits", **task) as full:
        chunks, whole = (program.run(memory=True)["mebibytes"] for program in (ours, full))
        found = alternate((ours, full), runs=3)
    assert whole > 600 * 20_000 * 4 / 2**20  # the logits alone
    assert chunks < whole - 30
    for line in found:
        assert line["runs"] == 3
        assert line["tokens_per_second"] == pytest.approx(600 / line["seconds"], rel=0.1)
    assert ours.process.returncode == full.process.returncode == 0


def test_a_figure_is_the_median_of_its_runs():
    runs = [{"tokens": 100, "seconds": seconds, "rival_cores": seconds / 10} for seconds in (2.0, 10.0, 1.0)]
    assert sum_up(runs) == {"tokens_per_second": 50.0, "seconds": 2.0, "runs": 3, "rival_cores": 1.0}


class Slow:
    """A program in name, each of whose runs takes so many seconds."""

    def __init__(self, seconds):
        self.seconds = seconds

    def run(self):
        return {"tokens": 1, "seconds": self.seconds, "rival_cores": 0.0}


@pytest.mark.parametrize(("seconds", "asked", "made"), [(59.0, 5, 5), (61.0, 5, 3), (61.0, 1, 1)])
def test_what_takes_more_than_a_minute_runs_three_times_at_most(seconds, asked, made):
    assert [line["runs"] for line in alternate([Slow(1.0), Slow(seconds)], asked)] == [made, made]


def test_a_missing_environment_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.child.ENVIRONMENTS", tmp_path)
    with pytest.raises(RuntimeError, match=r"palm/bin/python: make bench-peers makes it"):
        Program("palm", "palm", task="decode")


def test_a_program_that_breaks_down_is_told_from_one_that_answers():
    with pytest.raises(RuntimeError, match="ours ended with exit code 1 at {'task': 'knitting'}"):
        Program("ours", task="knitting")


def test_the_sizes_are_what_their_names_say():
    assert [round(shape.weights / 1e6) for shape in SIZES.values()] == [5, 7, 25, 123]


def test_the_limit_is_the_slower_of_reading_and_multiplying():
    machine = {"gigabyte_per_second": 23.0, "gigaflop_per_second": 120.0}
    assert tokens_per_second_at_most("5M", 1, machine) == pytest.approx(1136, rel=0.01)  # worked out by hand, memory
    assert tokens_per_second_at_most("5M", 64, machine) == pytest.approx(8250, rel=0.01)  # and multipliers


@pytest.mark.parametrize(("asked", "made"), [([], ["palm", "transformers", "trl-ppo"]), (["palm"], ["palm"])])
def test_all_environments_are_made_unless_some_are_named(monkeypatch, asked, made):
    found = []
    monkeypatch.setattr("sys.argv", ["environments", *asked])
    monkeypatch.setattr(environments, "peer_environment", found.append)
    environments.main()
    assert found == made


def test_an_unknown_environment_is_named_with_those_there_are(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["environments", "trlx"])
    with pytest.raises(SystemExit):
        environments.main()
    assert "there is no trlx; there are palm, transformers, trl-ppo" in capsys.readouterr().err
