"""Where a policy comes from: the run, the reward model and the ratings behind it, or another project."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from webapp.accounts.models import User
from webapp.projects.models import Membership
from webapp.projects.selectors import projects_for
from webapp.quality.models import Dataset
from webapp.registry.models import Checkpoint
from webapp.runs import selectors
from webapp.runs.counts import Counts, counts_of
from webapp.runs.models import Run


@dataclass(frozen=True)
class Origin:
    """The way back from a policy to the ratings behind it."""

    run: Run | None
    parent: Checkpoint | None
    reward_model: Checkpoint | None
    reward_run: Run | None
    dataset: Dataset | None

    @property
    def counts(self) -> Counts | None:
        return counts_of(self.dataset)


def origin_of(policy: Checkpoint) -> Origin:
    """policy -> PPO run -> reward model -> reward run -> dataset, or policy -> fine-tuning -> dataset."""
    steps = {step.checkpoint.pk: step for step in selectors.lineage_of(policy)}
    own = steps[policy.pk]
    taught_by = steps.get(own.reward_model.pk) if own.reward_model else None
    return Origin(
        run=own.run,
        parent=own.parent,
        reward_model=own.reward_model,
        reward_run=taught_by.run if taught_by else None,
        dataset=taught_by.dataset if taught_by else own.dataset,
    )


def sources_of(policies: Sequence[Checkpoint], reader: User) -> dict[Any, str]:
    """Where the policies that were taken over from other projects come from, in words, by id (two queries at most).

    A project that ``reader`` doesn't manage is not named.
    """
    taken = {policy.pk: policy.source_id for policy in policies if policy.source_id}
    if not taken:
        return {}
    managed = projects_for(reader, Membership.Role.ADMIN).order_by()
    named = Checkpoint.objects.filter(pk__in=taken.values(), project__in=managed).select_related("project")
    words = {
        source.pk: _("%(policy)s of %(project)s") % {"policy": source, "project": source.project.name}
        for source in named
    }
    return {pk: words.get(source, _("a policy of another project")) for pk, source in taken.items()}
