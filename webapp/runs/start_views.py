"""Starting a run: one click on a preset, or every setting."""

import uuid
from dataclasses import fields
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from rlhf_core.config import (
    RUN_CONFIGS,
    EvaluateConfig,
    PolicyConfig,
    RewardConfig,
    Settings,
    SFTConfig,
    settings_from_dict,
)
from rlhf_core.errors import ConfigError
from webapp.errors import StudioError
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Project
from webapp.quality.demonstrations import DemonstrationRules, preview
from webapp.quality.selectors import usable_ratings
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import held_out_prompts, serving
from webapp.runs import selectors, services
from webapp.runs.access import policy_page
from webapp.runs.counts import counts_now
from webapp.runs.forms import (
    EvaluateRunForm,
    PolicyRunForm,
    PresetForm,
    RewardRunForm,
    ScoredRunForm,
    SettingsForm,
    SFTRunForm,
)
from webapp.runs.models import Run
from webapp.runs.start_words import PRESET_WORDS, TITLES, cures, size_of

EXAMPLES_SHOWN = 3


@require_http_methods(["GET", "POST"])
@admin_required
def start_sft(request: MemberRequest, project: Project) -> HttpResponse:
    """Fine-tune the serving policy on the answers that were rated best."""
    return start(request, project, "sft")


@require_http_methods(["GET", "POST"])
@admin_required
def start_reward(request: MemberRequest, project: Project) -> HttpResponse:
    """Train a reward model on what raters said so far."""
    return start(request, project, "reward")


@require_http_methods(["GET", "POST"])
@admin_required
def start_policy(request: MemberRequest, project: Project) -> HttpResponse:
    """Improve the serving policy by PPO."""
    return start(request, project, "policy")


@require_http_methods(["GET", "POST"])
@policy_page
def start_evaluation(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """Compare a policy with those before it on held-out prompts."""
    return start(request, project, "evaluate", policy)


def start(request: MemberRequest, project: Project, kind: str, policy: Checkpoint | None = None) -> HttpResponse:
    """Show the form; a POST of a preset or of the whole form starts the run and shows its page.

    ``policy``: what is to be evaluated; other runs begin from the policy that serves.
    """

    def go(config: Settings, values: dict[str, Any], rules: DemonstrationRules) -> HttpResponse:
        """Start the run and go to its page. The same request id again gives the same run."""
        asked = {"actor": request.user, "project": project, "request_id": values["request_id"]}
        if isinstance(config, SFTConfig):
            run = services.start_sft_run(config=config, rules=rules, **asked)
        else:
            run = ask_for_run(config, policy, values, asked)
        return redirect("runs:detail", project.slug, run.number)

    refusal: StudioError | None = None
    if request.method == "POST" and "preset" in request.POST:
        preset = PresetForm(request.POST, kind=kind, project=project)
        form = build_form(kind, project, settings=first_preset(project, kind))
        if preset.is_valid():
            try:
                return go(preset.cleaned_data["preset"], preset.cleaned_data, DemonstrationRules())
            except StudioError as error:
                refusal = error
        else:
            refusal = StudioError(" ".join(str(e) for errors in preset.errors.values() for e in errors))
    elif request.method == "POST":
        form = build_form(kind, project, request.POST)
        if form.is_valid():
            try:
                return go(form.settings, form.cleaned_data, getattr(form, "rules", DemonstrationRules()))
            except StudioError as error:
                refusal = error
    else:
        earlier = find_earlier(request, project, kind)
        settings, words = prefill(request, project, kind, earlier)
        form = build_form(kind, project, settings=settings, earlier=earlier)
        form.prefilled_from = words
        if isinstance(form, ScoredRunForm):
            choose_reward_model(request, project, form)
    bad = refusal is not None or form.errors
    context = {**start_context(project, kind, form, refusal), "evaluated": policy}
    return render(request, "runs/start.html", context, status=422 if bad else 200)


def build_form(
    kind: str, project: Project, data: Any = None, *, settings: Settings | None = None, earlier: Run | None = None
) -> SettingsForm:
    """The form of a kind of run; ``earlier``: the run whose settings are taken over."""
    if kind == "sft":
        rules = earlier.dataset.rules if earlier and earlier.dataset else {}
        known = {item.name: rules[item.name] for item in fields(DemonstrationRules) if item.name in rules}
        return SFTRunForm(data, settings=settings, rules=DemonstrationRules(**known))
    if kind == "policy":
        return PolicyRunForm(data, project=project, settings=settings)
    if kind == "evaluate":
        return EvaluateRunForm(data, project=project, settings=settings)
    asked_for_two = earlier is not None and selectors.has_judge(earlier)
    return RewardRunForm(data, settings=settings, initial={"with_judge": True, "part": "all"} if asked_for_two else {})


def first_preset(project: Project, kind: str) -> Settings:
    return next(iter(selectors.presets_for(project, kind).values()))


def find_earlier(request: HttpRequest, project: Project, kind: str) -> Run | None:
    """The run whose settings are to be taken over (``?from=7``)."""
    number = request.GET.get("from", "")
    of_kind = Run.objects.filter(project=project, kind=kind).select_related("dataset")
    return of_kind.filter(number=int(number)).first() if is_number(number) else None


def prefill(request: HttpRequest, project: Project, kind: str, run: Run | None) -> tuple[Settings, str]:
    """The settings to begin with: of an earlier run, of a preset, else of the first preset."""
    if run is not None:
        names = {item.name for item in fields(RUN_CONFIGS[kind])}  # type: ignore[arg-type]
        known = {name: value for name, value in run.config.items() if name in names}
        try:
            said = _("Filled in with the settings of run %(number)s.") % {"number": run.number}
            return settings_from_dict(RUN_CONFIGS[kind], known), said
        except ConfigError:
            messages.warning(
                request,
                _("Some settings of run %(number)s are no longer permitted: see the defaults.")
                % {"number": run.number},
            )
    name = request.GET.get("preset", "")
    presets = selectors.presets_for(project, kind)
    if name in presets:
        return presets[name], _("Filled in with the preset %(name)s.") % {"name": name}
    return first_preset(project, kind), ""


def is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def choose_reward_model(request: HttpRequest, project: Project, form: SettingsForm) -> None:
    """``?reward_model=3`` chooses reward model 3."""
    version = request.GET.get("reward_model", "")
    if is_number(version):
        chosen = form.fields["reward_model"].queryset.filter(version=int(version)).first()  # type: ignore[attr-defined]
        if chosen is not None:
            form.initial["reward_model"] = chosen.pk
            if isinstance(form, PolicyRunForm):
                form.choose_judge(chosen)


def ask_for_run(config: Settings, policy: Checkpoint | None, values: dict[str, Any], asked: dict[str, Any]) -> Run:
    """The run that these settings are of; ``values``: what else the form has; ``asked``: by whom, where, which key."""
    reward_model = values.get("reward_model")
    if isinstance(config, EvaluateConfig):
        assert policy is not None
        return services.start_evaluation(config=config, policy=policy, reward_model=reward_model, **asked)
    if isinstance(config, PolicyConfig):
        if reward_model is None:
            raise StudioError(_("PPO needs a reward model to follow. Train one first."))
        return services.start_policy_run(config=config, reward_model=reward_model, judge=values.get("judge"), **asked)
    assert isinstance(config, RewardConfig)
    return services.start_reward_run(config=config, with_judge=bool(values.get("with_judge")), **asked)


def start_context(project: Project, kind: str, form: SettingsForm, refusal: StudioError | None) -> dict[str, Any]:
    context: dict[str, Any] = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "kind": kind,
        "title": TITLES[kind],
        "form": form,
        "request_id": form["request_id"].value() or uuid.uuid4(),
        "prefilled_from": form.prefilled_from,
        "refusal": refusal,
        "cures": cures(project, refusal),
        "presets": [
            {
                "name": name,
                "title": PRESET_WORDS[kind, name][0],
                "size": size_of(kind, settings),
                "words": PRESET_WORDS[kind, name][1],
            }
            for name, settings in selectors.presets_for(project, kind).items()
        ],
    }
    if isinstance(form, ScoredRunForm):
        reward_models = list(form.fields["reward_model"].queryset)  # type: ignore[attr-defined]
        value = str(form["reward_model"].value())
        chosen = next((model for model in reward_models if str(model.pk) == value), None)
        if isinstance(form, PolicyRunForm):
            chosen = chosen or next(iter(reward_models), None)
        pointer = serving(project)
        context |= {
            "reward_models": reward_models,
            "chosen_reward_model": chosen,
            "chosen_judge": form.matching_judge(chosen) if isinstance(form, PolicyRunForm) else None,
            "policy": pointer.checkpoint if pointer else None,
            "held_out": held_out_prompts(project).count(),
        }
    elif isinstance(form, SFTRunForm):
        found = preview(project, form.shown_rules, EXAMPLES_SHOWN)
        context |= {
            "chosen": found.count,
            "examples": found.examples,
            "rules": form.shown_rules,
            "usable": counts_now(usable_ratings(project)),
        }
    else:
        context["usable"] = counts_now(usable_ratings(project))
    return context
