"""Which answers are worth imitating: those that ratings choose, those that raters wrote (docs/algorithms/sft.md)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any
from uuid import UUID

from django.db.models import Func, QuerySet, TextField, Value, Window
from django.db.models.expressions import RawSQL
from django.db.models.functions import RowNumber
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from rlhf_core.config import Settings, setting
from rlhf_core.records import Demonstration
from webapp.feedback import selectors as feedback
from webapp.feedback.models import TOKENS, Comparison, Rating, Sample
from webapp.feedback.modes import LEARNED_FROM
from webapp.feedback.modes.ranking import STRENGTH as OF_A_RANKING
from webapp.feedback.modes.turns import SCORES as OF_A_TURN
from webapp.feedback.selectors import WrittenAnswer
from webapp.projects.models import Project, Prompt
from webapp.quality.selectors import UNSURE, sources_used

LOOKED_AT = 2000  # ratings, the newest, that tell whether fine-tuning may be offered
VOTED = (*LEARNED_FROM, Comparison.Kind.REWRITE)
GOOD_AS_IT_IS, TO_BE_REWRITTEN = 5, 1  # what a rewrite says of the answer, as a score
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(1, 0x3001))))  # all there is, as ``str.strip`` takes it
STRENGTHS = {
    1: gettext_lazy("better"),
    2: gettext_lazy("at least clearly better"),
    3: gettext_lazy("much better"),
}


class BTrim(Func):
    """A text without the given characters at its ends, as PostgreSQL's function does it."""

    function = "btrim"
    output_field = TextField()


@dataclass(frozen=True)
class DemonstrationRules(Settings):
    """Which rated answers are demonstrations, and how many a run asks for."""

    minimum_score: float = setting(
        4.0, "an answer that was scored alone is taken from this mean score on", minimum=1, maximum=5
    )
    minimum_strength: int = setting(
        1,
        "an answer of a pair is taken if more than half of its verdicts call it so much better: "
        "1 slightly, 2 clearly, 3 much; ties count against it",
        minimum=1,
        maximum=3,
    )
    minimum_demonstrations: int = setting(16, "fewer are refused", minimum=2, maximum=1_000_000)

    @property
    def words(self) -> str:
        """The rule as a noun phrase."""
        return _(
            "an answer that a rater wrote, one with a mean score of at least %(score)s, or one that "
            "more than half of its comparisons call %(strength)s"
        ) % {"score": f"{self.minimum_score:g}", "strength": STRENGTHS[self.minimum_strength]}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rating as far as it says something of samples.

    Attributes:
        value: as in ``Rating.verdict``.
        places: of a ranking, the place of each sample by its id.
    """

    rating: UUID
    kind: str
    first: UUID
    second: UUID | None
    value: int
    places: Mapping[str, int] | None = None

    @property
    def score(self) -> int | None:
        """What it says of its one sample; None where it compares several."""
        if self.kind == Comparison.Kind.REWRITE:
            return GOOD_AS_IT_IS if self.value else TO_BE_REWRITTEN
        if self.kind == Comparison.Kind.TURNS:
            return OF_A_TURN[self.value]
        return self.value if self.second is None else None

    @property
    def margins(self) -> Iterator[tuple[UUID, int]]:
        """How much better it calls each sample than the others; in a ranking only the first place is better."""
        if self.places is None:
            assert self.second is not None
            yield from ((self.first, self.value), (self.second, -self.value))
            return
        for sample, place in self.places.items():
            yield UUID(sample), 0 if self.value == 0 else OF_A_RANKING if place == 1 else -OF_A_RANKING


@dataclass(slots=True)
class Votes:
    """What was said of one answer.

    Attributes:
        scores: those of single ratings, 1 to 5; of a rewrite 5 where it was good as it is, 1 where it was not; of the
            last turn of a conversation 4 where it was good, 1 where it was bad.
        margins: how much better than the others each verdict calls it, -3 to 3.
        for_it: the ratings that speak for it: every score, and the verdicts that prefer it as strongly as is asked.
    """

    scores: list[int] = field(default_factory=list)
    margins: list[int] = field(default_factory=list)
    for_it: list[UUID] = field(default_factory=list)


def elect(verdicts: Iterable[Verdict], rules: DemonstrationRules) -> dict[UUID, list[UUID]]:
    """The samples that are good enough, each with the ratings that speak for it.

    One that was scored needs a mean of ``minimum_score``; one that was compared must be better by ``minimum_strength``
    in more than half of its verdicts, of which ties and "both bad" are some. One that was both must be good in both.
    """
    votes: dict[UUID, Votes] = defaultdict(Votes)
    for verdict in verdicts:
        if verdict.score is not None:
            votes[verdict.first].scores.append(verdict.score)
            votes[verdict.first].for_it.append(verdict.rating)
            continue
        for sample, margin in verdict.margins:
            votes[sample].margins.append(margin)
            if margin >= rules.minimum_strength:
                votes[sample].for_it.append(verdict.rating)
    return {sample: found.for_it for sample, found in votes.items() if is_good(found, rules)}


def is_good(votes: Votes, rules: DemonstrationRules) -> bool:
    wins = sum(margin >= rules.minimum_strength for margin in votes.margins)
    is_scored_well = not votes.scores or fmean(votes.scores) >= rules.minimum_score
    return is_scored_well and (not votes.margins or 2 * wins > len(votes.margins))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A demonstration before it is frozen: an answer, and the ratings that speak for it; or what a rater wrote."""

    sample: Sample
    ratings: Sequence[UUID]
    rewrite: WrittenAnswer | None = None  # what stands in the sample's place

    @property
    def record(self) -> Demonstration:
        """As the trainer takes it. The prompt is as it was asked: without whitespace at its end.

        What a rater wrote goes on from the prompt as the answer did: with the same whitespace before its first word.
        """
        prompt, answer = self.sample.prompt.text.rstrip(), self.sample.text
        if self.rewrite is None:
            return Demonstration(prompt, answer, is_cut=self.sample.finish_reason != "end")
        space = answer[: len(answer) - len(answer.lstrip())]
        return Demonstration(prompt, space + self.rewrite.text.lstrip())


def demonstrations(project: Project, rules: DemonstrationRules, sources: list[str] | None = None) -> list[Chosen]:
    """The demonstrations of a project as they stand now, in the order of their samples, then what raters wrote.

    Held-out prompts give none; nor does an answer without words. Of answers with the same words to a prompt one is
    taken. ``sources``: of the ratings, as in a reward model's dataset. Four queries.
    """
    taken = sources_used(project) if sources is None else sources
    return load(elect(read_verdicts(votable(project, taken)), rules)) + written(project, taken)


def written(project: Project, sources: list[str]) -> list[Chosen]:
    """What raters wrote in place of answers to prompts that may be learned from."""
    answers = feedback.demonstrations(project, sources)
    samples = among([answer.sample for answer in answers]).filter(prompt__split=Prompt.Split.TRAIN)
    replaced = samples.select_related("prompt", "checkpoint").defer(*TOKENS).in_bulk()
    return [Chosen(replaced[answer.sample], [answer.rating], answer) for answer in answers if answer.sample in replaced]


def may_fine_tune(project: Project, rules: DemonstrationRules) -> bool:
    """Whether the newest ratings alone choose enough demonstrations; at the same cost in a project of any size."""
    newest = list(read_verdicts(votable(project).order_by("-id")[:LOOKED_AT]))
    rewrites = sum(verdict.kind == Comparison.Kind.REWRITE and not verdict.value for verdict in newest)
    return rewrites + len(elect(newest, rules)) >= rules.minimum_demonstrations


def votable(project: Project, sources: list[str] | None = None) -> QuerySet[Rating]:
    """The usable ratings that say which answer is good, to prompts that may be learned from."""
    taken = sources_used(project) if sources is None else sources
    return Rating.objects.filter(
        ~UNSURE,
        project=project,
        is_current=True,
        source__in=taken,
        comparison__kind__in=VOTED,
        comparison__prompt__split=Prompt.Split.TRAIN,
    )


def read_verdicts(ratings: QuerySet[Rating]) -> Iterable[Verdict]:
    rows = ratings.values_list(
        "id", "comparison__kind", "comparison__first", "comparison__second", "verdict", "details__places"
    )
    return (Verdict(*row) for row in rows.iterator(chunk_size=5000))


def load(elected: dict[UUID, list[UUID]]) -> list[Chosen]:
    """The elected samples with their prompts, those without words and repeated ones left out."""
    samples = among(list(elected)).select_related("prompt", "checkpoint").defer(*TOKENS).order_by("pk")
    found: dict[tuple[UUID, str], Chosen] = {}
    for sample in samples.iterator(chunk_size=1000):
        if sample.text.strip():
            found.setdefault((sample.prompt_id, sample.text_sha256), Chosen(sample, elected[sample.pk]))
    return list(found.values())


def among(samples: list[UUID]) -> QuerySet[Sample]:
    """The samples of these ids, which are one parameter: a statement takes 65,535 at most."""
    return Sample.objects.filter(pk__in=RawSQL("SELECT unnest(%s::uuid[])", [samples]))


@dataclass(frozen=True, slots=True)
class Preview:
    """How many demonstrations a run would learn from now, and some of them, spread evenly over all."""

    count: int
    examples: list[Chosen]


def preview(project: Project, rules: DemonstrationRules, most: int) -> Preview:
    """What ``demonstrations`` would find, counted by the database; ``most`` examples at most are read."""
    taken = sources_used(project)
    elected = elect(read_verdicts(votable(project, taken)), rules)
    with_words = among(list(elected)).annotate(words=BTrim("text", Value(WHITE_SPACE))).exclude(words="")
    once = with_words.order_by("prompt", "text_sha256", "pk").distinct("prompt", "text_sha256").values("pk")
    rewrites = feedback.rewrites_of(project, taken).filter(comparison__prompt__split=Prompt.Split.TRAIN)
    liked, written = once.count(), rewrites.count()
    wanted = examples(range(liked + written), most)
    numbered = Sample.objects.filter(pk__in=once).annotate(number=Window(RowNumber(), order_by="pk"))
    ids = numbered.filter(number__in=[at + 1 for at in wanted if at < liked]).values_list("pk", flat=True)
    answers = [feedback.written_answer(rewrites[at - liked]) for at in wanted if at >= liked]
    shown = among([*ids, *(answer.sample for answer in answers)]).select_related("prompt", "checkpoint")
    samples = shown.defer(*TOKENS).in_bulk()
    return Preview(
        liked + written,
        [Chosen(samples[pk], elected[pk]) for pk in sorted(ids)]
        + [Chosen(samples[answer.sample], [answer.rating], answer) for answer in answers],
    )


def examples(chosen: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them, spread evenly."""
    return list(islice(chosen[:: max(1, len(chosen) // count)], count))
