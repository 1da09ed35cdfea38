"""Writes docs/training-settings.md from the dataclasses; run as ``python -m tests.house.training_settings``."""

from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from rlhf_core.config import (
    GROUP_METRICS,
    JUDGE_METRICS,
    METRICS,
    RUN_CONFIGS,
    ModelConfig,
    SamplingConfig,
    permitted_range,
)

PAGE = Path(__file__).parents[2] / "docs/training-settings.md"
SECTIONS = {
    "Shape of a model": ModelConfig,
    "Sampling": SamplingConfig,
    "Run: pretrain": RUN_CONFIGS["pretrain"],
    "Run: sft": RUN_CONFIGS["sft"],
    "Run: reward": RUN_CONFIGS["reward"],
    "Run: policy": RUN_CONFIGS["policy"],
    "Run: evaluate": RUN_CONFIGS["evaluate"],
}


def in_words(default: object) -> str:
    """A default as a form would show it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return "empty" if default is None else str(default)


def render() -> str:
    """The whole page."""
    parts = ["# Training settings and metrics\n\nWritten by `make docs` from `rlhf_core/config.py`: change it there.\n"]
    for title, settings_type in SECTIONS.items():
        parts.append(f"\n## {title}\n\n| setting | default | permitted | what it does |\n|---|---|---|---|\n")
        hints = get_type_hints(settings_type)
        for item in fields(settings_type):
            is_number = hints[item.name] in (int, float, int | None, float | None)
            choices = " or ".join(get_args(hints[item.name])) if not is_number else ""
            permitted = permitted_range(item.metadata) if is_number else choices or "on or off"
            default = in_words(item.default)
            unit = f" ({item.metadata['unit']})" if item.metadata["unit"] else ""
            parts.append(f"| `{item.name}` | {default} | {permitted} | {item.metadata['help']}{unit} |\n")
    for kind, always in METRICS.items():
        metrics = always | (JUDGE_METRICS | GROUP_METRICS if kind == "policy" else {})
        parts.append(f"\n## Metrics of a {kind} run\n\n| metric | unit | what it tells |\n|---|---|---|\n")
        parts += [f"| `{name}` | {unit} | {help_text} |\n" for name, (help_text, unit) in metrics.items()]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
