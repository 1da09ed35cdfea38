"""Steersman's training library: PaLM, reward models and RLHF. Names load when first used, so importing it is cheap."""

from importlib import import_module

TYPE_CHECKING = False  # as typing has it, which is not imported: it alone would be most of what this module costs
if TYPE_CHECKING:
    from rlhf_core.modules.actor_critic import ActorCritic
    from rlhf_core.modules.palm import PaLM
    from rlhf_core.modules.reward_model import RewardModel
    from rlhf_core.text.tokenizer import Tokenizer
    from rlhf_core.trainer import RLHFTrainer

HOMES = {
    "PaLM": "rlhf_core.modules.palm",
    "RewardModel": "rlhf_core.modules.reward_model",
    "ActorCritic": "rlhf_core.modules.actor_critic",
    "RLHFTrainer": "rlhf_core.trainer",
    "Tokenizer": "rlhf_core.text.tokenizer",
}
__all__ = ["ActorCritic", "PaLM", "RLHFTrainer", "RewardModel", "Tokenizer"]


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
