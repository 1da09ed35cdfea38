"""Steersman's training library: PaLM, reward models and RLHF. Names load when first used, so importing it is cheap."""

from importlib import import_module

TYPE_CHECKING = False  # as typing has it, which is not imported: it alone would be most of what this module costs
if TYPE_CHECKING:
    from rlhf_core.functions import takes_batches
    from rlhf_core.modules.actor_critic import ActorCritic
    from rlhf_core.modules.palm import PaLM
    from rlhf_core.modules.reward_model import RewardModel
    from rlhf_core.rewards import (
        Composite,
        Ensemble,
        end_reward,
        length_reward,
        pattern_reward,
        reward_from_function,
        reward_of,
        token_reward,
    )
    from rlhf_core.text.tokenizer import Tokenizer
    from rlhf_core.trainer import RLHFTrainer

HOMES = {
    "PaLM": "rlhf_core.modules.palm",
    "RewardModel": "rlhf_core.modules.reward_model",
    "ActorCritic": "rlhf_core.modules.actor_critic",
    "RLHFTrainer": "rlhf_core.trainer",
    "Tokenizer": "rlhf_core.text.tokenizer",
    "takes_batches": "rlhf_core.functions",
    "Composite": "rlhf_core.rewards",
    "Ensemble": "rlhf_core.rewards",
    "end_reward": "rlhf_core.rewards",
    "length_reward": "rlhf_core.rewards",
    "pattern_reward": "rlhf_core.rewards",
    "reward_from_function": "rlhf_core.rewards",
    "reward_of": "rlhf_core.rewards",
    "token_reward": "rlhf_core.rewards",
}
__all__ = [
    "ActorCritic",
    "Composite",
    "Ensemble",
    "PaLM",
    "RLHFTrainer",
    "RewardModel",
    "Tokenizer",
    "end_reward",
    "length_reward",
    "pattern_reward",
    "reward_from_function",
    "reward_of",
    "takes_batches",
    "token_reward",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return __all__
