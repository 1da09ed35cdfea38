"""A small studio for the tests of the web app: a project with a policy, prompts, items and people."""

import hashlib
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import Client

from rlhf_core.config import SamplingConfig
from tests.studio import enter
from tests.web import rater_pages
from webapp import queue
from webapp.accounts.models import User
from webapp.accounts.services import ensure_admin
from webapp.feedback.models import Comparison, Presentation, Rating, Sample, Slot
from webapp.feedback.modes.base import NOTHING_MORE, Extras
from webapp.feedback.services import NewSample, Submission, claim, make_items, record_samples, submit
from webapp.projects.models import Membership, Project, Prompt
from webapp.projects.services import create_project, import_prompts
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.registry.services import promote, record_checkpoint, sampling_settings


class Studio:
    """Builds rows by way of the services; each method can be called any number of times."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.admin = ensure_admin()
        self.sampling = sampling_settings(SamplingConfig())

    def project(self, **settings: Any) -> Project:
        """A project without prompts or policy."""
        number = next(self.numbers)
        values = {
            "name": f"Project {number}",
            "slug": f"project-{number}",
            "question": "Which answer is better?",
            "single_question": "How good is this answer?",
        }
        return create_project(actor=self.admin, **{**values, **settings})

    def ready_project(self, prompts: int = 0, **settings: Any) -> Project:
        """A project whose policy v1 serves."""
        project = self.project(**settings)
        self.promoted(project)
        if prompts:
            self.prompts(project, prompts)
        return project

    def prompts(self, project: Project, count: int) -> list[Prompt]:
        """New prompts, all to train on."""
        number = next(self.numbers)
        text = "".join(f"prompt {number}.{line} of {project.slug}\n" for line in range(count))
        import_prompts(actor=self.admin, project=project, text=text, format="text", held_out_percent=0)
        return list(Prompt.objects.filter(project=project).order_by("-created_at", "id")[:count])

    def checkpoint(self, project: Project, kind: str = "policy", **fields: Any) -> Checkpoint:
        sha256 = hashlib.sha256(uuid4().bytes).hexdigest()
        return record_checkpoint(project=project, kind=kind, sha256=sha256, **fields)

    def promoted(self, project: Project, checkpoint: Checkpoint | None = None) -> Checkpoint:
        """A new policy (or this one), serving."""
        checkpoint = checkpoint or self.checkpoint(project)
        pointer = serving(project)
        epoch = pointer.epoch if pointer else 0
        promote(project=project, checkpoint=checkpoint, actor=self.admin, expected_epoch=epoch)
        return checkpoint

    def rater(self, *projects: Project, **fields: Any) -> User:
        user = User.objects.create(username=f"rater{next(self.numbers)}", **fields)
        for project in projects:
            Membership.objects.create(project=project, user=user)
        return user

    def samples(self, prompt: Prompt, count: int, texts: Sequence[str] = ()) -> list[Sample]:
        """Samples of the serving policy; their tokens begin with 100, 101 ... in the order of the list."""
        pointer = serving(prompt.project)
        assert pointer
        drawn = [
            NewSample(
                prompt_id=prompt.pk,
                seed=next(self.numbers),
                prompt_tokens=[1, 7, 8],
                tokens=[100 + index, 2],
                text=texts[index] if texts else f"answer {index} to {prompt.text}",
                finish_reason="end",
                log_prob=-1.5,
            )
            for index in range(count)
        ]
        return record_samples(checkpoint=pointer.checkpoint, sampling=pointer.sampling, samples=drawn)

    def items(self, project: Project, *, pairs: int = 0, singles: int = 0) -> list[Comparison]:
        """Items of new prompts."""
        prompts = self.prompts(project, pairs + singles)
        by_prompt = {prompt.pk: self.samples(prompt, 2 if index < pairs else 1) for index, prompt in enumerate(prompts)}
        return make_items(project=project, samples_by_prompt=by_prompt)

    def shown(self, rater: User, project: Project) -> Presentation:
        """The next item of a rater, who must have one."""
        presentation = claim(rater=rater, project=project)
        assert presentation is not None
        return presentation

    def say(
        self,
        rater: User,
        presentation: Presentation,
        choice: str,
        extras: Extras = NOTHING_MORE,
        *,
        act: Callable[..., Submission] = submit,
        submission_id: UUID | None = None,
    ) -> Submission:
        """Judge what was shown (or, with ``revise``, change it), under a key of its own unless one is given."""
        return act(
            rater=rater,
            project=presentation.slot.project,
            token=presentation.token,
            submission_id=submission_id or uuid4(),
            choice=choice,
            extras=extras,
        )

    def ask(self, project: Project, kind: str, *texts: str) -> Comparison:
        """An item of this rating mode, of a new prompt."""
        (prompt,) = self.prompts(project, 1)
        samples = self.samples(prompt, len(texts), texts)
        (item,) = make_items(project=project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: kind})
        return item

    def rate_all(self, rater: User, project: Project, choices: Sequence[str] = "1234567", **more: Any) -> list[Rating]:
        """Judge all that waits for a rater, going through ``choices`` again and again (singles: at most 5)."""
        ratings: list[Rating] = []
        for choice in itertools.cycle(choices):
            presentation = claim(rater=rater, project=project)
            if presentation is None:
                return ratings
            is_single = presentation.slot.comparison.kind == "single"
            pressed = str(min(int(choice), 5) or 1) if is_single else choice
            found = submit(
                rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice=pressed, **more
            )
            ratings.append(found.rating)
        return ratings

    def lapse(self, slot_id: int) -> None:
        """Let the lease of a slot be over."""
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE feedback_slot SET lease_until = now() - interval '1 second' WHERE id = %s", [slot_id]
            )

    def slot(self, presentation: Presentation) -> Slot:
        """The slot of a presentation as it is now."""
        return Slot.objects.get(pk=presentation.slot_id)


@pytest.fixture
def studio(db: None) -> Studio:
    return Studio()


@pytest.fixture
def live_studio(transactional_db: None) -> Studio:
    """The same, with real commits: for tests in which several connections meet."""
    return Studio()


@pytest.fixture
def admin(studio: Any) -> Client:
    """A browser in which the studio's admin is logged in, whichever studio the test's file opens."""
    return enter(studio.admin)


@pytest.fixture
def rater(studio: Any) -> Client:
    """A browser in which ada is logged in, a rater of the studio that the test's file opens."""
    return rater_pages.enter(studio, "ada")


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages to workers are sent and heard by nobody."""
    monkeypatch.setattr(queue, "send", lambda *args, **options: True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the broker was asked for."""
    messages: list[tuple[Any, ...]] = []

    def take(name: str, *args: Any, queue: str) -> bool:
        messages.append((name, *args))
        return True

    monkeypatch.setattr(queue, "send", take)
    return messages


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """Call functions in threads of their own that start together; their answers (or exceptions), in order."""

    def run(*functions: Callable[[], Any]) -> list[Any]:
        barrier = threading.Barrier(len(functions))
        answers: list[Any] = [None] * len(functions)

        def work(index: int) -> None:
            try:
                connection.ensure_connection()
                barrier.wait(timeout=30)
                answers[index] = functions[index]()
            except Exception as error:
                answers[index] = error
            finally:
                connection.close()

        threads = [threading.Thread(target=work, args=[index]) for index in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        return answers

    return run
