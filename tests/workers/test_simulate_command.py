"""``manage.py simulate`` against a studio of real processes: web, workers, sampler, database and broker."""

import json
import os
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.workers.conftest import make_project
from webapp.accounts.models import User
from webapp.feedback.models import Rating
from webapp.local.children import Child, python, says
from webapp.local.endpoints import free_port, wait_until
from webapp.local.listening import page_answers
from webapp.projects.models import Project
from webapp.registry.selectors import serving
from webapp.runs.models import Evaluation, Run
from workers.management.commands.simulate import Command, signals_are_ctrl_c
from workers.simulation.loop import SimulationError, find_admin, find_project

LABELS = 24
TASTE = "def odd(prompt, response):\n    return sum(map(ord, response)) % 97\n"


@pytest.fixture
def studio(
    process_environment: dict[str, str], steersman_data: Path, make_policy, tmp_path: Path
) -> Iterator[tuple[str, Project]]:
    """The address of a studio with a policy of a few thousand weights; all its processes are this test's own."""
    project = make_project(make_policy(steersman_data / "checkpoints").id, buffer_target=12)
    port = free_port()
    environment = {**process_environment, "DEBUG": "1", "RUN_POLL_SECONDS": "0.1", "REFILL_SECONDS": "2"}
    celery = python("-m", "celery", "--quiet", "-A", "workers.celery_app", "worker", "--loglevel", "INFO")
    celery += ["--without-gossip", "--without-mingle"]
    schedule = str(tmp_path / "beat")
    wanted = {
        "web": (
            python("-m", "uvicorn", "webapp.asgi:application", "--port", str(port), "--log-level", "warning"),
            lambda child: page_answers("127.0.0.1", port),
        ),
        "train": ([*celery, "-Q", "train", "-c", "1", "-n", "train@%h"], says(r"\bready\b")),
        "sample": (
            [*celery, "-Q", "sample,default", "-c", "1", "-n", "sample@%h", "--beat", "--schedule", schedule],
            says(r"\bready\b"),
        ),
        "sampler": (python("manage.py", "run_sampler"), says(r"\bready\b|asked for at")),
    }
    children = [
        Child(name, command, tmp_path / f"{name}.log", environment, answers=answers)
        for name, (command, answers) in wanted.items()
    ]
    try:
        for child in children:
            child.start()
        for child in children:
            answered = wait_until(lambda child=child: child.has_ended() or child.answers(child), seconds=60)
            assert answered, child.log.read_text()
            assert not child.has_ended(), child.log.read_text()
        yield f"http://127.0.0.1:{port}", project
    finally:
        for child in children:
            child.ask_to_stop()
        for child in children:
            if not wait_until(child.has_ended, seconds=15):
                child.kill()


def simulate(*words: str) -> tuple[list[dict], str]:
    out, err = StringIO(), StringIO()
    call_command("simulate", *words, stdout=out, stderr=err)
    return [json.loads(line) for line in out.getvalue().splitlines()], err.getvalue()


@pytest.mark.slow
def test_the_loop_is_closed_twice_through_the_pages(studio, tmp_path, monkeypatch):
    url, project = studio
    (tmp_path / "odd_taste.py").write_text(TASTE)
    monkeypatch.syspath_prepend(str(tmp_path))
    base = serving(project).checkpoint
    (found,), said = simulate(
        *("--project", "tiny", "--raters", "3", "--labels", str(LABELS), "--url", url),
        *("--taste", "odd_taste:odd", "--seed", "5"),
    )

    assert (found["seed"], found["labels"]) == (5, LABELS)
    for turn in (found, found["round2"]):
        assert set(turn["seconds"]) == {"sample", "rate", "reward", "policy", "evaluate", "promote"}
        assert turn["taste"]["n"] == project.prompts.filter(split="held_out").count()
        assert turn["taste"]["difference"] == pytest.approx(turn["taste"]["after"] - turn["taste"]["before"], abs=1e-4)
        assert turn["taste"]["low"] <= turn["taste"]["difference"] <= turn["taste"]["high"]
        assert turn["rm_accuracy"]["n"] > 0
        assert turn["kl"]["se"] > 0
        assert turn["distinct2_ratio"] > 0 < turn["length_ratio"]
    assert "held out; figures are steadier with 300" in said
    check_the_figures(project, found)

    # the raters came in as people do, and are never taken for people
    ratings = Rating.objects.filter(project=project)
    assert ratings.count() == 2 * LABELS
    assert set(ratings.values_list("source", flat=True)) == {"simulated"}
    raters = User.objects.filter(pk__in=ratings.values("rater"))
    assert raters.count() == 3
    assert all(user.is_simulated and user.last_login for user in raters)

    # round two rated what round one promoted, and nothing is left changed
    second = ratings.order_by("id")[LABELS:]
    assert {rating.comparison.first.checkpoint.version for rating in second} == {2}
    assert serving(project).checkpoint.version == 3
    assert serving(project).checkpoint.parent.parent == base
    project.refresh_from_db()
    assert project.buffer_target == 12
    trained = Run.objects.filter(project=project, kind__in=["reward", "policy"])
    assert len({run.config["seed"] for run in trained}) == 4


def check_the_figures(project: Project, found: dict) -> None:
    """Each figure once more, from the answers and evaluations that the rounds left behind."""
    runs = Run.objects.filter(project=project, kind="evaluate").order_by("number")
    main_1, again_1, main_2, again_2 = (Evaluation.objects.get(run=run) for run in runs)
    versions = [one.checkpoint.version for one in (main_1, again_1, main_2, again_2)]
    assert versions == [2, 1, 3, 2], "of each round the candidate, and what it was made from once more"

    def answers(evaluation: Evaluation, version: int) -> dict:
        """Taste and reward by prompt."""
        rows = evaluation.items.filter(sample__checkpoint__version=version).select_related("sample")
        shown = {row.sample.prompt_id: (row.sample.text.lstrip(), row.reward) for row in rows}
        return {prompt: (sum(map(ord, text)) % 97, reward) for prompt, (text, reward) in shown.items()}

    def mean(judged: dict) -> float:
        return sum(taste for taste, _ in judged.values()) / len(judged)

    for turn, main, again, candidate in ((found, main_1, again_1, 2), (found["round2"], main_2, again_2, 3)):
        assert turn["taste"]["before"] == pytest.approx(mean(answers(main, 1)), rel=1e-4)
        assert turn["taste"]["after"] == pytest.approx(mean(answers(main, candidate)), rel=1e-4)
        numbers, kl = main.metrics["policies"], main.metrics["kl"]["base"]
        assert turn["kl"] == pytest.approx({"value": kl["value"], "se": kl["error"]}, rel=1e-4)
        for name, metric in (("distinct2_ratio", "distinct_2"), ("length_ratio", "response_length")):
            assert turn[name] == pytest.approx(numbers["candidate"][metric] / numbers["base"][metric], rel=1e-4)
        one, other = answers(main, candidate - 1), answers(again, candidate - 1)
        pairs = [(one[prompt], other[prompt]) for prompt in one if one[prompt][0] != other[prompt][0]]
        right = sum((a[0] > b[0]) == (a[1] > b[1]) if a[1] != b[1] else 0.5 for a, b in pairs)
        assert (turn["rm_accuracy"]["n"], turn["rm_accuracy"]["value"]) == (
            len(pairs),
            pytest.approx(right / len(pairs), rel=1e-4),
        )
    assert main_2.metrics["kl"]["base"] != main_2.metrics["kl"]["parent"]
    assert mean(answers(main_1, 1)) != mean(answers(main_1, 2))


def test_what_cannot_be_simulated_is_refused_with_the_reason(transactional_db, steersman_data, make_policy):
    make_project(make_policy(steersman_data / "checkpoints").id)
    closed = f"http://127.0.0.1:{free_port()}"
    for words, said in [
        (["--labels", "0"], "--labels is 0"),
        (["--ability", "nan"], "--ability is nan"),
        (["--seeds", "2", "--url", closed], "cannot share one --url"),
        (["--taste", "nowhere_to_be_found:like"], "no module 'nowhere_to_be_found'"),
        (["--project", "other", "--url", closed], "no project 'other'; there are: tiny"),
        (["--project", "tiny", "--url", closed], "does not answer.*is the studio up"),
    ]:
        with pytest.raises(CommandError, match=said):
            simulate(*words)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("is_paused", True, "is paused: end the pause"),
        ("use_simulated_ratings", False, 'leaves simulated ratings out.*switch "Train on simulated ratings too" on'),
        ("buffer_target", 0, 'keeps no items ready.*set "Items kept ready" to 1 or more'),
    ],
)
def test_a_project_in_which_a_later_step_would_fail_is_refused_at_once(project, setting, value, said):
    Project.objects.update(**{setting: value})
    with pytest.raises(SimulationError, match=said):
        find_project("tiny")


def test_the_first_admin_runs_the_loop_and_none_is_made(db):
    with pytest.raises(SimulationError, match="no admin yet: ./manage.py login_link makes one"):
        find_admin()
    assert not User.objects.exists()
    User.objects.create_user("gone", is_staff=True, is_active=False)
    first = User.objects.create_user("grace", is_staff=True)
    User.objects.create_user("admin", is_staff=True)
    assert find_admin() == first


def test_after_a_seed_that_failed_the_others_go_on(monkeypatch):
    turn = {
        "seconds": {"rate": 10.0},
        "taste": {"before": 0.1, "after": 0.5, "difference": 0.4, "low": 0.3, "high": 0.5, "n": 300},
        "kl": {"value": 4.0, "se": 0.2},
        "rm_accuracy": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90},
        "distinct2_ratio": 0.9,
        "length_ratio": 1.1,
    }

    def play(command, plan, seed, url, *, quiet):
        if seed == 4:
            raise SimulationError("run 2 (policy) failed: out of memory")
        return {"seed": seed, "labels": plan.labels, **turn, "round2": turn}

    monkeypatch.setattr(Command, "simulate", play)
    out, err = StringIO(), StringIO()
    with pytest.raises(CommandError, match=r"^seed 4: run 2 \(policy\) failed: out of memory$") as failed:
        call_command("simulate", "--seed", "3", "--seeds", "3", stdout=out, stderr=err)
    assert failed.value.returncode == 1
    assert [json.loads(line)["seed"] for line in out.getvalue().splitlines()] == [3, 5]
    rows = [line.split()[0] for line in err.getvalue().splitlines()]
    assert rows == ["seed", "seed", "3", "3", "5", "5"]  # the word about seed 4, the table's head, two rounds each


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_unwinds_so_that_a_temporary_studio_is_removed(number):
    kept = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_are_ctrl_c():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == kept


def test_under_nohup_a_terminal_that_is_closed_ends_nothing():
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_are_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, kept)
