"""What a person sees of a run: the figures, the time left, lines and the bar."""

import io
import re

import pytest

from rlhf_core import progress
from rlhf_core.progress import Lines, Pace, figures, in_words, line_of, showing, speed


def metrics(step: int, **values) -> dict:
    return {"kind": "metrics", "step": step, "metrics": values}


def at(step: int, total: int = 100, phase: str = "train") -> dict:
    return {"kind": "progress", "step": step, "total_steps": total, "phase": phase}


def test_the_figures_leave_out_what_is_not_known():
    known = {"loss": 0.5, "kl": None, "validation_loss": 0.25, "tokens_per_second": 1234.4}
    assert figures(known) == "loss 0.500  validation 0.250"
    assert speed(known) == "1,234 tokens/s"
    assert figures({}) == speed({}) == ""


def test_the_time_left_counts_the_steps_of_this_process_alone():
    pace = Pace()
    assert pace.left(50, 100, now=10.0) is None  # resumed at 50
    assert pace.left(60, 100, now=30.0) == pytest.approx(80.0)  # 2 s a step, 40 left
    assert pace.left(5, 20, now=31.0) is None  # another part of the work begins
    assert pace.left(10, 20, now=36.0) == pytest.approx(10.0)


@pytest.mark.parametrize(("seconds", "words"), [(None, ""), (3723.4, "1:02:03"), (59.6, "0:01:00"), (0, "0:00:00")])
def test_a_time_in_words(seconds, words):
    assert in_words(seconds) == words


def test_lines_are_rare_and_come_at_once_for_what_is_rare(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    show = Lines(stream)
    for step in range(1, 41):
        clock[0] = float(step)
        values = {"loss": 1.0} | ({"validation_loss": 2.0} if step == 17 else {})
        show(metrics(step, **values))
        show(at(step, 40))
    show({"kind": "saved", "step": 40})
    told = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in stream.getvalue().splitlines()]
    assert [line.split()[1] for line in told] == ["1/40", "11/40", "17/40", "27/40", "37/40", "40/40"]
    assert told[2] == "train 17/40  loss 1.000  validation 2.000  0:00:23 left"
    assert told[3] == "train 27/40  loss 1.000  validation 2.000  0:00:13 left"  # the last one known


def test_words_and_samples_are_lines_for_people():
    assert line_of({"kind": "log", "message": "reading the text"}) == "reading the text"
    sample = {"kind": "sample", "step": 5, "prompt": "It\n was", "response": " good" * 200}
    line = line_of(sample)
    assert line is not None
    assert line.startswith("sample after step 5: It was ▸ good good")
    assert len(line) < 450
    assert line_of({"kind": "saved", "step": 5}) is None


def test_a_bar_shows_speed_and_time_left_and_lets_words_pass_above(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    with showing("bar", stream) as show:
        assert show is not None
        show({"kind": "log", "message": "training on [3] demonstrations"})
        for step in (10, 20):
            clock[0] = step / 10
            show(metrics(step, loss=0.5, tokens_per_second=4321.0))
            show(at(step))
    shown = stream.getvalue()
    assert "training on [3] demonstrations" in shown
    assert "20/100" in shown
    assert "4,321 tokens/s" in shown
    assert "loss 0.500" in shown
    assert "0:00:08 left" in shown


def test_where_there_is_no_terminal_there_are_lines_and_none_shows_nothing():
    with showing("auto", io.StringIO()) as show:
        assert isinstance(show, Lines)
    with showing("none") as show:
        assert show is None
