"""Small models and data that several of the tests learn from."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf_core.checkpoint import save_policy, save_reward_model
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Prompt, ScoredResponse
from rlhf_core.text.tokenizer import Tokenizer

GOOD, BAD = range(100, 120), range(120, 140)  # token ids that the synthetic rater likes and dislikes


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """Bytes and specials alone: 259 tokens."""
    return Tokenizer.train(["a film"], 259)


@pytest.fixture
def make_palm() -> Callable[..., PaLM]:
    """A tiny PaLM from a seed; keywords change its shape."""

    def make(seed: int = 0, **changes) -> PaLM:
        torch.manual_seed(seed)
        shape = dict(dim=32, num_tokens=259, depth=2, heads=2, dim_head=16, ff_mult=2, cross_entropy_ignore_index=-100)
        return PaLM(**{**shape, **changes})

    return make


def liking(tokens) -> int:
    """How many liked tokens more than disliked ones."""
    return sum(token in GOOD for token in tokens) - sum(token in BAD for token in tokens)


@pytest.fixture(scope="session")
def rated_responses():
    """A function that makes synthetic feedback: random responses, judged by how many liked tokens they hold."""

    def make(*, comparisons: int = 0, scores: int = 0, prompts: int = 40, seed: int = 0, length: int = 12):
        generator = torch.Generator().manual_seed(seed)

        def draw() -> tuple[int, ...]:
            return (*torch.randint(90, 150, (length - 1,), generator=generator).tolist(), 2)

        records: list[Comparison | ScoredResponse] = []
        while len(records) < comparisons + scores:
            number = len(records) % prompts
            prompt = (1, 50 + number % 40, 60 + number // 40)
            first, second = sorted((draw(), draw()), key=liking)
            if len(records) < comparisons:
                gap = liking(second) - liking(first)
                records.append(Comparison(f"p{number}", prompt, second, first, strength=min(gap, 3)))
            else:
                records.append(ScoredResponse(f"p{number}", prompt, first, min(max(3 + liking(first), 1), 5)))
        return records

    return make


@pytest.fixture(scope="session")
def slow_advantages() -> Callable[..., Tensor]:
    """Generalised advantage estimates by their definition, slowly."""

    def slow(rewards, values, mask, gamma, lam):
        """Σ (γλ)^l δ_{t+l}, summed anew for each t."""
        found = torch.zeros_like(rewards)
        for row in range(len(rewards)):
            n = int(mask[row].sum())
            for t in range(n):
                for step in range(t, n):
                    after = float(values[row, step + 1]) if step + 1 < n else 0.0
                    delta = float(rewards[row, step]) + gamma * after - float(values[row, step])
                    found[row, t] += (gamma * lam) ** (step - t) * delta
        return found

    return slow


@pytest.fixture
def policy_path(tmp_path, make_palm, tiny_tokenizer) -> Path:
    """A stored, untrained policy."""
    return save_policy(tmp_path / "store", make_palm(), tiny_tokenizer, {}).path


@pytest.fixture
def reward_model_path(tmp_path, make_palm, tiny_tokenizer) -> Path:
    """A stored, untrained reward model."""
    torch.manual_seed(1)
    return save_reward_model(tmp_path / "store", RewardModel(make_palm(), num_binned_output=5), tiny_tokenizer, {}).path


@pytest.fixture(scope="session")
def some_prompts() -> list[Prompt]:
    return [Prompt(f"p{number}", text) for number, text in enumerate(["The film", "It was", "A story", "I saw this"])]
