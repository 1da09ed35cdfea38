"""Runs as a studio would start them, and the processes that train them, for tests that kill, stop and starve them."""

import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch

from rlhf_core.checkpoint import load_policy, save_policy, save_reward_model
from rlhf_core.config import ModelConfig, PolicyConfig, RewardConfig
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.text.tokenizer import Tokenizer
from webapp import queue
from webapp.accounts.models import User
from webapp.accounts.services import ensure_admin
from webapp.feedback import selectors as feedback_selectors
from webapp.feedback import services as feedback
from webapp.feedback.services import NewSample
from webapp.local.endpoints import free_port
from webapp.local.process import is_running
from webapp.local.valkey import EmbeddedValkey
from webapp.projects.models import Membership, Project
from webapp.projects.services import create_project, import_prompts
from webapp.registry.selectors import serving
from webapp.registry.services import promote, record_checkpoint
from webapp.runs.models import Run
from webapp.runs.services import start_policy_run, start_reward_run
from workers.run_files import read_child

# What a supervisor waits for: a tenth of the defaults (60, 10, 15, 180, 120, 600, 60, 300 s) or less.
HURRIED = {
    "RUN_LEASE_SECONDS": "6",
    "RUN_RENEW_SECONDS": "1",
    "RUN_REAP_SECONDS": "2",
    "RUN_START_SECONDS": "18",
    "RUN_CANCEL_SECONDS": "12",
    "RUN_STALL_SECONDS": "10",
    "RUN_STOP_SECONDS": "3",
    "RUN_DATABASE_SECONDS": "30",
    "RUN_POLL_SECONDS": "0.1",
    "STEERSMAN_ROLE": "worker",
}
RATINGS = 40


@pytest.fixture
def hurried(process_environment: dict[str, str], steersman_data: Path, settings: Any) -> dict[str, str]:
    """The environment of our processes; the test process itself keeps the same times."""
    for name, value in HURRIED.items():
        if name.startswith("RUN_"):
            setattr(settings, name, float(value) if "." in value else int(value))
    return {**process_environment, **HURRIED, "STEERSMAN_DATA": str(steersman_data)}


@pytest.fixture
def project(transactional_db: None, steersman_data: Path) -> Project:
    """A project with a tiny policy and forty ratings."""
    chance = random.Random(0)
    words = ["film", "sea", "good", "dull", "long", "story"]
    tokenizer = Tokenizer.train([" ".join(chance.choices(words, k=8)) for _ in range(50)], vocab_size=300)
    torch.manual_seed(0)
    palm = PaLM.from_config(ModelConfig(num_tokens=tokenizer.vocab_size, dim=32, depth=2, heads=2, dim_head=16))
    policy = save_policy(steersman_data / "checkpoints", palm, tokenizer, {})
    admin = ensure_admin()
    made = create_project(
        actor=admin, name="Tiny", slug="tiny", question="Which is better?", single_question="How good?"
    )
    lines = "".join(f"The film number {number} is about the sea\n" for number in range(RATINGS))
    import_prompts(actor=admin, project=made, text=lines, format="text", held_out_percent=0)
    checkpoint = record_checkpoint(project=made, kind="policy", sha256=policy.id)
    promote(project=made, checkpoint=checkpoint, actor=admin, expected_epoch=0)
    rater = User.objects.create(username="rater")
    Membership.objects.create(project=made, user=rater)
    pointer = serving(made)
    assert pointer is not None
    for prompt in made.prompts.all():
        texts = [" ".join(chance.choices(words, k=6)) for _ in range(2)]
        samples = feedback.record_samples(
            checkpoint=checkpoint,
            sampling=pointer.sampling,
            samples=[
                NewSample(prompt.pk, seed, [1, 5], [*tokenizer.encode(text), tokenizer.end], text, "end", -5.0)
                for seed, text in enumerate(texts)
            ],
        )
        feedback.make_items(project=made, samples_by_prompt={prompt.pk: samples})
    while (presentation := feedback.claim(rater=rater, project=made)) is not None:
        shown = feedback_selectors.shown(presentation, made)
        assert shown.right_text is not None
        choice = "2" if shown.left_text.count("good") > shown.right_text.count("good") else "6"
        feedback.submit(rater=rater, project=made, token=shown.token, submission_id=uuid.uuid4(), choice=choice)
    return made


@pytest.fixture
def ask(project: Project) -> Callable[..., Run]:
    """Ask for a reward run; its ``epochs`` decide how long it takes (about 18 steps an epoch)."""

    def start(epochs: int = 12, **values: Any) -> Run:
        small = {"batch_size": 2, "lora_rank": 2, "minimum_ratings": 20, "save_interval": 20, "threads": 1}
        config = RewardConfig(epochs=epochs, **small | values)
        return start_reward_run(actor=None, project=project, config=config, request_id=uuid.uuid4())

    return start


@pytest.fixture
def ask_policy(project: Project, steersman_data: Path) -> Callable[..., Run]:
    """Ask for a PPO run of ``updates`` rounds, which follows a reward model that was never trained."""

    def start(updates: int = 30, **values: Any) -> Run:
        pointer = serving(project)
        assert pointer is not None
        store = steersman_data / "checkpoints"
        palm, tokenizer, _ = load_policy(store / pointer.checkpoint.sha256)
        torch.manual_seed(1)
        saved = save_reward_model(store, RewardModel(palm, num_binned_output=5, lora_r=2), tokenizer, {})
        reward_model = record_checkpoint(project=project, kind="reward_model", sha256=saved.id)
        small = {"rollout_batch_size": 8, "minibatch_size": 4, "critic_warmup_updates": 1, "lora_rank": 2}
        small |= {"max_new_tokens": 12, "max_prompt_tokens": 16, "threads": 1}
        config = PolicyConfig(updates=updates, **small | values)
        return start_policy_run(
            actor=None, project=project, config=config, reward_model=reward_model, request_id=uuid.uuid4()
        )

    return start


@pytest.fixture
def broker(tmp_path: Path, settings: Any) -> Iterator[EmbeddedValkey]:
    """A broker of this test's own that is down at first; the web side already knows where it would be."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.port = free_port()
    settings.BROKER_URL = server.url
    queue.sender.cache_clear()
    yield server
    server.stop()
    queue.sender.cache_clear()


@pytest.fixture
def look(hurried: dict[str, str]) -> Iterator[Callable[[str], int]]:
    """Ask the database beside our own connection, each time anew."""
    with psycopg.connect(hurried["DATABASE_URL"], autocommit=True) as other:

        def count(condition: str) -> int:
            """How many of the workers' connections to this test's database are as ``condition`` says."""
            ours = "datname = current_database() AND application_name = 'steersman-worker'"
            row = other.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {ours} AND {condition}").fetchone()
            assert row is not None
            return int(row[0])

        yield count


@pytest.fixture
def start(hurried: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a process of ours; whatever a test leaves behind is killed."""
    begun: list[subprocess.Popen] = []

    def launch(*words: str, **environment: str) -> subprocess.Popen:
        with (tmp_path / f"process-{len(begun)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *words], env={**hurried, **environment}, stdout=log, stderr=subprocess.STDOUT
            )
        begun.append(process)
        return process

    yield launch
    for process in begun:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    for note in (tmp_path / "steersman" / "runs").glob("*/child.json"):
        child = read_child(note.parent)
        if child is not None and is_running(child[0]):
            os.killpg(child[0], signal.SIGKILL)
