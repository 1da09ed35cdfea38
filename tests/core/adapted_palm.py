"""A small PaLM whose adapters say something, and tokens for it."""

import torch

from rlhf_core.modules.palm import PaLM


def make_palm(**changes) -> PaLM:
    """Always the same weights; ``changes`` are of its shape."""
    torch.manual_seed(0)
    shape = {"dim": 32, "num_tokens": 50, "depth": 3, "dim_head": 8, "heads": 4, "finetune_scopes": ("actor",)}
    palm = PaLM(**{**shape, **changes}).eval()
    for scope in palm.lora:
        for parameter in palm.finetune_parameters(scope):
            torch.nn.init.normal_(parameter, std=0.3)
    return palm


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(1))
