"""A policy and reward models of a few thousand weights, a sampler that serves them, and a project to rate."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf_core.checkpoint import CheckpointRef, save_policy, save_reward_model
from rlhf_core.config import ModelConfig, SamplingConfig
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.text.tokenizer import Tokenizer
from tests.reward_models import make_reward_model
from webapp.accounts.services import ensure_admin
from webapp.projects.models import Project
from webapp.projects.services import create_project, import_prompts
from webapp.registry.services import promote, record_checkpoint, sampling_settings
from workers.sampler.client import SamplerClient
from workers.sampler.engine import Sampler
from workers.sampler.server import Door

SENTENCES = ["A film about the sea.", "The actors try hard and fail.", "I liked it a lot!"] * 3


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return Tokenizer.train(SENTENCES, vocab_size=300)


@pytest.fixture(scope="session")
def make_policy(tokenizer: Tokenizer):
    """Save an untrained tiny policy into a store; another seed makes another policy."""

    def make(store: Path, seed: int = 0) -> CheckpointRef:
        torch.manual_seed(seed)
        shape = ModelConfig(num_tokens=tokenizer.vocab_size, dim=16, depth=1, heads=2, dim_head=8)
        return save_policy(store, PaLM.from_config(shape), tokenizer, {"seed": seed})

    return make


@pytest.fixture
def start_sampler(tmp_path: Path) -> Iterator:
    """Start a sampler with its door in this process; returns it with a client."""
    opened: list[tuple[Sampler, Door, list[threading.Thread]]] = []

    def start(store: Path, **options) -> tuple[Sampler, SamplerClient]:
        sampler = Sampler(store, **options)
        address = tmp_path / f"s{len(opened)}.sock"
        door = Door(address, sampler)
        threads = [
            threading.Thread(target=target, daemon=True) for target in (lambda: door.serve_forever(0.02), sampler.run)
        ]
        for thread in threads:
            thread.start()
        opened.append((sampler, door, threads))
        return sampler, SamplerClient(address)

    yield start
    for sampler, door, threads in opened:
        sampler.stop()
        door.shutdown()
        door.server_close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def make_project(policy_id: str, slug: str = "tiny", **fields) -> Project:
    """A project with 30 prompts (a fifth held out) whose serving policy is the checkpoint ``policy_id``."""
    admin = ensure_admin()
    project = create_project(
        actor=admin, name="Tiny", slug=slug, question="Which is better?", single_question="How good?", **fields
    )
    lines = "".join(f"The film number {number} is about the sea\n" for number in range(30))
    import_prompts(actor=admin, project=project, text=lines, format="text")
    sampling = sampling_settings(SamplingConfig(max_new_tokens=8, max_prompt_tokens=8))
    checkpoint = record_checkpoint(project=project, kind="policy", sha256=policy_id)
    promote(project=project, checkpoint=checkpoint, actor=admin, expected_epoch=0, sampling=sampling)
    return project


@pytest.fixture
def project(db: None, steersman_data: Path, make_policy) -> Project:
    return make_project(make_policy(steersman_data / "checkpoints").id, buffer_target=12)


@pytest.fixture
def save(steersman_data: Path, tokenizer: Tokenizer):
    """Save a reward model into the store."""

    def save(model: RewardModel, by: Tokenizer | None = None) -> CheckpointRef:
        return save_reward_model(steersman_data / "checkpoints", model, by or tokenizer, {})

    return save


@pytest.fixture
def add(project, tokenizer, save):
    """A new reward model of the project: its row, and the model itself."""

    def add(ensemble: int = 1, seed: int = 7):
        model = make_reward_model(tokenizer, ensemble, seed)
        return record_checkpoint(project=project, kind="reward_model", sha256=save(model).id), model

    return add
