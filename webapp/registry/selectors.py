"""What can be read about checkpoints and which of them serves."""

from django.db.models import QuerySet

from webapp.projects.models import Project
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
