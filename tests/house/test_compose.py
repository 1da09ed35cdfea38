"""What can be held of the containers without an engine: who may do what, and that the pages name every setting."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from webapp.settings import RUN_STOP_SECONDS
from workers.celery_app import QUEUES

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
ONCE = {"secrets", "migrate"}  # these end by themselves
OTHERS = {"db", "broker"}  # programs of others
OURS = sorted(set(SERVICES) - OTHERS)


def dockerfile_stages() -> dict[str, str]:
    """The text of each stage by its name; a stage carries what it was built from."""
    stages: dict[str, str] = {}
    for part in re.split(r"^(?=FROM )", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        base, name = re.match(r"FROM (\S+) AS (\S+)", part).groups()
        stages[name] = stages.get(base, "") + part
    return stages


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_every_part_of_the_studio_has_a_service():
    wanted = {"db", "broker", "migrate", "web", "worker-train", "worker-sample", "beat", "sampler"}
    assert wanted <= set(SERVICES)
    listened = re.findall(r"-Q (\S+)", " ".join(str(service.get("command")) for service in SERVICES.values()))
    assert {queue for word in listened for queue in word.split(",")} == set(QUEUES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_can_write_nothing_but_its_volumes_and_gain_no_rights(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is (name != "db")  # without the right to signal others, its init could not stop it
    assert "privileged" not in service
    if name != "db":  # its entrypoint changes to the user postgres by itself
        assert service["user"] == "10001:10001"
        assert "cap_add" not in service


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONCE))
def test_what_stays_up_tells_whether_it_is_well_and_is_started_again(name):
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(ONCE))
def test_what_ends_by_itself_is_waited_for(name):
    waiting = [other for other in SERVICES.values() if name in other.get("depends_on", {})]
    assert waiting
    assert {other["depends_on"][name]["condition"] for other in waiting} == {"service_completed_successfully"}
    assert SERVICES[name]["restart"] == "no"


def test_only_the_pages_are_published_and_by_default_to_this_machine_alone():
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]
    assert SERVICES["web"]["ports"] == ["${STEERSMAN_BIND:-127.0.0.1}:${STEERSMAN_PORT:-8000}:8000"]
    assert COMPOSE["networks"]["inner"]["internal"] is True
    reaches_out = {name for name, service in SERVICES.items() if service.get("networks") not in (None, ["inner"])}
    assert reaches_out == {"web"}


def test_no_password_stands_in_the_files():
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            is_secret = re.search("PASSWORD|SECRET|DATABASE_URL|BROKER_URL", variable)
            assert not is_secret or (variable.endswith("_FILE") and value.startswith("/secrets/")), (name, variable)


def test_a_trainer_has_the_time_to_save_its_run():
    assert seconds(SERVICES["worker-train"]["stop_grace_period"]) >= 1.5 * RUN_STOP_SECONDS


def test_the_broker_keeps_its_messages_and_evicts_none():
    command = SERVICES["broker"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_image_of_the_pages_has_no_torch_and_every_image_a_user_of_its_own():
    stages = dockerfile_stages()
    web = (ROOT / "requirements/web.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|numpy|tokenizers|safetensors|-r )", web, flags=re.MULTILINE)
    assert not re.search("torch.txt|base.txt|TORCH", stages["web"])
    assert "torch.txt" in stages["worker"]
    for name in ("web", "worker"):
        assert re.findall(r"^USER (\S+)", stages[name], flags=re.MULTILINE) == ["10001:10001"]
    needs_torch = {name for name in OURS if SERVICES[name]["image"] == "steersman-worker"}
    assert needs_torch == {"worker-train", "sampler"}


def test_each_image_is_built_once():
    builders = {service["build"]["target"]: service["image"] for service in SERVICES.values() if "build" in service}
    assert builders == {"web": "steersman-web", "worker": "steersman-worker"}
    assert len([service for service in SERVICES.values() if "build" in service]) == 2


def test_an_image_takes_in_every_package_that_runs_and_nothing_private():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    def is_taken(name: str) -> bool:
        taken = True
        for rule in rules:
            if fnmatch(name, rule.removeprefix("!")):
                taken = rule.startswith("!")
        return taken

    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert {name for name in packages if not is_taken(name)} == set()
    assert is_taken("manage.py")
    private = (".env", ".git", ".venv", ".steersman", "tests", "dump.sql")
    assert [name for name in private if is_taken(name)] == []


def test_every_variable_of_the_compose_file_is_documented():
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    for name in OURS:
        named |= set(SERVICES[name].get("environment", {}))
        named |= set(SERVICES[name].get("build", {}).get("args", {}))
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert {"STEERSMAN_PORT", "TORCH", "DATABASE_URL_FILE", "HEARTBEAT_FILE"} <= named
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_every_service_stands_in_the_deployment_page():
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    assert {name for name in SERVICES if f"| `{name}` |" not in page} == set()
    assert {name for name in COMPOSE["volumes"] if f"| `steersman_{name}` |" not in page} == set()


def test_the_service_that_the_deployment_page_brings_a_policy_in_with_may_write_the_store():
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"docker compose run .* (\S+) python manage\.py add_policy", page)
    assert "data:/data" in SERVICES[name]["volumes"]
    assert "data:/data:ro" in SERVICES["web"]["volumes"]  # hence not there


def test_cards_are_given_to_the_service_that_uses_one():
    override = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text(encoding="utf-8"))
    assert set(override["services"]) == {"sampler"}  # nothing that a run does looks for a card
    for service in override["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_the_containers_start_what_the_operations_page_says():
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = page.partition("## Servers of your own")[2].partition("\n\nRun ")[0]
    told = [command.removeprefix("./manage.py").split() for command in re.findall(r"\| `([^`]+)`", table)]
    started = [
        set(command if isinstance(command, list) else command.split())
        for command in (SERVICES[name].get("command", "") for name in OURS)
    ]
    missing = [words for words in told if not any(set(words) <= command for command in started)]
    assert len(told) == 6
    assert missing == [["run_trainer"]]  # a way to train without Celery
