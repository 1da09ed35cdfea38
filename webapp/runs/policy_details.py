"""A policy as its page shows it: its samples, when it served, what evaluates it now."""

from django.core.paginator import Page, Paginator
from django.db.models import Q, QuerySet

from webapp.feedback.models import Sample
from webapp.feedback.scores import load_scores
from webapp.projects.models import Project, Prompt
from webapp.registry.models import Checkpoint, Promotion
from webapp.registry.selectors import promotions
from webapp.runs.live import LIVE
from webapp.runs.models import Run

SAMPLES_A_PAGE = 8


def find_policy(project: Project, version: int) -> Checkpoint:
    """A policy of this project. Raises Checkpoint.DoesNotExist."""
    return Checkpoint.objects.select_related("parent", "project").get(
        project=project, kind=Checkpoint.Kind.POLICY, version=version
    )


def samples_of(policy: Checkpoint, page: str | None) -> Page[Sample]:
    """Samples of a policy that were made for raters, the newest first; those of evaluations are shown beside others."""
    given = Sample.objects.filter(checkpoint=policy, prompt__split=Prompt.Split.TRAIN)
    samples = given.select_related("prompt", "sampling").order_by("-id")
    found = Paginator(samples, SAMPLES_A_PAGE).get_page(page)
    load_scores(found.object_list)
    return found


def promotions_of(policy: Checkpoint) -> QuerySet[Promotion]:
    """When this policy began to serve, was given other sampling settings or was replaced; the latest first."""
    return promotions(policy.project).filter(Q(to_checkpoint=policy) | Q(from_checkpoint=policy))


def running_evaluation(policy: Checkpoint) -> Run | None:
    """The evaluation of this policy that goes on or waits, if there is one."""
    return Run.objects.filter(policy=policy, kind=Run.Kind.EVALUATE, state__in=LIVE).order_by("-number").first()
