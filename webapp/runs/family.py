"""The family of policies, as a picture and in words."""

from dataclasses import dataclass

from django.utils.translation import gettext as _

from webapp.accounts.models import User
from webapp.projects.models import Project
from webapp.runs import selectors, tree
from webapp.runs.board import Outlook, Version
from webapp.runs.origins import sources_of


@dataclass(frozen=True)
class Relative:
    """A policy in the family tree, with what is said of it."""

    node: tree.Node
    version: Version
    source: str  # where it was taken over from; empty: made here, or brought in from outside

    @property
    def state(self) -> str:
        if self.version.is_serving:
            return _("serving")
        return _("candidate") if self.version.is_candidate else _("served before")


@dataclass(frozen=True)
class Family:
    """All policies of a project, as a picture and in words."""

    picture: tree.Tree
    relatives: tuple[Relative, ...]


def family_of(project: Project, reader: User) -> Family:
    """The family tree of a project's policies, as ``reader`` may see it; constant in queries."""
    look = Outlook(board=selectors.board(project))
    versions = {version.policy.pk: version for version in look.all_versions}
    picture = tree.plant([version.policy for version in versions.values()])
    sources = sources_of([version.policy for version in versions.values()], reader)
    return Family(
        picture,
        tuple(Relative(node, versions[node.policy.pk], sources.get(node.policy.pk, "")) for node in picture.nodes),
    )
