"""What a reward model writes to a file of its own, and which files it takes in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_core.config import settings_to_dict
from rlhf_core.errors import CheckpointError
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.seed_state import is_seed_palm, palm_state_from_seed, reward_state_from_seed
from rlhf_core.weights import check_fit, read_weights, save_weights

UNKNOWN_TO_THE_SEED = ("comparison_log_scale", "step_biases", "reward_mean", "reward_std")
POSTERIOR = ("head_covariance", "reference_slopes", "usual_variance")  # only in files of models that have them
# What decides which tensors there are and what they mean, with what a file from before each was there leaves out.
STRUCTURE: dict[str, Any] = {
    "num_binned_output": None,
    "use_lora": None,
    "lora_r": None,
    "reward_lora_scope": None,
    "head": None,
    "pooling": "mean",
    "ensemble": 1,
    "ensemble_members": "adapters",
    "ensemble_scoring": "mean",
    "ensemble_penalty": 1.0,
}


class RewardFiles(nn.Module):
    """Saving and loading of a reward model.

    Attributes:
        palm: the trunk.
        head_config: the keywords that make an equal model around an equal trunk.
        members: of the ensemble.
    """

    palm: PaLM
    head_config: dict[str, Any]
    members: int

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, which is whole or absent after a crash."""
        shape = {"head": self.head_config, "config": settings_to_dict(self.palm.config)}
        save_weights(path, self.state_dict(), shape)

    def load(self, path: str | Path, *, correct_qk_scale: bool = False) -> None:
        """Read what ``save`` wrote by a reward model of the same shape, or a state dict of palm-rlhf-pytorch.

        What ``save`` wrote also says whether the trunk is causal, and this one becomes what that one was. The seed
        library's files do not, nor do they know comparisons or normalisation: there this model keeps what it has.

        Args:
            path: safetensors, or what ``torch.save`` wrote; see ``read_weights``.
            correct_qk_scale: for the seed library's files with QK-norm; see ``palm_state_from_seed``.

        Raises:
            CheckpointError: the file is missing, torn, altered, or does not fit. Nothing was changed then.
        """
        about, state = read_weights(path)
        is_causal = self.palm.causal
        try:
            if is_seed_palm(state, "palm."):
                shape = self.palm.config
                palm = palm_state_from_seed(state, shape, prefix="palm.", correct_qk_scale=correct_qk_scale)
                own = {name: one for name, one in state.items() if not name.startswith("palm.")}
                state = palm | self.own_names(own)
            else:
                is_causal = self.check_shape(about)
            check_fit(self, state, self.posterior_shapes)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no reward model that fits this one: {error}") from error
        for name in POSTERIOR:
            if name not in state:
                setattr(self, name, None)
        self.load_state_dict(state)
        if is_causal != self.palm.causal:
            self.palm.set_causal(is_causal)

    def check_shape(self, about: Mapping[str, Any]) -> bool:
        """Whether the trunk in a file by ``save`` is causal; ValueError where head or trunk differ otherwise."""
        head, shape = about.get("head"), about.get("config")
        if head is None or shape is None:
            raise ValueError("it says nothing of a head and a trunk: RewardModel.save did not write it")
        if {**shape, "causal": None} != {**settings_to_dict(self.palm.config), "causal": None}:
            raise ValueError(f"its trunk has another shape: {shape}")
        # A PaLM takes in scopes that it lacks: adapters that this model never uses would load unnoticed.
        older = {**STRUCTURE, "head": "binned" if head.get("num_binned_output", 0) > 1 else "scalar"}
        found = {**older, **head}
        for name in STRUCTURE:
            if found[name] != self.head_config[name]:
                raise ValueError(f"its {name} is {found[name]!r}, not {self.head_config[name]!r}")
        return bool(shape.get("causal"))

    @property
    def posterior_shapes(self) -> dict[str, torch.Size]:
        """Of the tensors that a file holds either all or none of."""
        dim = self.palm.dim
        shapes = (self.members, dim, dim), (self.members, dim), ()
        return {name: torch.Size(shape) for name, shape in zip(POSTERIOR, shapes, strict=True)}

    def own_names(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A seed library's state with our names outside the PaLM, and this model's tensors that it has none for."""
        kept = {f"{prefix}{name}": getattr(self, name).detach() for name in UNKNOWN_TO_THE_SEED}
        return kept | reward_state_from_seed(state, prefix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:  # called by load_state_dict, with a copy of its own, before it turns to the parts of this module
        """Take the seed library's names too."""
        if is_seed_palm(state_dict, f"{prefix}palm."):
            renamed = self.own_names(state_dict, prefix)
            state_dict.clear()
            state_dict.update(renamed)
        for name in POSTERIOR:
            if (found := state_dict.get(f"{prefix}{name}")) is not None and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(found, device=self.palm.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
