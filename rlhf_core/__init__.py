"""Steersman's training library: PaLM, reward models and RLHF. Names load when first used, so importing it is cheap."""

from importlib import import_module
from typing import Any

HOMES = {
    "PaLM": "rlhf_core.modules.palm",
    "RewardModel": "rlhf_core.modules.reward_model",
    "ActorCritic": "rlhf_core.modules.actor_critic",
    "RLHFTrainer": "rlhf_core.trainer",
    "Tokenizer": "rlhf_core.text.tokenizer",
}
__all__ = ["ActorCritic", "PaLM", "RLHFTrainer", "RewardModel", "Tokenizer"]  # noqa: F822 (see __getattr__)


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(HOMES[name]), name)
    globals()[name] = value
    return value
