"""Untrained reward models of a few thousand weights."""

import torch

from rlhf_core.config import ModelConfig
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.text.tokenizer import Tokenizer


def make_reward_model(tokenizer: Tokenizer, ensemble: int = 1, seed: int = 7) -> RewardModel:
    """Untrained; the members of an ensemble disagree by what is subtracted from each."""
    torch.manual_seed(seed)
    palm = PaLM.from_config(ModelConfig(num_tokens=tokenizer.vocab_size, dim=16, depth=1, heads=2, dim_head=8))
    model = RewardModel(palm, num_binned_output=5, ensemble=ensemble)
    if ensemble > 1:
        model.reward_mean.copy_(torch.arange(float(ensemble)))
    return model.eval()


def without_numbers(tokenizer: Tokenizer) -> RewardModel:
    """One whose scores are beyond what float32 holds."""
    model = make_reward_model(tokenizer)
    model.reward_mean.fill_(3e38)
    model.reward_std.fill_(1e-3)
    return model
