"""The story of a simulation: raters rate, a reward model learns, PPO improves the policy, the evaluation is read, the
candidate is promoted; then all of it again on the new policy's samples.

What a person would do is done through the pages, by an admin and by raters who are logged in. What is only looked at
(whether a run is through, how full the queue is, what an evaluation found) is read from the database.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from webapp import queue
from webapp.accounts.models import User
from webapp.feedback.models import Sample, Slot
from webapp.projects.models import Project, Prompt
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.runs.models import Evaluation, Run
from workers.simulation.browser import Browser, BrowserError
from workers.simulation.choices import Rater
from workers.simulation.figures import Judged, accuracy, rounded, taste_change
from workers.simulation.raters import Shift, come_in, enrol
from workers.simulation.tastes import Scale, Taste, as_shown, judge, measure_scale

LOOK_SECONDS = 0.25
TELL_SECONDS = 10.0  # between two words about the same wait
QUEUE_SECONDS = 300.0  # a queue that grows no longer for so long is as full as it gets
RUN_SECONDS = 1200.0  # a run without a sign of life for so long is given up
FEWEST_PROMPTS = 300  # held out; with fewer the figures are given all the same, and a line says so

Tell = Callable[[str], None]


class SimulationError(Exception):
    """The loop could not be closed; the message names the step and the reason."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a simulation does; see ``manage.py simulate --help``."""

    project_slug: str
    raters: int
    labels: int
    ability: float
    taste: Taste


@dataclass
class Round:
    """One turn of the loop, while it goes on and when it is over."""

    number: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[step] = round(time.monotonic() - begun, 1)


class Simulation:
    """One closed loop with two rounds in a studio.

    Args:
        url: where the studio answers; this process reaches its database and broker by its own settings.
        plan: what is simulated.
        seed: of the raters' doubts and of every run. Samples for raters are drawn anew each time.
        tell: says how far it is.
    """

    def __init__(self, url: str, plan: Plan, seed: int, tell: Tell) -> None:
        self.plan, self.seed, self.tell = plan, seed, tell
        self.project = find_project(plan.project_slug)
        self.home = f"/p/{plan.project_slug}/"
        self.admin = Browser(url)
        come_in(self.admin, find_admin())
        self.browsers = enrol(url, self.admin, plan.project_slug, plan.raters)
        self.base = base_policy(self.project)

    def run(self) -> dict[str, Any]:
        """Both rounds; what they reached as plain JSON.

        Raises:
            SimulationError, BrowserError, TasteError: a step was refused or failed; the message says which and why.
        """
        first = self.play(Round(1))
        second = self.play(Round(2))
        return {"seed": self.seed, "labels": self.plan.labels, **first, "round2": second}

    def play(self, turn: Round) -> dict[str, Any]:
        """One turn: its figures."""
        kept_ready = self.project.buffer_target
        with turn.timed("sample"):
            self.keep_ready(max(self.plan.labels, kept_ready))
            try:
                self.wait_for_samples(self.plan.labels)
            finally:
                self.keep_ready(kept_ready)  # while a run trains, nothing is drawn that nobody asked for
        scale = self.scale()
        with turn.timed("rate"):
            self.rate(turn, scale)
        with turn.timed("reward"):
            reward_model = self.train(turn, "reward")
        with turn.timed("policy"):
            candidate = self.train(turn, "policy", reward_model=str(reward_model.pk))
        with turn.timed("evaluate"):
            found = self.evaluate(turn, candidate, str(reward_model.pk))
        with turn.timed("promote"):
            self.promote(candidate)
        result = {"seconds": turn.seconds, **found}
        self.tell(f"round {turn.number}: {json.dumps(result)}")
        return result

    # --- Samples and ratings ---------------------------------------------------------------------------------------

    def keep_ready(self, items: int) -> None:
        """Change how many items the sampler keeps ready, on the page of settings."""
        page = self.admin.get(f"{self.home}settings/")
        self.admin.get(self.admin.send(page.form("buffer_target"), page, buffer_target=str(items)))
        queue.refill(self.project.pk)  # the clock would ask within seconds

    def wait_for_samples(self, wanted: int) -> None:
        """Until so many items of the serving policy wait, or no more come."""
        most, since, told = 0, time.monotonic(), 0.0
        while most < wanted:
            waiting = self.open_slots().count()
            now = time.monotonic()
            if waiting > most:
                most, since = waiting, now
            elif now - since > QUEUE_SECONDS:
                if not most:
                    raise SimulationError(
                        f"no sample came for {QUEUE_SECONDS:.0f} s: do the sampler and the worker of its queue run?"
                    )
                self.tell(f"{most} of {wanted} items wait, and no more come; the raters begin")
                return
            if now - told > TELL_SECONDS:
                told = now
                self.tell(f"{waiting} of {wanted} items wait for raters")
            time.sleep(LOOK_SECONDS)

    def open_slots(self) -> QuerySet[Slot]:
        """What raters could judge of the serving policy."""
        pointer = serving(self.project)
        policy = pointer.checkpoint if pointer else None
        return Slot.objects.filter(project=self.project, state=Slot.State.OPEN, comparison__first__checkpoint=policy)

    def scale(self) -> Scale:
        """The taste's unit, from all that the base policy has answered to the prompts that one trains on."""
        answers = Sample.objects.filter(checkpoint=self.base, prompt__split=Prompt.Split.TRAIN)
        found = measure_scale(self.plan.taste, answers.values_list("prompt__text", "text").iterator())
        self.tell(f"of {found.count} base samples the taste's mean is {found.mean:.4g}, its sd {found.sd:.4g}")
        return found

    def rate(self, turn: Round, scale: Scale) -> None:
        """Let the raters give their ratings."""
        told = time.monotonic()

        def tell(given: int) -> None:
            nonlocal told
            if given == self.plan.labels or time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self.tell(f"{given} of {self.plan.labels} ratings given")

        people = [
            Rater(self.plan.taste, scale, self.plan.ability, f"{self.seed}/{turn.number}/{ordinal}")
            for ordinal in range(len(self.browsers))
        ]
        Shift(self.browsers, people, f"{self.home}rate/", self.plan.labels, tell).work()

    # --- Runs ------------------------------------------------------------------------------------------------------

    def train(self, turn: Round, kind: str, **values: str) -> Checkpoint:
        """Start a run on its page with the first preset's settings, and wait for what it makes."""
        run = self.start(f"{self.home}runs/{kind}/", run_seed(self.seed, turn.number, kind), **values)
        self.wait_for([run])
        return run.outputs.get()

    def evaluate(self, turn: Round, candidate: Checkpoint, reward_model: str) -> dict[str, Any]:
        """Evaluate the candidate, and the policy before it once more, on every held-out prompt; what the taste says.

        The second draw gives pairs of answers of one policy that neither raters nor PPO have seen: on those the reward
        model is held against the taste.
        """
        parent = candidate.parent
        assert parent is not None
        runs = [
            self.start(
                f"{self.home}policies/{policy.version}/evaluate/",
                run_seed(self.seed, turn.number, f"evaluate {use}"),
                reward_model=reward_model,
                prompts="0",
            )
            for use, policy in (("candidate", candidate), ("parent", parent))
        ]
        self.wait_for(runs)
        main, again = (Evaluation.objects.get(run=run) for run in runs)
        if main.prompts < FEWEST_PROMPTS:
            self.tell(f"only {main.prompts} prompts are held out; figures are steadier with {FEWEST_PROMPTS}")
        before, after = self.judged(main, self.base), self.judged(main, candidate)
        first, second = self.judged(main, parent), self.judged(again, parent)
        ours, base = main.metrics["policies"]["candidate"], main.metrics["policies"]["base"]
        kl = main.metrics["kl"]["base"]
        prompts = sorted(before)
        return {
            "rm_accuracy": accuracy((first[prompt], second[prompt]) for prompt in prompts),
            "kl": {"value": rounded(kl["value"]), "se": rounded(kl["error"])},
            "taste": taste_change([before[one].taste for one in prompts], [after[one].taste for one in prompts]),
            "distinct2_ratio": ratio(ours["distinct_2"], base["distinct_2"]),
            "length_ratio": ratio(ours["response_length"], base["response_length"]),
        }

    def judged(self, evaluation: Evaluation, policy: Checkpoint) -> dict[UUID, Judged]:
        """What ``policy`` answered in an evaluation, by prompt, with the reward and what the taste says of it."""
        found = {}
        for answer in evaluation.items.filter(sample__checkpoint=policy).select_related("sample__prompt"):
            prompt, text = answer.sample.prompt, as_shown(answer.sample.text)
            assert answer.reward is not None  # the evaluation was started with a reward model
            found[prompt.pk] = Judged(answer.reward, judge(self.plan.taste, prompt.text, text))
        return found

    def start(self, address: str, seed: int, **values: str) -> Run:
        """Open a run's form, fill in the seed, press the button, and find the run that the answer leads to."""
        page = self.admin.get(address)
        led_to = self.admin.send(page.form("seed", *values), page, seed=str(seed), **values)
        number = led_to.rstrip("/").rpartition("/")[2]
        if not number.isdigit():
            raise BrowserError(f"the page {page.url} led to {led_to} and not to a run")
        return Run.objects.get(project=self.project, number=int(number))

    def wait_for(self, runs: Sequence[Run]) -> None:
        """Until the runs are through, one after the other; says how far they are."""
        for run in runs:
            self.wait_for_one(run)

    def wait_for_one(self, run: Run) -> None:
        """Until the run is through.

        Raises:
            SimulationError: it did not succeed, or gave no sign of life for RUN_SECONDS.
        """
        seen, since, told = "", time.monotonic(), time.monotonic()
        while not run.is_finished:
            time.sleep(LOOK_SECONDS)
            run.refresh_from_db()
            now = time.monotonic()
            state = f"{run.state} {run.step} {run.phase}"
            if state != seen:
                seen, since = state, now
            elif now - since > RUN_SECONDS:
                raise SimulationError(
                    f"run {run.number} ({run.get_kind_display()}) stands at {run.state}, step {run.step}, for "
                    f"{RUN_SECONDS:.0f} s: does a worker for the queue train run?"
                )
            if now - told > TELL_SECONDS:
                told = now
                self.tell(f"run {run.number}, {run.get_kind_display()}: {run.state}, {run.step} of {run.total_steps}")
        if run.state != Run.State.SUCCEEDED:
            raise SimulationError(f"run {run.number} ({run.get_kind_display()}) {run.state}: {run.error or 'by hand'}")

    # --- Promotion -------------------------------------------------------------------------------------------------

    def promote(self, candidate: Checkpoint) -> None:
        """Promote on the candidate's page, and wait for its first item in the queue."""
        page = self.admin.get(f"{self.home}policies/{candidate.version}/")
        form = page.form("expected_epoch", "reason")
        self.admin.get(self.admin.send(form, page, reason="simulated raters like it"))
        pointer = serving(self.project)
        if pointer is None or pointer.checkpoint_id != candidate.pk:
            raise SimulationError(f"{candidate} does not serve after it was promoted: somebody else promoted another")
        self.wait_for_samples(1)


def find_project(slug: str) -> Project:
    """The project, if both rounds can come to their end in it.

    Raises:
        SimulationError: there is none of this name, or its policy or settings are such that a later step would fail.
    """
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        known = ", ".join(Project.objects.order_by("slug").values_list("slug", flat=True)) or "none"
        raise SimulationError(f"there is no project {slug!r}; there are: {known}")
    if serving(project) is None:
        raise SimulationError(f"no policy serves in {slug!r}, so nothing can be rated: promote one first")
    if project.is_paused:
        raise SimulationError(f"{slug!r} is paused: end the pause on its page of settings")
    if not project.use_simulated_ratings:
        raise SimulationError(
            f"{slug!r} leaves simulated ratings out, so no reward model would learn from them: "
            'switch "Train on simulated ratings too" on, on its page of settings'
        )
    if project.buffer_target < 1:
        raise SimulationError(
            f'{slug!r} keeps no items ready, so a promoted policy would never be asked: set "Items kept ready" to 1 or '
            "more on its page of settings"
        )
    return project


def find_admin() -> User:
    """The first studio admin; none is made, since the studio may be somebody's own.

    Raises:
        SimulationError: there is none.
    """
    admin = User.objects.filter(is_staff=True, is_active=True).order_by("date_joined").first()
    if admin is None:
        raise SimulationError("the studio has no admin yet: ./manage.py login_link makes one")
    return admin


def base_policy(project: Project) -> Checkpoint:
    """The first policy in the line of the one that serves."""
    pointer = serving(project)
    assert pointer is not None
    found: Checkpoint = pointer.checkpoint
    while found.parent is not None:
        found = found.parent
    return found


def ratio(ours: float, theirs: float) -> float | None:
    """The share; None where there is nothing to compare with."""
    return rounded(ours / theirs) if theirs else None


def run_seed(seed: int, turn: int, use: str) -> int:
    """A seed for one run; equal for equal arguments, 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{turn}/{use}".encode()).digest()[:4])
