"""A small studio for page and browser tests: a project, its people, and answers that wait to be rated."""

import hashlib
import re
import time
from dataclasses import dataclass, field

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from rlhf_core.config import SamplingConfig
from webapp.accounts.models import User
from webapp.feedback import services as feedback
from webapp.feedback.models import Comparison, Sample
from webapp.projects.models import Guideline, Membership, Project, Prompt
from webapp.registry.models import Checkpoint, SamplingSettings, ServingPointer
from webapp.registry.services import sampling_settings

PASSWORD = "correct horse battery"


def queries_of(client: Client, address: str) -> int:
    """How many queries a GET takes."""
    with CaptureQueriesContext(connection) as queries:
        assert client.get(address).status_code == 200
    return len(queries)


def enter(user: User) -> Client:
    """A browser in which ``user`` is logged in."""
    client = Client()
    client.force_login(user)
    return client


def fields_of(html: str) -> dict[str, str]:
    """The hidden fields that a verdict on the item of a rater's page sends."""
    found = {name: re.search(rf'name="{name}" value="([^"]*)"', html) for name in ("token", "submission_id")}
    return {name: match[1] for name, match in found.items() if match}


def values_of(html: str) -> dict[str, str]:
    """The numbers and lines of text in the form of a page, as they stand."""
    return dict(re.findall(r'<input type="(?:number|text)" name="(\w+)" value="([^"]*)"', html))


def let_a_day_pass() -> None:
    """Make all ratings a day and an hour older, past the trigger that keeps them as they are."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger fires
        cursor.execute("UPDATE feedback_rating SET created_at = created_at - interval '25 hours'")
        cursor.execute("SET LOCAL session_replication_role = origin")


def until_another_waits(seconds: float = 10) -> None:
    """Return when another transaction waits for a lock, such as one that this one holds."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    end = time.monotonic() + seconds
    with connection.cursor() as cursor:
        while time.monotonic() < end and cursor.execute(waiting).fetchone() == (0,):
            time.sleep(0.01)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Studio:
    """Made by ``open_studio``; ``add_items`` puts answers before the raters."""

    project: Project
    admin: User
    checkpoint: Checkpoint
    sampling: SamplingSettings
    guideline: Guideline
    seed: int = 0
    raters: dict[str, User] = field(default_factory=dict)

    def add_rater(self, name: str, role: str = Membership.Role.RATER) -> User:
        user = User.objects.create_user(name, password=PASSWORD)
        Membership.objects.create(project=self.project, user=user, role=role)
        self.raters[name] = user
        return user

    def add_samples(self, prompt_text: str, *texts: str) -> list[Sample]:
        prompt, _ = Prompt.objects.get_or_create(
            project=self.project, sha256=sha256(prompt_text), defaults={"text": prompt_text, "split": "train"}
        )
        new = []
        for text in texts:
            self.seed += 1
            new.append(
                feedback.NewSample(
                    prompt_id=prompt.pk,
                    seed=self.seed,
                    prompt_tokens=[1, 5],
                    tokens=[7, 2],
                    text=text,
                    finish_reason="end",
                    log_prob=-3.5,
                )
            )
        return feedback.record_samples(checkpoint=self.checkpoint, sampling=self.sampling, samples=new)

    def add_item(self, prompt_text: str, *texts: str, kind: str = "") -> Comparison:
        """One text makes a single answer, two make a pair, unless a ``kind`` is named."""
        samples = self.add_samples(prompt_text, *texts)
        prompt = samples[0].prompt_id
        (item,) = feedback.make_items(
            project=self.project, samples_by_prompt={prompt: samples}, kinds={prompt: kind} if kind else None
        )
        return item

    def add_items(self, pairs: int = 0, singles: int = 0) -> None:
        for n in range(max(pairs, singles)):
            if n < pairs:
                self.add_item(f"Opening {n} of a pair", f"First text of pair {n}.", f"Second text of pair {n}.")
            if n < singles:
                self.add_item(f"Opening {n} of a single answer", f"Only text of answer {n}.")


def open_studio(slug: str = "film-reviews", name: str = "Film reviews", *, overlap: int = 1) -> Studio:
    project = Project.objects.create(
        name=name,
        slug=slug,
        question="Which continuation is the better review?",
        single_question="How good is this continuation?",
        prompt_label="The review begins",
        overlap=overlap,
    )
    body = "Prefer the text that **a reader would finish**.\n\n- It says what the film is like.\n- It makes sense."
    guideline = Guideline.objects.create(project=project, version=1, body=body, sha256=sha256(body))
    checkpoint = Checkpoint.objects.create(
        project=project, kind="policy", version=1, sha256=sha256(f"policy of {slug}")
    )
    sampling = sampling_settings(SamplingConfig())
    admin = User.objects.filter(username="admin").first()
    if admin is None:
        admin = User.objects.create_user("admin", password=PASSWORD, is_staff=True)
    ServingPointer.objects.create(project=project, checkpoint=checkpoint, sampling=sampling)
    return Studio(project=project, admin=admin, checkpoint=checkpoint, sampling=sampling, guideline=guideline)
