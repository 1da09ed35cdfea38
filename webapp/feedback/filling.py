"""What comes into the raters' queue: samples of a policy, and the items that are made of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction
from django.db.models import Count

from webapp.feedback.models import Comparison, FurtherSample, Sample, Slot
from webapp.feedback.scores import want_scores
from webapp.ids import sha256_of
from webapp.projects.models import Project, Rule
from webapp.registry.models import Checkpoint, SamplingSettings

MOST_RANKED = 6  # answers to a ranking


@dataclass(frozen=True, slots=True)
class NewSample:
    """A response that a policy has just drawn, before it is a row."""

    prompt_id: UUID
    seed: int
    prompt_tokens: Sequence[int]
    tokens: Sequence[int]
    text: str
    finish_reason: str
    log_prob: float


def record_samples(*, checkpoint: Checkpoint, sampling: SamplingSettings, samples: Sequence[NewSample]) -> list[Sample]:
    """Write down what ``checkpoint`` answered; in the order given. Delivered twice, it does no harm.

    Drawn again with the same prompt, checkpoint, settings and seed, a sample is the row that there is. A NUL, which no
    text column holds, becomes U+FFFD in the text; the tokens stay as drawn. Those for raters wait for their scores.
    """
    rows = []
    for sample in samples:
        if not sample.tokens:
            raise ValueError(f"the sample of prompt {sample.prompt_id} with seed {sample.seed} has no tokens")
        text = sample.text.replace("\0", "\ufffd")
        rows.append(
            Sample(
                prompt_id=sample.prompt_id,
                checkpoint=checkpoint,
                sampling=sampling,
                seed=sample.seed,
                prompt_tokens=list(sample.prompt_tokens),
                tokens=list(sample.tokens),
                text=text,
                text_sha256=sha256_of(text),
                finish_reason=sample.finish_reason,
                log_prob=sample.log_prob,
            )
        )
    with transaction.atomic():
        Sample.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)
        stored = Sample.objects.filter(
            checkpoint=checkpoint,
            sampling=sampling,
            prompt__in={row.prompt_id for row in rows},
            seed__in={row.seed for row in rows},
        ).select_related("prompt")
        by_key = {(sample.prompt_id, sample.seed): sample for sample in stored}
        new = {row.pk for row in rows}  # what was there before has a key of its own
        want_scores(checkpoint.project, [sample for sample in by_key.values() if sample.pk in new])
    return [by_key[row.prompt_id, row.seed] for row in rows]


def make_items(
    *, project: Project, samples_by_prompt: Mapping[UUID, Sequence[Sample]], kinds: Mapping[UUID, str] | None = None
) -> list[Comparison]:
    """Put samples before the raters, in the mode that ``kinds`` names for their prompt.

    Without a name: each two of a prompt as a pair, one that is left over as a single answer. A ranking takes all
    samples of its prompt, each text once; a rewrite, a rule or turns take one. The rule is the one that was asked
    least, and where the project has none, the answer is judged as a single one.

    Each item gets ``project.overlap`` slots, in one transaction with it. Two samples with the same text are written
    down as a comparison, so that they are not paired again, but get no slot: there is nothing to judge. An item that
    there is already is neither doubled nor given more slots.
    """
    wanted: dict[UUID, list[Sample]] = {}
    items = []
    turns = rule_turns(project)
    for prompt_id, samples in samples_by_prompt.items():
        for kind, some in groups_of(samples, (kinds or {}).get(prompt_id, "")):
            if len({sample.prompt_id for sample in some}) > 1:
                raise ValueError(f"samples {some[0].pk} and {some[1].pk} answer different prompts")
            first = some[0]
            rule = next(turns) if kind == Comparison.Kind.RULE else None
            if kind == Comparison.Kind.RULE and rule is None:
                kind = Comparison.Kind.SINGLE
            item = Comparison(
                project=project,
                prompt=first.prompt,
                kind=kind,
                first=first,
                second=some[1] if len(some) > 1 else None,
                rule=rule,
                priority=first.prompt.priority,
            )
            wanted[item.pk] = some
            items.append(item)
    with transaction.atomic():
        Comparison.objects.bulk_create(items, ignore_conflicts=True, batch_size=500)
        made = set(Comparison.objects.filter(pk__in=list(wanted)).values_list("pk", flat=True))
        items = [item for item in items if item.pk in made]  # the others were there before
        FurtherSample.objects.bulk_create(
            [
                FurtherSample(comparison=item, ordinal=ordinal, sample=sample)
                for item in items
                for ordinal, sample in enumerate(wanted[item.pk][2:], start=3)
            ],
            batch_size=500,
        )
        Slot.objects.bulk_create(
            [
                Slot(comparison=item, project=project, ordinal=ordinal, priority=item.priority)
                for item in items
                if not are_twins(item)
                for ordinal in range(1, project.overlap + 1)
            ],
            batch_size=500,
        )
    return items


def groups_of(samples: Sequence[Sample], kind: str) -> list[tuple[str, list[Sample]]]:
    """Which samples of a prompt are judged together, in the order of their ids, and in which mode."""
    if kind == Comparison.Kind.RANKING:
        by_text = {sample.text_sha256: sample for sample in samples}  # twins cannot be told apart
        if len(by_text) > 1:
            return [(kind, in_order(list(by_text.values())[:MOST_RANKED]))]
    if kind in (Comparison.Kind.RULE, Comparison.Kind.REWRITE, Comparison.Kind.TURNS):
        return [(kind, [sample]) for sample in samples]
    two = [in_order(samples[start : start + 2]) for start in range(0, len(samples), 2)]
    return [(Comparison.Kind.PAIR if len(some) == 2 else Comparison.Kind.SINGLE, some) for some in two]


def rule_turns(project: Project) -> Iterator[Rule | None]:
    """Rules to ask, one after the other, each time the one asked least so far; None where there is none (one query)."""
    active = project.rules.filter(is_active=True).annotate(asked=Count("comparisons")).order_by("id")
    asked = {rule: rule.asked for rule in active}
    while True:
        rule = min(asked, key=asked.__getitem__, default=None)
        yield rule
        if rule is not None:
            asked[rule] += 1


def in_order(samples: Sequence[Sample]) -> list[Sample]:
    return sorted(samples, key=lambda sample: sample.pk.int)


def are_twins(item: Comparison) -> bool:
    """Whether a pair's two texts are the same, so that no rater needs to see it."""
    return item.second is not None and item.first.text_sha256 == item.second.text_sha256
