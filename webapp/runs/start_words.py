"""What the page that starts a run says: titles, presets, sizes, and where a refusal can be mended."""

from dataclasses import asdict

from django.urls import reverse
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from rlhf_core.config import Settings
from webapp.errors import (
    NoHeldOutPrompts,
    NotEnoughDemonstrations,
    NotEnoughFeedback,
    OneSidedFeedback,
    StudioError,
)
from webapp.projects.models import Project

TITLES = {
    "sft": gettext_lazy("Fine-tune on demonstrations"),
    "reward": gettext_lazy("Train reward model"),
    "policy": gettext_lazy("Improve policy (PPO)"),
    "evaluate": gettext_lazy("Evaluate"),
}
ON_CPU = gettext_lazy("Sized for a GPU; where the worker has none, it runs on the CPU.")
PRESET_WORDS = {
    ("sft", "CPU"): (
        gettext_lazy("On two CPU cores"),
        gettext_lazy("Some seconds to two minutes with the demo policy."),
    ),
    ("sft", "GPU"): (
        gettext_lazy("Larger"),
        gettext_lazy("For thousands of demonstrations. Uses the trainer’s GPU if it has one."),
    ),
    ("reward", "CPU"): (
        gettext_lazy("On two CPU cores"),
        gettext_lazy("A minute or two for some hundred ratings, with the demo policy."),
    ),
    ("reward", "GPU"): (
        gettext_lazy("Larger"),
        format_lazy("{} {}", gettext_lazy("All weights learn instead of adapters."), ON_CPU),
    ),
    ("policy", "CPU"): (gettext_lazy("On two CPU cores"), gettext_lazy("Some minutes with the demo policy.")),
    ("policy", "GPU"): (
        gettext_lazy("Larger"),
        format_lazy("{} {}", gettext_lazy("Hours with the demo policy."), ON_CPU),
    ),
    ("policy", "RLOO"): (
        gettext_lazy("RLOO, without a critic"),
        gettext_lazy("Four answers to each prompt are compared with each other."),
    ),
    ("policy", "GRPO"): (
        gettext_lazy("GRPO, without a critic"),
        gettext_lazy("Eight answers to each prompt are compared with each other."),
    ),
    ("evaluate", "CPU"): (gettext_lazy("On two CPU cores"), gettext_lazy("About a minute with the demo policy.")),
    ("evaluate", "GPU"): (
        gettext_lazy("Larger"),
        format_lazy("{} {}", gettext_lazy("The narrowest intervals that the prompts allow."), ON_CPU),
    ),
}


def size_of(kind: str, settings: Settings) -> list[str]:
    """How much a run with these settings does: a few amounts, each for itself."""
    values = asdict(settings)  # type: ignore[call-overload]
    if kind == "evaluate":
        asked = values["prompts"]
        some = ngettext("%(count)s held-out prompt at most", "%(count)s held-out prompts at most", asked)
        return [some % {"count": asked} if asked else _("all held-out prompts"), _("one answer of each policy")]
    if kind == "policy":
        updates, responses = values["updates"], values["rollout_batch_size"]
        amounts = [
            ngettext("%(count)s update", "%(count)s updates", updates) % {"count": updates},
            ngettext("%(count)s response an update", "%(count)s responses an update", responses) % {"count": responses},
        ]
    else:
        passes, rows = values["epochs"], values["batch_size"]
        if kind == "sft":
            batch = ngettext("%(count)s demonstration a step", "%(count)s demonstrations a step", rows)
        else:
            batch = ngettext("%(count)s rating a step", "%(count)s ratings a step", rows)
        amounts = [ngettext("%(count)s pass", "%(count)s passes", passes) % {"count": passes}, batch % {"count": rows}]
    return [*amounts, _("adapters of rank %(lora_rank)s") % values if values["lora_rank"] else _("all weights")]


def cures(project: Project, refusal: StudioError | None) -> list[dict[str, str]]:
    """Where a refused start can be mended."""
    if isinstance(refusal, NoHeldOutPrompts):
        return [{"url": reverse("projects:import", args=[project.slug]), "words": _("Import prompts")}]
    if not isinstance(refusal, NotEnoughFeedback | NotEnoughDemonstrations | OneSidedFeedback):
        return []
    return [
        {"url": reverse("feedback:rate", args=[project.slug]), "words": _("Rate yourself")},
        {"url": reverse("projects:raters", args=[project.slug]), "words": _("Invite raters")},
        {"url": reverse("runs:board", args=[project.slug]), "words": _("Back to the loop")},
    ]
