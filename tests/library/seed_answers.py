"""Run where palm-rlhf-pytorch is installed: saves models of its as a user would, and what they answer.

``python seed_answers.py FOLDER`` writes for each case ``NAME.pt`` (its state dict), ``NAME.safetensors`` (tokens and
answers) and ``NAME.json`` (the arguments that made it).
"""

import json
import math
import sys
from pathlib import Path

import torch
from palm_rlhf_pytorch import PaLM, RewardModel
from safetensors.torch import save_file

PALMS: dict[str, dict] = {
    "causal": {},
    "another-xpos-base": dict(rotary_xpos_scale_base=40, ff_mult=2, heads=3),
    "both-ways": dict(causal=False),
    "qk-norm": dict(qk_rmsnorm=True),
    "qk-norm-both-ways": dict(qk_rmsnorm=True, causal=False),
}
REWARD_MODELS: dict[str, tuple[str, dict]] = {
    "bins": ("causal", dict(num_binned_output=5, lora_r=4)),
    "scalar": ("causal", dict(use_lora=False)),
    "bins-both-ways": ("both-ways", dict(num_binned_output=3, reward_lora_scope="judge")),
    "qk-norm-bins": ("qk-norm", dict(num_binned_output=5)),
}
COMMON: dict = dict(num_tokens=61, dim=48, depth=3, dim_head=16, heads=4, lora_r=4)


def jiggle(module: torch.nn.Module) -> None:
    """Weights as training might leave them: none at its start, and answers that are not near 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            strength = {"A": 0.3, "B": 0.05, "q_scale": 0.5, "k_scale": 0.5}.get(name.rsplit(".", 1)[-1], 0.05)
            parameter.add_(strength * torch.randn_like(parameter))


def make_palm(name: str, **changes) -> tuple[PaLM, dict]:
    arguments = {**COMMON, **PALMS[name], **changes}
    palm = PaLM(**arguments)
    jiggle(palm)
    return palm.eval(), arguments


def some_tokens(causal: bool) -> torch.Tensor:
    tokens = torch.randint(0, COMMON["num_tokens"], (3, 40))
    if not causal:
        tokens[1, 25:] = -1  # what that library takes for padding
    return tokens


def write(folder: Path, name: str, module: torch.nn.Module, about: dict, answers: dict) -> None:
    torch.save(module.state_dict(), folder / f"{name}.pt")
    (folder / f"{name}.json").write_text(json.dumps(about))
    save_file({key: tensor.contiguous() for key, tensor in answers.items()}, folder / f"{name}.safetensors")


@torch.no_grad()
def write_palm(folder: Path, name: str) -> None:
    palm, arguments = make_palm(name, finetune_scopes=["actor", "critic"])
    tokens = some_tokens(palm.causal)
    answers = {"tokens": tokens, "base": palm(tokens)}
    for scope in ("actor", "critic"):
        answers[scope] = palm(tokens, finetune_scope=scope)
    write(folder, name, palm, arguments, answers)
    palm.merge_finetune_params("actor")
    merged = {"tokens": tokens, "base": palm(tokens), "critic": palm(tokens, finetune_scope="critic")}
    write(folder, f"{name}-merged", palm, {**arguments, "finetune_scopes": ["critic"]}, merged)
    if arguments.get("qk_rmsnorm"):
        for layer in palm.layers:
            layer.fn.q_scale *= 8 * math.sqrt(COMMON["dim_head"])  # attention divides by the root; 8 is what it meant
        save_file({"base": palm(tokens)}, folder / f"{name}-corrected.safetensors")


@torch.no_grad()
def write_reward_model(folder: Path, name: str) -> None:
    palm_name, arguments = REWARD_MODELS[name]
    palm, about = make_palm(palm_name)
    model = RewardModel(palm, sample_from_bins=False, **arguments)
    jiggle(model)
    model.eval()
    tokens = some_tokens(True)
    prompt_lengths = torch.tensor([5, 11, 1])
    is_prompt = torch.arange(tokens.shape[1]) < prompt_lengths[:, None]
    answers = {
        "tokens": tokens,
        "prompt_lengths": prompt_lengths,
        "whole": model(tokens, prompt_mask=torch.zeros_like(is_prompt)),
        "response": model(tokens, prompt_mask=is_prompt, mask=~is_prompt),  # pools the response alone, as ours does
    }
    write(folder, name, model, {"palm": about, "reward_model": arguments}, answers)


def main() -> None:
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    for name in PALMS:
        write_palm(folder, name)
    for name in REWARD_MODELS:
        write_reward_model(folder, name)


if __name__ == "__main__":
    main()
