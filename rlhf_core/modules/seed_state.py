"""State dicts of palm-rlhf-pytorch 0.8 under our names, so that its models answer here as they did there."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf_core.config import ModelConfig
from rlhf_core.modules.attention import QK_NORM_SCALE

BLOCK_NAMES = {
    "norm.gamma": "norm.gain_offset",  # there too the offset from 1
    "fused_attn_ff_proj.weight": "project_in.weight",  # queries, key, value, hidden, gate: the same order
    "attn_out.weight": "attention_out.weight",
    "ff_out.2.weight": "feed_forward_out.weight",
}
REWARD_NAMES = {
    "prompt_embed": "prompt_embedding",
    "response_embed": "response_embedding",
    "to_pred.weight": "head.weight",
    "to_pred.bias": "head.bias",
    "to_pred.0.weight": "head.weight",  # of the scalar head
}
PROJECTIONS = "qkvo"


def is_seed_palm(state: Mapping[str, Tensor], prefix: str = "") -> bool:
    """Whether the names under ``prefix`` are those that palm-rlhf-pytorch gives a PaLM."""
    return f"{prefix}layers.0.fn.fused_attn_ff_proj.weight" in state


def palm_state_from_seed(
    state: Mapping[str, Tensor], shape: ModelConfig, *, prefix: str = "", correct_qk_scale: bool = False
) -> dict[str, Tensor]:
    """The tensors of a PaLM under our names; what stands outside ``prefix`` is left out.

    There, attention with QK-norm divides by sqrt(dim_head), though it meant to multiply by 8. Trained weights have
    learned to live with that, so by default the query gains take up the difference and the logits stay what they were.

    Args:
        state: by name, as ``state_dict()`` of that library gives it, LoRA scopes included.
        shape: of the PaLM that is to take it.
        correct_qk_scale: attend with the scale that was meant.

    Returns:
        tensors by name, under ``prefix`` again. A name that is not known stays, for whoever loads to refuse.

    Raises:
        ValueError: it can't be expressed here: heads of another width, a norm with a bias, an output matrix that is
            not the embedding.
    """
    found: dict[str, Tensor] = {}
    gains: dict[str, dict[str, Tensor]] = {}
    for full, tensor in state.items():
        if not full.startswith(prefix):
            continue
        name = full[len(prefix) :]
        block = re.fullmatch(r"layers\.(\d+)\.fn\.(.+)", name)
        adapter = re.fullmatch(r"finetune_modules\.([^.]+)\.(\d+)\.([0-3])\.([AB])", name)
        if name.endswith("norm.beta"):
            if bool(tensor.any()):
                raise ValueError(f"{full} is not zero, and norms have no bias here")
        elif block and block[2] in BLOCK_NAMES:
            found[f"blocks.{block[1]}.{BLOCK_NAMES[block[2]]}"] = tensor
        elif block and block[2] in ("q_scale", "k_scale"):
            gains.setdefault(block[1], {})[block[2]] = tensor
        elif block and block[2] == "rotary_emb.inv_freq":
            if 2 * len(tensor) != shape.dim_head:
                raise ValueError(f"its heads are {2 * len(tensor)} wide, not {shape.dim_head}")
        elif block and block[2] == "rotary_emb.scale":
            continue  # of xPos, and a function of the shape
        elif name == "norm.gamma":
            found["norm.gain_offset"] = tensor
        elif name == "to_logits.weight":
            if not torch.equal(state.get(f"{prefix}token_emb.weight", tensor), tensor):
                raise ValueError("its output matrix is not its embedding, which here are one")
            found["token_emb.weight"] = tensor
        elif adapter:
            scope, number, place, factor = adapter.groups()
            start = f"lora.{scope}.{number}.{PROJECTIONS[int(place)]}"
            found[f"{start}.{factor}"] = tensor
            if factor == "A":  # alpha is not kept there: it is the rank
                found[f"{start}._extra_state"] = torch.tensor(float(tensor.shape[1]))
        else:
            found[name] = tensor
    fold = 1.0 if correct_qk_scale else 1 / (QK_NORM_SCALE * math.sqrt(shape.dim_head))
    for number, pair in gains.items():
        if len(pair) == 2:
            queries = (pair["q_scale"] * fold).repeat(shape.heads)
            found[f"blocks.{number}.qk_gain"] = torch.cat((queries, pair["k_scale"]))
    return {f"{prefix}{name}": tensor for name, tensor in found.items()}


def reward_state_from_seed(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a reward model under our names, but for its PaLM, whose names stay."""
    found = {}
    for full, tensor in state.items():
        name = full[len(prefix) :] if full.startswith(prefix) else ""
        renamed = REWARD_NAMES.get(name)
        is_segment = name in ("prompt_embed", "response_embed")
        found[full if renamed is None else prefix + renamed] = tensor.flatten() if is_segment else tensor
    return found
