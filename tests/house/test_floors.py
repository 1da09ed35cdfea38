"""Who may import whom (docs/architecture.md), read from the source: every import, and every key named in a string."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("rlhf_core", "webapp", "workers", "demo", "benchmarks")
PURE = {"rlhf_core.config", "rlhf_core.errors", "rlhf_core.records"}
PURE |= {"rlhf_core.settings", "rlhf_core.metrics"}  # parts of the config, which hands their names on
LIBRARY_MAY_USE = {"torch", "einops", "numpy", "safetensors", "tokenizers", "accelerate"}
COMMAND_LINE = {"rlhf_core.__main__", "rlhf_core.cli", "rlhf_core.options", "rlhf_core.progress"}
COMMAND_LINE_MAY_USE = {"rich", "yaml"}
PRETRAINED_MAY_USE = {"transformers", "peft", "gguf"}
APPS = ["accounts", "projects", "registry", "feedback", "quality", "runs", "api"]
LAYERS = ["models", "selectors", "services", "forms", "views", "urls"]
HEAVY = {"torch", "einops", "numpy", "safetensors", "tokenizers", "transformers", "accelerate"}
RELATIONS = {"ForeignKey", "OneToOneField", "ManyToManyField"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of ours by its dotted name, migrations left out."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" not in path.parts:
                found[name_of(path)] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return found


def imports_in(name: str, tree: ast.Module) -> set[str]:
    """Dotted names imported anywhere in the file: modules of ours in full, others as they are written."""
    is_package = any(other.startswith(f"{name}.") for other in sources())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in sources() else base)
    return found


@cache
def imports() -> dict[str, set[str]]:
    return {name: imports_in(name, tree) for name, tree in sources().items()}


def top(name: str) -> str:
    return name.split(".", 1)[0]


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def foreign(names: set[str]) -> set[str]:
    """The packages among ``names`` that are neither ours nor the standard library's."""
    return {top(name) for name in names} - set(PACKAGES) - set(sys.stdlib_module_names) - {""}


def wrong_imports(rule) -> list[str]:
    """Every import for which ``rule(importer, imported)`` says that it is wrong."""
    return sorted(
        f"{name} imports {used}" for name, all_used in imports().items() for used in all_used if rule(name, used)
    )


def test_the_walk_sees_the_house():
    assert {"rlhf_core.config", "webapp.settings", "webapp.runs.models", "workers.apps"} <= set(sources())
    assert "webapp.local.endpoints" in imports()["webapp.settings"]
    assert "django" in foreign(imports()["webapp.runs.models"])


def test_settings_errors_and_records_use_the_standard_library_alone():
    for name in PURE:
        assert foreign(imports()[name]) == set(), name
        assert {used for used in imports()[name] if top(used) in PACKAGES} <= PURE, name


def test_the_library_uses_only_what_it_may():
    for name, used in imports().items():
        if within(name, "rlhf_core"):
            allowed = LIBRARY_MAY_USE | (COMMAND_LINE_MAY_USE if name in COMMAND_LINE else set())
            allowed |= PRETRAINED_MAY_USE if within(name, "rlhf_core.pretrained") else set()
            assert foreign(used) <= allowed, name


def test_the_library_knows_nothing_above_it():
    assert (
        wrong_imports(lambda name, used: within(name, "rlhf_core") and top(used) in {"webapp", "workers", "demo"}) == []
    )


def test_web_loads_no_training_code_and_no_worker():
    def is_wrong(name, used):
        if not within(name, "webapp"):
            return False
        return top(used) in HEAVY | {"workers", "demo", "benchmarks"} or (
            within(used, "rlhf_core") and used not in PURE
        )

    assert wrong_imports(is_wrong) == []


def test_only_the_doorbell_knows_celery():
    assert (
        wrong_imports(
            lambda name, used: (
                within(name, "webapp")
                and name != "webapp.queue"
                and top(used) in {"celery", "kombu", "billiard", "redis"}
            )
        )
        == []
    )


@pytest.mark.parametrize("low", ["webapp.queue", "webapp.typeset"])
def test_the_doorbell_and_the_typesetter_lie_below_all_apps(low):
    apps = tuple(f"webapp.{app}" for app in APPS)
    assert wrong_imports(lambda name, used: within(name, low) and any(within(used, app) for app in apps)) == []


def test_workers_never_use_pages():
    pages = {"views", "forms", "urls", "templatetags"}
    assert (
        wrong_imports(
            lambda name, used: (
                within(name, "workers")
                and top(used) == "webapp"
                and any(part in pages or part.endswith("_views") for part in used.split("."))
            )
        )
        == []
    )


def test_the_workers_app_is_cheap_to_install():
    for name in ("workers", "workers.apps"):
        assert foreign(imports()[name]) <= {"django"}, name
        assert not {used for used in imports()[name] if within(used, "rlhf_core")}, name


def app_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "webapp" and parts[1] in APPS else None


def layer_of(name: str) -> str | None:
    parts = name.split(".")
    layer = parts[2].rsplit("_", 1)[-1] if app_of(name) and len(parts) > 2 else None  # board_views are views too
    return layer if layer in LAYERS else None


def test_apps_stand_on_the_apps_below_them():
    def is_wrong(name, used):
        importer, imported = app_of(name), app_of(used)
        return importer and imported and APPS.index(imported) > APPS.index(importer)

    assert wrong_imports(is_wrong) == []


def test_keys_named_in_strings_point_down_too():
    wrong = []
    for name, tree in sources().items():
        own = app_of(name)
        for node in ast.walk(tree):
            if not (own and isinstance(node, ast.Call)):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in RELATIONS | {"get_model"}:
                words = [*node.args[:2], *(word.value for word in node.keywords if word.arg in ("to", "through"))]
                for word in words:
                    target = (
                        word.value.split(".")[0] if isinstance(word, ast.Constant) and "." in str(word.value) else own
                    )
                    if target in APPS and APPS.index(target) > APPS.index(own):
                        wrong.append(f"{name} names {word.value}")
    assert wrong == []


def test_migrations_need_no_app_above_their_own():
    wrong = []
    for app in APPS:
        for path in (ROOT / "webapp" / app / "migrations").glob("0*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Tuple) and len(node.elts) == 2:
                    first = node.elts[0]
                    needed = first.value if isinstance(first, ast.Constant) else None
                    if needed in APPS and APPS.index(needed) > APPS.index(app):
                        wrong.append(f"{app}/{path.name} needs {needed}")
    assert wrong == []


def test_layers_of_an_app_stand_on_the_layers_below_them():
    def is_wrong(name, used):
        if app_of(name) != app_of(used):
            return False
        importer, imported = layer_of(name), layer_of(used)
        return importer and imported and LAYERS.index(imported) > LAYERS.index(importer)

    assert wrong_imports(is_wrong) == []


def test_no_two_files_import_each_other_by_any_path():
    graph = {
        name: {used for used in all_used if used in sources() and used != name} for name, all_used in imports().items()
    }
    state: dict[str, int] = defaultdict(int)  # 1 on the way, 2 done
    circle: list[str] = []

    def visit(name, path):
        state[name] = 1
        for used in sorted(graph[name]):
            if state[used] == 1:
                circle.append(" > ".join([*path[path.index(used) :], used]))
            elif not state[used]:
                visit(used, [*path, used])
        state[name] = 2

    for name in graph:
        if not state[name]:
            visit(name, [name])
    assert circle == []


def test_every_public_name_of_the_library_is_used_or_told_of():
    told = "\n".join(path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    words = {name: Counter(re.findall(r"\w+", ast.unparse(tree))) for name, tree in sources().items()}
    known = set(re.findall(r"\w+", told + tests))
    unused = []
    for name, tree in sources().items():
        if not within(name, "rlhf_core"):
            continue
        for node in tree.body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for found in names:
                is_used = words[name][found] > 1 or any(found in words[other] for other in words if other != name)
                if not (is_used or found in known or found.startswith("__")):
                    unused.append(f"{name}.{found}")
    assert unused == []


def test_there_is_no_drawer_for_odds_and_ends():
    assert [name for name in sources() if name.split(".")[-1] in {"utils", "helpers", "misc", "common"}] == []


def test_nothing_unpickles():
    loads = []
    for name, tree in sources().items():
        used = {top(imported) for imported in imports()[name]}
        if used & {"pickle", "dill", "joblib", "cloudpickle", "shelve"}:
            loads.append(f"{name} imports a pickle")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
                loads.append(f"{name} calls {ast.unparse(node)}")
    # The one place that reads other libraries' files, and of them nothing but tensors.
    assert loads == ["rlhf_core.weights calls torch.load(path, map_location='cpu', weights_only=True)"]


def test_the_studio_loads_no_module_by_a_name_that_was_given():
    """``rlhf_core.functions`` runs what it is told to: a shell may say that, a page or a task may not."""
    shell = {"workers.simulation.tastes"}  # of manage.py simulate
    loaders = {"importlib", "runpy", "pydoc", "django.utils.module_loading", "rlhf_core.functions"}
    studio = {name: used for name, used in imports().items() if top(name) in {"webapp", "workers"}}
    assert {name for name, used in studio.items() if used & loaders} == shell
    reached = {name for name, used in studio.items() if used & shell}
    assert {name for name in reached if not within(name, "workers.simulation")} == {
        "workers.management.commands.simulate"
    }
    calls = [
        (name, ast.unparse(node.func), {word.arg for word in node.keywords})
        for name in studio
        for node in ast.walk(sources()[name])
        if isinstance(node, ast.Call)
    ]
    made = [words for _, called, words in calls if called == "RunDirectory.create"]
    assert made
    assert [words for words in made if words & {"reward", None}] == []
    assert [name for name, called, _ in calls if called in ("exec", "eval", "__import__")] == []


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after ``statement``."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{statement}\nimport sys; print(' '.join(sorted({{n.split('.')[0] for n in sys.modules}})))",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "STEERSMAN_DATA": os.environ["STEERSMAN_TEST_SERVICES"],
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return set(said.stdout.split("\n")[-2].split())


def test_a_web_process_with_all_its_pages_loads_no_torch():
    loaded = loaded_by("import webapp.asgi\nfrom django.urls import get_resolver\nget_resolver().url_patterns")
    assert "webapp" in loaded
    assert loaded & (HEAVY | {"rich"}) == set()


def test_the_simulation_loads_no_torch():
    loaded = loaded_by("import django\ndjango.setup()\nimport workers.management.commands.simulate")
    assert "workers" in loaded
    assert loaded & HEAVY == set()


def test_the_library_is_cheap_to_import():
    assert loaded_by("import rlhf_core, rlhf_core.config, rlhf_core.records, rlhf_core.errors") & HEAVY == set()


@pytest.mark.django_db
def test_every_change_of_a_model_has_its_migration(capsys):
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=1)
    assert "No changes detected" in capsys.readouterr().out
