"""The whole loop in a real browser, with every process real: PostgreSQL, the broker, web, sampler, Celery, training.

A rater joins and rates by keyboard; an admin trains a reward model and sees its curves move, improves the policy and
promotes it; the rater is then shown samples of the new policy, and that policy's page leads back to the ratings.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from rlhf_core.checkpoint import save_policy
from rlhf_core.config import ModelConfig, SamplingConfig
from rlhf_core.modules.palm import PaLM
from rlhf_core.text.tokenizer import Tokenizer
from tests.browser import pictures
from webapp.accounts.services import create_login_link, ensure_admin
from webapp.feedback.models import Rating, Sample, Slot
from webapp.local.endpoints import free_port
from webapp.projects.models import Project
from webapp.projects.services import create_invitation, create_project, import_prompts
from webapp.registry.services import promote, record_checkpoint, sampling_settings
from webapp.runs.models import Run, RunMetrics

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
RATINGS = 10
PATIENCE = 90_000  # ms for what takes seconds on an idle machine
WORDS = ["film", "sea", "good", "dull", "long", "story", "the", "actors", "a", "night"]
VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE / 1000) -> Any:
    """Wait until ``true()`` gives something; fail by name otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.1)
    raise AssertionError(f"in {seconds:.0f} s it did not come true that {what}")


@pytest.fixture
def project(transactional_db: None, steersman_data: Path) -> Project:
    """A project with prompts and an untrained policy of some thousand weights, which writes short answers."""
    chance = random.Random(0)
    tokenizer = Tokenizer.train([" ".join(chance.choices(WORDS, k=8)) for _ in range(80)], vocab_size=300)
    torch.manual_seed(0)
    shape = ModelConfig(num_tokens=tokenizer.vocab_size, dim=32, depth=2, heads=2, dim_head=16)
    policy = save_policy(steersman_data / "checkpoints", PaLM.from_config(shape), tokenizer, {})
    admin = ensure_admin()
    made = create_project(
        actor=admin,
        name="Film reviews",
        slug="film-reviews",
        question="Which continuation is the better review?",
        single_question="How good is it?",
        pair_percent=100,
        buffer_target=RATINGS + 4,
    )
    lines = "".join(f"The film number {number} is about\n" for number in range(40))
    import_prompts(actor=admin, project=made, text=lines, format="text", held_out_percent=20)
    checkpoint = record_checkpoint(project=made, kind="policy", sha256=policy.id)
    sampling = sampling_settings(SamplingConfig(max_new_tokens=12, max_prompt_tokens=16))
    promote(project=made, checkpoint=checkpoint, actor=admin, expected_epoch=0, sampling=sampling)
    return made


@pytest.fixture
def studio_url(
    project: Project, process_environment: dict[str, str], steersman_data: Path, tmp_path: Path
) -> Iterator[str]:
    """The processes of a studio, as ``manage.py up`` starts them; the web process serves collected static files."""
    environment = {
        **process_environment,
        "STEERSMAN_DATA": str(steersman_data),
        "OMP_NUM_THREADS": "1",
        "RUN_POLL_SECONDS": "0.1",
        "REFILL_SECONDS": "2",
    }
    python, port = sys.executable, free_port()
    celery = [python, "-m", "celery", "-A", "workers.celery_app"]
    worker = [*celery, "worker", "-c", "1", "--loglevel", "INFO"]
    commands = {
        "web": [python, "-m", "uvicorn", "webapp.asgi:application", "--port", str(port), "--log-level", "warning"],
        "sampler": [python, "manage.py", "run_sampler"],
        "train": [*worker, "-Q", "train", "-n", "story-train@%h"],
        "sample": [*worker, "-Q", "sample,default", "-n", "story-sample@%h"],
        "beat": [*celery, "beat", "--schedule", str(tmp_path / "beat"), "--pidfile", "", "--loglevel", "WARNING"],
    }
    subprocess.run(
        [python, "manage.py", "collectstatic", "--noinput", "-v", "0"], cwd=ROOT, env=environment, check=True
    )
    processes = {}
    try:
        for name, command in commands.items():
            with (tmp_path / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment | {"STEERSMAN_ROLE": "web" if name == "web" else "worker"},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        address = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{address}/healthz"), "the web process answers")
        yield address
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in processes.items():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)
            print(f"--- {name} ---\n{(tmp_path / f'{name}.log').read_text(errors='replace')[-3000:]}")


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def open_page(browser: Browser, complaints: list[str]) -> Page:
    """A person's own browser; what it complains of is kept."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.add_init_script(VIOLATIONS)
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    return page


def rate_by_keyboard(page: Page, count: int) -> list[str]:
    """Press a digit for ``count`` items; gives the texts that were shown."""
    seen = []
    for number in range(count):
        page.wait_for_selector("#item[aria-busy=false] button[name=choice]")  # no key is taken before that
        token = page.input_value("[name=token]")
        seen += page.locator(".answer .shown").all_text_contents()
        page.keyboard.press("26"[number % 2])
        page.wait_for_function("old => document.querySelector('[name=token]')?.value !== old", arg=token)
    return seen


def fill(page: Page, **settings: object) -> None:
    """Type settings into the form, unfolding the advanced ones where they are among them."""
    for name, value in settings.items():
        field = page.locator(f"#id_{name}")
        if not field.is_visible():
            page.get_by_text("Advanced settings").click()
        field.fill(str(value))


def points_drawn(page: Page) -> int:
    return int(page.locator("[data-curves]").get_attribute("data-drawn") or 0)


def watch_curves_move(page: Page, number: int) -> None:
    """The curves grow while the run goes on, without the page being loaded anew; then it says that it is done."""
    page.evaluate("window.loadedOnce = true")
    first = until(lambda: points_drawn(page), "the first points are drawn")
    tag = page.locator("#live .tag").first  # on a fast machine the run may end before a second look
    until(lambda: points_drawn(page) > first or tag.inner_text() == "succeeded", "the curves grow")
    assert page.locator("figure.chart canvas").first.is_visible()
    expect(page.locator("#live .tag").first).to_have_text("succeeded", timeout=PATIENCE)
    steps = RunMetrics.objects.filter(run__number=number).count()
    until(lambda: points_drawn(page) >= min(steps, 600), "the last points are drawn")
    assert page.evaluate("window.loadedOnce")
    assert "no numbers yet" not in (page.locator("figure.chart .plot").first.get_attribute("aria-label") or "")
    assert not page.locator("#live[hx-trigger]").count()


def test_the_loop_turns_once_from_ratings_to_a_better_policy_in_the_raters_queue(browser, project, studio_url):
    complaints: list[str] = []
    board_url = f"{studio_url}/p/{project.slug}/"

    # The admin comes in by the one-time link and finds an empty board that says what to do.
    admin = open_page(browser, complaints)
    admin.goto(f"{studio_url}/link/{create_login_link(user=ensure_admin())}/")
    admin.get_by_role("button", name="Log in").click()
    admin.wait_for_url(lambda url: "/link/" not in url)
    admin.goto(board_url)
    expect(admin.get_by_role("heading", name="Nobody has rated yet")).to_be_visible()

    # A rater joins by invitation and rates by keyboard what the first policy wrote.
    rater = open_page(browser, complaints)
    token = create_invitation(actor=ensure_admin(), project=project, role="rater", valid_for=timedelta(hours=1), uses=1)
    rater.goto(f"{studio_url}/join/{token}/")
    rater.get_by_label("Name").fill("rita")
    rater.locator("input[type=password]").first.fill("correct horse battery")
    if rater.locator("input[type=password]").count() > 1:
        rater.locator("input[type=password]").nth(1).fill("correct horse battery")
    rater.keyboard.press("Enter")
    rater.wait_for_url(lambda url: "/join/" not in url)
    waiting = Slot.objects.filter(project=project, state="open")
    until(lambda: waiting.count() >= RATINGS, "the sampler has filled the queue")
    rater.goto(f"{board_url}rate/")
    shown = rate_by_keyboard(rater, RATINGS)
    given = Rating.objects.filter(rater__username="rita", source="human")
    until(lambda: given.count() == RATINGS, "the last verdict has reached the server")

    # The admin trains a reward model, with settings of their own, and sees its curves move.
    admin.goto(f"{board_url}runs/reward/")
    fill(admin, minimum_ratings=RATINGS, epochs=100, batch_size=4, lora_rank=2, holdout_fraction=0.2)
    admin.get_by_role("button", name="Start with these settings").click()
    admin.wait_for_url(f"{board_url}runs/1/")
    watch_curves_move(admin, 1)
    pictures.take(admin, "run-reward-desktop")

    # From its page, PPO is one click away; the board then says that a candidate is ready.
    admin.get_by_role("link", name="Improve policy (PPO)").click()
    fill(admin, updates=40, rollout_batch_size=8, minibatch_size=8, critic_warmup_updates=1, lora_rank=2)
    fill(admin, max_new_tokens=12, max_prompt_tokens=16)
    admin.get_by_role("button", name="Start with these settings").click()
    admin.wait_for_url(f"{board_url}runs/2/")
    watch_curves_move(admin, 2)
    pictures.take(admin, "run-policy-desktop")
    admin.goto(board_url)
    expect(admin.get_by_text("v2 is ready: evaluate it, then look and promote.")).to_be_visible()
    until(lambda: points_drawn(admin), "the board's curves are drawn")
    pictures.take(admin, "board-desktop")

    # It is evaluated: the page follows, and then shows how its answers differ from those that serve.
    admin.get_by_role("link", name="Evaluate", exact=True).click()
    fill(admin, prompts=6)
    admin.get_by_role("button", name="Start with these settings").click()
    admin.wait_for_url(f"{board_url}runs/3/")
    expect(admin.get_by_role("heading", name="Side by side with v1")).to_be_visible(timeout=PATIENCE)
    assert admin.locator(".ratings li").count() == 6
    assert Sample.objects.filter(prompt__split="held_out").count() == 12
    assert not Slot.objects.filter(comparison__prompt__split="held_out").exists()
    pictures.take(admin, "run-evaluate-desktop")
    admin.goto(board_url)
    expect(admin.get_by_text("v2 is evaluated.")).to_be_visible()

    # It is promoted, with a reason, and serves.
    admin.get_by_role("link", name="Look and promote").first.click()
    admin.get_by_label("Reason").fill("it drifted little and scores higher")
    admin.get_by_role("button", name="Promote v2").click()
    admin.wait_for_url(board_url)
    promoted_at = time.monotonic()
    expect(admin.locator(".versions tbody tr").first).to_contain_text("serving")

    # The rater's next items come from the new policy, and nothing on the page tells.
    until(
        waiting.filter(comparison__first__checkpoint__version=2).exists, "samples of the new policy wait in the queue"
    )
    print(f"promotion to the first new sample in the queue: {time.monotonic() - promoted_at:.1f} s")
    rate_by_keyboard(rater, 3)  # the first two may be what the page had already, on it and behind it
    until(lambda: given.count() == RATINGS + 3, "the last verdict has reached the server")
    newest = Rating.objects.filter(rater__username="rita").latest("created_at")
    assert newest.comparison.first.checkpoint.version == 2
    assert not re.search(r"\bv2\b", rater.content())  # random tokens may have it in their midst

    # The policy's page shows samples of it and leads back to the very ratings.
    admin.goto(f"{board_url}policies/2/")
    expect(admin.locator(".sample").first).to_be_visible()
    pictures.take(admin, "policy-desktop")
    admin.get_by_role("link", name="Read the ratings that trained it").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("The ratings that trained v2")
    assert admin.locator(".ratings li").count() == RATINGS
    listed = admin.locator(".ratings .texts .verbatim").all_text_contents()
    assert sorted(listed) == sorted(shown)

    assert list(Run.objects.order_by("number").values_list("kind", "state")) == [
        ("reward", "succeeded"),
        ("policy", "succeeded"),
        ("evaluate", "succeeded"),
    ]
    assert complaints == []
    for page in (admin, rater):
        assert page.evaluate("violations") == []
