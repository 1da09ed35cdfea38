"""A policy of a few thousand weights, in a checkpoint store of the test's own."""

from pathlib import Path

import pytest
import torch

from rlhf_core.checkpoint import CheckpointRef, save_policy
from rlhf_core.config import ModelConfig
from rlhf_core.modules.palm import PaLM
from rlhf_core.text.tokenizer import Tokenizer

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
