"""The documentation says what is true: settings, metrics, commands and links."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from django.core.management import get_commands

from rlhf_core.config import METRICS, RUN_CONFIGS, ModelConfig, SamplingConfig
from tests.house.training_settings import render

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("demo/**/*.md")])


def test_the_page_of_training_settings_is_what_the_dataclasses_say():
    page = (ROOT / "docs/training-settings.md").read_text(encoding="utf-8")
    assert page == render(), "run 'make docs' and commit docs/training-settings.md"


@pytest.mark.parametrize("settings_type", [*RUN_CONFIGS.values(), ModelConfig, SamplingConfig])
def test_every_setting_has_a_help_text(settings_type):
    for item in fields(settings_type):
        assert item.metadata["help"], item.name


def test_every_metric_is_explained():
    assert set(METRICS) == set(RUN_CONFIGS)
    for kind, metrics in METRICS.items():
        for name, (help_text, _unit) in metrics.items():
            assert help_text, f"{kind}: {name}"


def test_every_management_command_of_ours_is_documented():
    ours = {name for name, app in get_commands().items() if app.startswith(("webapp", "workers"))}
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert ours, "no commands found"
    assert {name for name in ours if f"manage.py {name}" not in text} == set()


def test_every_environment_variable_read_by_the_settings_is_documented():
    source = (ROOT / "webapp/settings.py").read_text(encoding="utf-8")
    names = set(re.findall(r"""env(?:\.\w+)?\(\s*["']([A-Z][A-Z0-9_]+)["']""", source))
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert names
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("document", PAGES, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_every_make_target_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named - targets == set()


def test_every_folder_of_the_tree_stands_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"docs", "tests", "demo"}
    assert {folder for folder in folders if f"{folder}/" not in readme} == set()


def test_every_test_named_in_the_rules_exists():
    named = re.findall(r"(test_\w+\.py)::(test_\w+)", (ROOT / "docs/algorithms/rules.md").read_text(encoding="utf-8"))
    assert named
    sources = {file: (ROOT / "tests/core" / file).read_text(encoding="utf-8") for file in {file for file, _ in named}}
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in sources[file]] == []
