"""What ``rlhf_core`` says of its settings and metrics, in the reader's language.

Those texts stand in its metadata and nowhere else; it knows no translation. ``core_texts`` lists them all, for the
catalogs.
"""

from dataclasses import fields

from django.utils.translation import gettext

from rlhf_core.config import GROUP_METRICS, JUDGE_METRICS, METRICS, RUN_CONFIGS
from webapp.quality.demonstrations import DemonstrationRules

SHORT = {"kl": "KL", "lora": "LoRA", "ppo": "PPO", "gae": "GAE"}
PHASES = ("wait for the GPU", "train", "evaluate", "normalise", "rollout", "learn")
"""What a run says that it is at; other words of it are shown as they are."""


def said(text: str) -> str:
    """``text`` translated; an empty one stays empty, and one that no catalog has stays as it is."""
    return gettext(text) if text else ""


def spelled(name: str) -> str:
    """The English name of a setting or metric as it is read: ``kl_target`` -> ``KL target``."""
    words = " ".join(SHORT.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def core_texts() -> list[str]:
    """Everything that ``said`` may be given, each once, in alphabetical order."""
    found = set(PHASES)
    for settings_type in (*(RUN_CONFIGS[kind] for kind in ("sft", "reward", "policy", "evaluate")), DemonstrationRules):
        for item in fields(settings_type):
            found |= {item.metadata["help"], item.metadata["unit"], spelled(item.name)}
    for metrics in (*(METRICS[kind] for kind in ("sft", "reward", "policy", "evaluate")), JUDGE_METRICS, GROUP_METRICS):
        for name, (help, unit) in metrics.items():
            found |= {help, unit, name.replace("_", " "), spelled(name)}
    return sorted(found - {""})
