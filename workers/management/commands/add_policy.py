"""``manage.py add_policy``: a policy that you trained yourself, as a version of a project."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from rlhf_core.errors import CheckpointError
from rlhf_core.store import copy_checkpoint, verify
from webapp.errors import StudioError
from webapp.projects.models import Project
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.registry.services import promote, record_checkpoint


class Command(BaseCommand):
    help = "Put a checkpoint, such as one of 'python -m rlhf_core pretrain', into a project as its next policy."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG", help="the project, as its address names it")
        parser.add_argument("--checkpoint", required=True, type=Path, metavar="DIR", help="folder with manifest.json")
        parser.add_argument("--promote", action="store_true", help="let it serve at once; else an admin promotes it")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            known = ", ".join(Project.objects.order_by("slug").values_list("slug", flat=True)) or "none yet"
            raise CommandError(f"there is no project {options['project']!r}; there are: {known}")
        try:
            kind = verify(options["checkpoint"])["kind"]
            if kind != Checkpoint.Kind.POLICY:
                raise CommandError(f"{options['checkpoint']} holds a {kind}; only a policy can serve")
            identity = copy_checkpoint(options["checkpoint"], settings.CHECKPOINT_STORE)
            checkpoint = record_checkpoint(project=project, kind=Checkpoint.Kind.POLICY, sha256=identity)
            pointer = serving(project)
            if options["promote"] and (pointer is None or pointer.checkpoint_id != checkpoint.pk):
                epoch = pointer.epoch if pointer else 0
                promote(
                    project=project, checkpoint=checkpoint, actor=None, expected_epoch=epoch, reason="added by command"
                )
        except (CheckpointError, StudioError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(
                f"{error}. Whoever runs this must be able to read {options['checkpoint']} and to write into "
                f"{settings.CHECKPOINT_STORE}. In the containers the service 'migrate' may: docker compose run --rm "
                "-v ./FOLDER:/mine:ro migrate python manage.py add_policy --project SLUG --checkpoint /mine"
            ) from error
        now = "serves" if options["promote"] else "is there; promote it on the loop board or with --promote"
        self.stdout.write(f"Policy {checkpoint} ({identity[:8]}) of {project.name!r} {now}.")
