"""What can be read about checkpoints and which of them serves."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from webapp.projects.models import Project, Prompt
from webapp.registry.models import Checkpoint, Promotion, ServingPointer


def serving(project: Project) -> ServingPointer | None:
    """The pointer to the policy that serves, with its checkpoint and sampling settings."""
    return ServingPointer.objects.select_related("checkpoint", "sampling").filter(project=project).first()


def serving_in(projects: QuerySet[Project]) -> QuerySet[ServingPointer]:
    """The pointers of several projects, with project, checkpoint and sampling settings, by the project's name."""
    pointers = ServingPointer.objects.filter(project__in=projects.order_by())
    return pointers.select_related("project", "checkpoint", "sampling").order_by("project__name")


def policies(project: Project) -> QuerySet[Checkpoint]:
    """The project's policies, newest first."""
    return Checkpoint.objects.filter(project=project, kind=Checkpoint.Kind.POLICY).order_by("-version")


def reward_models(project: Project) -> QuerySet[Checkpoint]:
    """The project's reward models, newest first."""
    return Checkpoint.objects.filter(project=project, kind=Checkpoint.Kind.REWARD_MODEL).order_by("-version")


def promotions(project: Project) -> QuerySet[Promotion]:
    """What served when, newest first, with who changed it."""
    related = ("from_checkpoint", "to_checkpoint", "actor")
    return Promotion.objects.filter(project=project).select_related(*related).order_by("-epoch")


def trained_before(project: Project) -> set[Any]:
    """The ids of the projects in which policies were trained that this one has taken over, however many steps away."""
    found: set[Any] = set()
    seen = waiting = {project.pk}
    while waiting:
        taken = Checkpoint.objects.filter(copies__project__in=waiting).values_list("project", "parent")
        found |= {source for source, parent in taken if parent}
        waiting = {source for source, _ in taken} - seen
        seen = seen | waiting
    return found


def held_out_prompts(project: Project) -> QuerySet[Prompt]:
    """The prompts that no policy of the project has learned from, in a fixed order.

    Each import draws its own split, so a prompt that is held out here may have been trained on in the project that a
    policy was taken over from: it is left out.
    """
    learned = Prompt.objects.filter(
        project__in=trained_before(project), split=Prompt.Split.TRAIN, sha256=OuterRef("sha256")
    )
    return project.prompts.filter(~Exists(learned), split=Prompt.Split.HELD_OUT).order_by("sha256")
