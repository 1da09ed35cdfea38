"""A small run of each kind, with all that it reads."""

import json
import random
from pathlib import Path
from typing import Any

import torch

from rlhf_core.checkpoint import save_policy, save_reward_model
from rlhf_core.config import (
    EvaluateConfig,
    ModelConfig,
    PolicyConfig,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
    settings_to_dict,
)
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Prompt, ScoredResponse, write_feedback, write_prompts
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.run_directory import RunDirectory

SHAPE: dict[str, Any] = dict(dim=16, num_tokens=259, depth=2, heads=2, dim_head=8, ff_mult=2)
NEXT_TOKEN: dict[str, Any] = dict(
    batch_size=3, warmup_steps=1, validation_interval=4, save_interval=2, sample_tokens=4, threads=1
)
CONFIGS = {  # no minibatch divides by two processes
    "pretrain": PretrainConfig(steps=6, sequence_length=16, **NEXT_TOKEN),
    "sft": SFTConfig(epochs=1, holdout_fraction=0.2, lora_rank=2, **NEXT_TOKEN),
    "policy": PolicyConfig(
        updates=2,
        rollout_batch_size=5,
        minibatch_size=3,
        micro_batch_size=1,
        ppo_epochs=2,
        max_new_tokens=5,
        critic_warmup_updates=0,
        lora_rank=2,
        threads=1,
    ),
    "reward": RewardConfig(
        epochs=2, batch_size=5, minimum_ratings=4, holdout_fraction=0.3, lora_rank=2, bins=5, threads=1
    ),
    "evaluate": EvaluateConfig(batch_size=2, max_new_tokens=6, threads=1),
}


def make_inputs(folder: Path) -> dict[str, Path]:
    """What the runs of all kinds read, written into ``folder``."""
    tokenizer = Tokenizer.train(["a film"], 259)
    torch.manual_seed(0)
    policy, other = (save_policy(folder / "store", PaLM(**SHAPE), tokenizer, {}).path for _ in range(2))
    model = RewardModel(PaLM(**SHAPE), num_binned_output=5)
    reward_model = save_reward_model(folder / "store", model, tokenizer, {}).path
    write_prompts(folder / "prompts.jsonl", [Prompt(f"p{n}", text) for n, text in enumerate(["The film", "It", "A"])])
    lines = [{"prompt": f"Film {number % 9}:", "response": " good" * (1 + number % 3)} for number in range(20)]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = random.Random(0)

    def response() -> tuple[int, ...]:
        return (*words.choices(range(100, 140), k=words.randint(1, 5)), 2)

    verdicts: list[Comparison | ScoredResponse] = []
    for number in range(8):
        prompt = (1, 50 + number)
        verdicts.append(Comparison(f"p{number}", prompt, response(), response(), strength=number % 3))
        verdicts.append(ScoredResponse(f"p{number}", prompt, response(), 1 + number % 5, weight=0.5 + number))
    write_feedback(folder / "feedback.jsonl", verdicts)
    texts = [" ".join(words.choices(["good", "bad", "film", "plot"], k=12)) + f" {n}" for n in range(60)]
    (folder / "text.txt").write_text("\n\n".join(texts))
    return {"folder": folder, "policy": policy, "other": other, "reward_model": reward_model}


def make_small_run(inputs: dict[str, Path], name: str, **changes: Any) -> Path:
    """A run directory beside the inputs; its kind is what stands in ``name`` before the first hyphen.

    Args:
        changes: of its settings.
    """
    kind, folder = name.partition("-")[0], inputs["folder"]
    models = {"policy": inputs["policy"], "reward_model": inputs["reward_model"]}
    by_kind: dict[str, dict[str, Any]] = {
        "pretrain": {"text": [folder / "text.txt"], "model": ModelConfig(**SHAPE)},
        "sft": {"demonstrations": [folder / "demonstrations.jsonl"], "policy": inputs["policy"]},
        "policy": {**models, "judge": inputs["reward_model"]},
        "reward": {"policy": inputs["policy"], "feedback": folder / "feedback.jsonl"},
        "evaluate": {**models, "references": {"parent": inputs["other"], "base": inputs["other"]}},
    }
    run = RunDirectory.create(
        folder / name,
        kind=kind,
        config=type(CONFIGS[kind])(**{**settings_to_dict(CONFIGS[kind]), **changes}),
        store=folder / f"store-{name}",
        prompts=folder / "prompts.jsonl",
        **by_kind[kind],
    )
    return run.path
