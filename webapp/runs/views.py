"""The admin's pages: the loop board, runs, policies and the ratings behind them."""

import uuid
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import wraps
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotModified, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.http import quote_etag
from django.utils.text import format_lazy
from django.utils.translation import get_language, gettext_lazy, ngettext
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

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
from webapp.errors import (
    NoHeldOutPrompts,
    NotEnoughDemonstrations,
    NotEnoughFeedback,
    OneSidedFeedback,
    PromotionConflict,
    StudioError,
)
from webapp.feedback.models import Rating
from webapp.projects.access import MemberRequest, admin_required
from webapp.projects.models import Membership, Project
from webapp.projects.selectors import projects_for
from webapp.quality.demonstrations import DemonstrationRules, preview
from webapp.quality.models import Dataset
from webapp.quality.selectors import sources_used, usable_ratings
from webapp.registry import services as registry
from webapp.registry.forms import PromoteForm
from webapp.registry.models import Checkpoint, ServingPointer
from webapp.registry.selectors import held_out_prompts, serving, serving_in
from webapp.runs import charts, pages, selectors, services
from webapp.runs.figures import seconds_left
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
from webapp.runs.watch import watch

STOP_POLLING = 286  # htmx swaps the answer in and asks no more
SIMULATED_AT_ONCE = 200
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


def etag_of(version: str) -> str:
    """What tells this version from others, in the language that it is shown in."""
    return quote_etag(f"{version}-{get_language()}")


def not_modified(request: HttpRequest, version: str) -> HttpResponse | None:
    """304 where the browser has this version already."""
    if etag_of(version) in request.headers.get("If-None-Match", ""):
        return tag(HttpResponseNotModified(), version)
    return None


def tag(response: HttpResponse, version: str) -> HttpResponse:
    """Let the browser keep the answer, and ask each time whether it still holds."""
    response["ETag"] = etag_of(version)
    response["Cache-Control"] = "private, no-cache"
    patch_vary_headers(response, ["HX-Request", "Cookie"])
    return response


def run_page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view takes the run in place of its number; an unknown number is 404."""

    @admin_required
    @wraps(view)
    def guarded(request: MemberRequest, project: Project, number: int) -> Any:
        try:
            run = pages.find_run(project, number)
        except Run.DoesNotExist:
            raise Http404(f"{project} has no run {number}") from None
        return view(request, project, run)

    return guarded


def policy_page(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view takes the policy in place of its version; an unknown version is 404."""

    @admin_required
    @wraps(view)
    def guarded(request: MemberRequest, project: Project, version: int) -> Any:
        try:
            policy = pages.find_policy(project, version)
        except Checkpoint.DoesNotExist:
            raise Http404(f"{project} has no policy {version}") from None
        return view(request, project, policy)

    return guarded


# --- The loop board --------------------------------------------------------------------------------------------------


@require_GET
@admin_required
def board(request: MemberRequest, project: Project) -> HttpResponse:
    """The loop: what serves, what to do next, every version. While something goes on, its fragment is polled."""
    found = pages.look_at_board(project)
    simulating = selectors.simulating(project, SIMULATED_AT_ONCE)
    is_live = found.live is not None or simulating is not None
    if request.htmx and not is_live:
        return HttpResponse(status=STOP_POLLING, headers={"HX-Refresh": "true"})  # the tables below changed too
    context = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "look": found,
        "board": found.board,
        "simulating": simulating,
        "is_live": is_live,
        "simulated_at_once": SIMULATED_AT_ONCE,
        "adoptable": policies_to_adopt(request) if found.board.serving is None else (),
        "live_left": left_of(found.live),
    }
    if request.htmx:
        return tag(render(request, "runs/_now.html", context), uuid.uuid4().hex)
    if run := found.last_policy_run:
        context |= {
            "charts": charts.main_charts(run.kind, is_judged=run.judge_id is not None)[:2],
            "steps": run.steps,
            "curves_url": reverse("runs:curves", args=[project.slug, run.number]),
        }
    response = render(request, "runs/board.html", context)
    patch_vary_headers(response, ["HX-Request"])
    return response


@require_POST
@admin_required
def adopt_policy(request: MemberRequest, project: Project) -> HttpResponse:
    """Begin with the policy that serves in another project of this admin's."""
    slug = request.POST.get("source", "")
    source = None if "\0" in slug else policies_to_adopt(request).filter(project__slug=slug).first()
    if source is None:
        raise Http404("there is no such project, or no policy serves in it")
    try:
        registry.adopt_policy(project=project, source=source, actor=request.user)
    except PromotionConflict as error:
        messages.error(request, str(error))
    return redirect("runs:board", project.slug)


def policies_to_adopt(request: MemberRequest) -> QuerySet[ServingPointer]:
    return serving_in(projects_for(request.user, Membership.Role.ADMIN))


def left_of(run: Run | None) -> float | None:
    if run is None:
        return None
    return seconds_left(run.started_at, timezone.now(), run.step, run.total_steps)


@require_POST
@admin_required
def simulate(request: MemberRequest, project: Project) -> HttpResponse:
    """Ask simulated raters for a batch of ratings; they are marked as simulated wherever they are shown."""
    services.ask_for_simulated_ratings(actor=request.user, project=project, count=SIMULATED_AT_ONCE)
    return redirect("runs:board", project.slug)


# --- Starting runs ---------------------------------------------------------------------------------------------------


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
        found = preview(project, form.shown_rules, pages.EXAMPLES_SHOWN)
        context |= {
            "chosen": found.count,
            "examples": found.examples,
            "rules": form.shown_rules,
            "usable": pages.counts_now(usable_ratings(project)),
        }
    else:
        context["usable"] = pages.counts_now(usable_ratings(project))
    return context


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


# --- A run -----------------------------------------------------------------------------------------------------------


def live_context(project: Project, run: Run) -> dict[str, Any]:
    found = pages.read_live(run, now=timezone.now())
    names = (*type(found).__dataclass_fields__, "accuracy", "accuracy_count", "calibration")
    return {
        "project": project,
        "counts": pages.counts_of(run.dataset),
        **{name: getattr(found, name) for name in names},
    }


@require_GET
@run_page
def detail(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """A run: how far it is, its curves, what went in and came out."""
    made_by = getattr(run.reward_model, "origin", None) if run.reward_model else None
    context = {
        **live_context(project, run),
        "is_admin": True,
        "here": "loop",
        "reward_run_number": made_by.run.number if made_by else None,
        "settings": pages.shown_settings(run),
        "rules": rules_of(run.dataset),
    }
    if run.kind == Run.Kind.EVALUATE:
        context |= {"references": services.references_of(run).items()}
        if findings := pages.findings_of(run):
            page, pairs = pages.side_by_side(findings, request.GET.get("page"))
            context |= {"findings": findings, "page": page, "pairs": pairs}
    else:
        is_judged = run.judge_id is not None
        context |= {
            "charts": (*((charts.WATCH,) if is_judged else ()), *charts.main_charts(run.kind, is_judged=is_judged)),
            "folded": charts.folded_charts(run.kind, is_judged=is_judged),
            "curves_url": reverse("runs:curves", args=[project.slug, run.number]),
            "steps": run.steps,
        }
    return render(request, "runs/run.html", context)


@require_GET
@run_page
def live(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """What changes of a run's page, asked for every 3 s; 286 ends the asking."""
    version = pages.version_of(run)
    if unchanged := not_modified(request, version):
        return unchanged
    if run.is_finished and run.kind == Run.Kind.EVALUATE:
        return HttpResponse(status=STOP_POLLING, headers={"HX-Refresh": "true"})  # its findings stand below
    context = {**live_context(project, run), "is_fragment": True}
    status = STOP_POLLING if run.is_finished else 200
    return tag(render(request, "runs/_live.html", context, status=status), version)


@require_GET
@run_page
def curves(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """The curves' numbers as JSON, thinned to what a screen can show."""
    version = pages.version_of(run)
    if unchanged := not_modified(request, version):
        return unchanged
    found = selectors.curves(run)
    if run.judge and (watched := watch(found)):
        found |= watched.curves
    metrics = {name: charts.thin(points) for name, points in found.items()}
    body = {
        "version": version,
        "is_finished": run.is_finished,
        "total_steps": run.total_steps,
        "points": max((len(points) for points in metrics.values()), default=0),
        "metrics": metrics,
    }
    return tag(JsonResponse(body), version)


@require_http_methods(["GET", "POST"])
@run_page
def cancel(request: MemberRequest, project: Project, run: Run) -> HttpResponse:
    """Ask once more, then cancel; a run that has ended stays as it is."""
    if request.method == "POST":
        try:
            services.cancel(actor=request.user, run=run)
        except StudioError as error:
            messages.error(request, str(error))
        return redirect("runs:detail", project.slug, run.number)
    if run.is_finished:
        messages.info(request, _("Run %(number)s has ended already.") % {"number": run.number})
        return redirect("runs:detail", project.slug, run.number)
    context = {"project": project, "is_admin": True, "here": "loop", "run": run}
    return render(request, "runs/cancel.html", context)


# --- A policy --------------------------------------------------------------------------------------------------------


@require_GET
@policy_page
def policy(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """A policy: its samples, whether it serves, and the way back to the ratings that made it."""
    return render(request, "runs/policy.html", policy_context(request, project, policy))


def policy_context(
    request: MemberRequest, project: Project, policy: Checkpoint, form: PromoteForm | None = None
) -> dict[str, Any]:
    pointer = serving(project)
    origin = pages.origin_of(policy)
    history = list(pages.promotions_of(policy))
    is_serving = pointer is not None and pointer.checkpoint_id == policy.pk
    samples = pages.samples_of(policy, request.GET.get("page"))
    context = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "page_url": reverse("runs:policy", args=[project.slug, policy.version]),
        "policy": policy,
        "serving": pointer,
        "is_serving": is_serving,
        "is_rollback": pointer is not None and not is_serving and policy.version < pointer.checkpoint.version,
        "was_serving": any(event.to_checkpoint_id == policy.pk for event in history),
        "history": history,
        "origin": origin,
        "source": pages.sources_of([policy], request.user).get(policy.pk, ""),
        "seconds": pages.duration_of(origin.run),
        "samples": samples,
        "unscored": pages.unscored_among(project, samples),
        "evaluating": pages.running_evaluation(policy),
        "form": form or PromoteForm(initial={"expected_epoch": pointer.epoch if pointer else 0}),
    }
    if findings := pages.findings_in(selectors.evaluations_of(policy).first()):
        _, pairs = pages.side_by_side(findings, None, pages.PAIRS_AT_FIRST)
        context |= {"findings": findings, "pairs": pairs}
    if origin.run is not None:
        context |= {
            "charts": charts.main_charts(origin.run.kind, is_judged=origin.run.judge_id is not None)[:2],
            "steps": origin.run.steps,
            "curves_url": reverse("runs:curves", args=[project.slug, origin.run.number]),
            "watched": pages.watched_in(origin.run),
        }
    return context


@require_POST
@policy_page
def promote(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """Let this policy serve. Refused with 409 where somebody moved the pointer since the page was loaded."""
    form = PromoteForm(request.POST)
    if not form.is_valid():
        return render(request, "runs/policy.html", policy_context(request, project, policy, form), status=422)
    try:
        registry.promote(
            project=project,
            checkpoint=policy,
            actor=request.user,
            reason=form.cleaned_data["reason"],
            expected_epoch=form.cleaned_data["expected_epoch"],
        )
    except PromotionConflict as error:
        context = policy_context(request, project, policy)
        context["conflict"] = error
        context["form"] = PromoteForm(initial={"expected_epoch": error.epoch, "reason": form.cleaned_data["reason"]})
        return render(request, "runs/policy.html", context, status=409)
    except StudioError as error:
        messages.error(request, str(error))
        return redirect("runs:policy", project.slug, policy.version)
    messages.success(
        request,
        _("%(policy)s serves now. Samples of it come into the queue, and the older ones that wait are withdrawn.")
        % {"policy": policy},
    )
    return redirect("runs:board", project.slug)


# --- Ratings behind a model ------------------------------------------------------------------------------------------


@require_GET
@policy_page
def ratings_behind(request: MemberRequest, project: Project, policy: Checkpoint) -> HttpResponse:
    """The ratings that trained the reward model that a policy was taught by."""
    origin = pages.origin_of(policy)
    return show_ratings(request, project, origin.dataset, policy=policy)


@require_GET
@admin_required
def dataset(request: MemberRequest, project: Project, pk: uuid.UUID) -> HttpResponse:
    """The ratings of a dataset."""
    found = Dataset.objects.filter(project=project, pk=pk).first()
    if found is None:
        raise Http404("no such dataset")
    return show_ratings(request, project, found)


def rules_of(dataset: Dataset | None) -> DemonstrationRules | None:
    """By which rules the demonstrations of a dataset were chosen; None for other datasets."""
    if dataset is None or dataset.kind != Dataset.Kind.DEMONSTRATIONS:
        return None
    return DemonstrationRules(**{name: value for name, value in dataset.rules.items() if name != "sources"})


def show_ratings(
    request: MemberRequest, project: Project, dataset: Dataset | None, policy: Checkpoint | None = None
) -> HttpResponse:
    """The ratings of a dataset; of demonstrations those first, and the ratings that chose them by ``?show=ratings``."""
    source = request.GET.get("source", "")
    context: dict[str, Any] = {
        "project": project,
        "is_admin": True,
        "here": "loop",
        "dataset": dataset,
        "policy": policy,
        "policy_source": pages.sources_of([policy], request.user).get(policy.pk, "") if policy else "",
        "source": source,
        "sources": Rating.Source.choices,
        "counts": pages.counts_of(dataset),
        "rules": rules_of(dataset),
    }
    if dataset is not None:
        context["show"] = "ratings" if context["rules"] and request.GET.get("show") == "ratings" else ""
        context["runs"] = dataset.runs.prefetch_related("outputs").order_by("number")
        if context["rules"] and not context["show"]:
            page, found = pages.demonstrations_in(dataset, request.GET.get("page"))
            context |= {"page": page, "demonstrations": found}
        else:
            page, shown = pages.ratings_in(dataset, source=source, page=request.GET.get("page"))
            judged = [sample for one in shown for sample in one.rating.comparison.samples]
            context |= {"page": page, "shown": shown, "unscored": pages.unscored_among(project, judged)}
    return render(request, "runs/ratings.html", context)


@require_GET
@admin_required
def rating(request: MemberRequest, project: Project, pk: uuid.UUID) -> HttpResponse:
    """What became of a rating: the datasets it is in, the runs they fed and the policies that came of them."""
    try:
        found = pages.find_rating(project, pk)
    except Rating.DoesNotExist:
        raise Http404(f"{project} has no rating {pk}") from None
    pointer = serving(project)
    context = {
        "project": project,
        "is_admin": True,
        "here": "queue",
        "one": pages.show_rating(found, project.axes),
        "fate": selectors.fate_of(found),
        "unscored": pages.unscored_among(project, found.comparison.samples),
        "is_taken": found.source in sources_used(project),
        "serving_id": pointer.checkpoint_id if pointer else None,
    }
    return render(request, "runs/rating.html", context)


@require_GET
@admin_required
def lineage(request: MemberRequest, project: Project) -> HttpResponse:
    """The family of policies as a tree: which came from which, which served, which were evaluated."""
    context = {"project": project, "is_admin": True, "here": "loop", "family": pages.family_of(project, request.user)}
    return render(request, "runs/lineage.html", context)


@require_GET
@admin_required
def all_runs(request: MemberRequest, project: Project) -> HttpResponse:
    """Every run, newest first."""
    page = pages.runs_page(project, request.GET.get("page"))
    return render(request, "runs/runs.html", {"project": project, "is_admin": True, "here": "loop", "page": page})
