"""Random numbers by name: each use has its own seed, so that what is drawn never depends on what was drawn before."""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A seed below 2**63 for one use, such as ``derive_seed(config.seed, "rollout", update, row)``.

    A run that resumes at update 7 draws what it would have drawn uninterrupted, without a generator's state being kept.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by ``derive_seed``."""
    return torch.Generator().manual_seed(derive_seed(*parts))
