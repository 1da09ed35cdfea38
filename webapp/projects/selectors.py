"""What can be read about projects, and who may see them.

Counts of other apps' rows (samples, the serving policy) are taken by the name of the reverse relation; nothing of
those apps is imported here.
"""

from dataclasses import dataclass

from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import Now, Random

from webapp.accounts.models import User
from webapp.accounts.tokens import hash_token
from webapp.errors import InvitationInvalid
from webapp.projects.models import Guideline, Invitation, Membership, Project, Prompt


def projects_for(user: User, role: str | None = None) -> QuerySet[Project]:
    """The projects that ``user`` may see, by name: all for a studio admin, else by membership (``admin`` is more)."""
    if not user.is_authenticated or not user.is_active:
        return Project.objects.none()
    projects = Project.objects.order_by("name", "slug")
    if user.is_staff:
        return projects
    members = Membership.objects.filter(user=user)
    if role == Membership.Role.ADMIN:
        members = members.filter(role=Membership.Role.ADMIN)
    return projects.filter(pk__in=members.values("project"))


def project_for(user: User, slug: str, role: str | None = None) -> Project:
    """The project of this slug.

    Raises:
        Project.DoesNotExist: there is none, or ``user`` has no part in it (as ``role``); the two cannot be told apart.
    """
    return projects_for(user, role).get(slug=slug)


@dataclass(frozen=True, slots=True)
class Part:
    """A project, and what the one who asks for it is there."""

    project: Project
    membership: Membership | None  # None: a studio admin who is no member


def part_in(user: User, slug: str) -> Part:
    """``project_for``, whatever the role, with the membership (one query; of a studio admin two).

    Raises:
        Project.DoesNotExist: there is none, or ``user`` has no part in it.
    """
    if user.is_staff or not user.is_active:
        project = project_for(user, slug)
        return Part(project, membership_of(user, project))
    try:
        member = Membership.objects.select_related("project").get(user=user, project__slug=slug)
    except Membership.DoesNotExist:
        raise Project.DoesNotExist from None
    return Part(member.project, member)


def is_project_admin(user: User, project: Project) -> bool:
    """Whether ``user`` may manage the project."""
    return projects_for(user, Membership.Role.ADMIN).filter(pk=project.pk).exists()


@dataclass(frozen=True, slots=True)
class ProjectOverview:
    """A line of the home page."""

    project: Project
    may_manage: bool
    prompts: int
    members: int
    serving_version: int | None  # None too where the user may not manage it: a rater must not know which policy wrote


def overview_for(user: User) -> list[ProjectOverview]:
    """The projects that ``user`` may see, with their sizes and serving policies (three queries)."""
    projects = list(
        projects_for(user).annotate(
            member_count=Count("memberships", distinct=True), serving_version=F("serving__checkpoint__version")
        )
    )
    managed = set(projects_for(user, Membership.Role.ADMIN).values_list("pk", flat=True))
    prompts = dict(
        Prompt.objects.filter(project__in=[project.pk for project in projects])
        .order_by()
        .values_list("project")
        .annotate(Count("id"))
    )
    return [
        ProjectOverview(
            project=project,
            may_manage=project.pk in managed,
            prompts=prompts.get(project.pk, 0),
            members=project.member_count,
            serving_version=project.serving_version if project.pk in managed else None,
        )
        for project in projects
    ]


def members_of(project: Project) -> QuerySet[Membership]:
    """Who takes part, admins first."""
    return project.memberships.select_related("user").order_by("role", "user__username")


def membership_of(user: User, project: Project) -> Membership | None:
    """The user's part in the project; a studio admin may have none."""
    return Membership.objects.filter(user=user, project=project).first()


def open_invitations(project: Project) -> QuerySet[Invitation]:
    """Invitations that can still be used, newest first."""
    usable = project.invitations.filter(uses_left__gt=0, expires_at__gt=Now())
    return usable.select_related("created_by").order_by("-created_at")


def invitation_for(token: str) -> Invitation:
    """The invitation of a link, with its project; looking does not use it up.

    Raises:
        InvitationInvalid: unknown, used up or out of date.
    """
    usable = Invitation.objects.filter(token_sha256=hash_token(token), uses_left__gt=0, expires_at__gt=Now())
    invitation = usable.select_related("project").first()
    if invitation is None:
        raise InvitationInvalid
    return invitation


def current_guideline(project: Project) -> Guideline | None:
    """The latest version of what raters are told."""
    return project.guidelines.order_by("-version").first()


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """Prompts of a project by split."""

    train: int
    held_out: int

    @property
    def total(self) -> int:
        return self.train + self.held_out


def prompt_counts(project: Project) -> PromptCounts:
    """How many prompts there are to train on and held out (one query)."""
    is_held_out = Q(split=Prompt.Split.HELD_OUT)
    found = project.prompts.aggregate(train=Count("id", filter=~is_held_out), held_out=Count("id", filter=is_held_out))
    return PromptCounts(**found)


def prompts_of(project: Project, words: str = "") -> QuerySet[Prompt]:
    """A project's prompts, the newest first: all, or those whose text or source has ``words`` in it.

    Each knows as ``times_asked`` of how many items it is the prompt, be they judged or not.
    """
    found = project.prompts.filter(Q(text__icontains=words) | Q(source__icontains=words)) if words else project.prompts
    return found.annotate(times_asked=Count("comparisons")).order_by("-pk")  # the keys rise with time


def prompts_to_train_on(project: Project) -> QuerySet[Prompt]:
    """The prompts of the train split, in a fixed order."""
    return project.prompts.filter(split=Prompt.Split.TRAIN).order_by("sha256")


def prompts_to_sample(project: Project, count: int) -> list[Prompt]:
    """Up to ``count`` prompts of the train split that the sampler should answer next.

    Those that raters were asked about least come first, so that each prompt gets its turn before any gets a second;
    among equals, higher ``priority`` first, then chance.
    """
    asked = project.prompts.filter(split=Prompt.Split.TRAIN).annotate(times_asked=Count("comparisons"))
    return list(asked.order_by("times_asked", "-priority", Random())[:count])
