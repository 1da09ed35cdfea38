"""What raters see and say: samples, comparisons, slots, presentations, ratings, skips and flags."""

import uuid
from collections.abc import Iterable, Sequence
from typing import TypeVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Prefetch, Q, prefetch_related_objects
from django.utils.translation import gettext_lazy

from webapp.ids import uuid7
from webapp.projects.models import Guideline, Project, Prompt, Rule
from webapp.registry.models import Checkpoint, SamplingSettings

T = TypeVar("T")


class Sample(models.Model):
    """Append-only: one response of one checkpoint to one prompt, with all it takes to draw it again."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="samples")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="samples")
    sampling = models.ForeignKey(SamplingSettings, on_delete=models.PROTECT, related_name="+")
    seed = models.BigIntegerField()
    prompt_tokens = ArrayField(models.IntegerField())
    tokens = ArrayField(models.IntegerField())
    text = models.TextField()
    text_sha256 = models.CharField(max_length=64)
    finish_reason = models.CharField(max_length=8, choices=[("end", "end"), ("length", "length")])
    log_prob = models.FloatField(help_text="sum over the tokens, nats")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["prompt", "checkpoint", "sampling", "seed"], name="one_sample_a_seed")
        ]

    def __str__(self) -> str:
        return self.text[:60]


TOKENS = ("prompt_tokens", "tokens")
"""The columns of a sample that weigh most; pages and exports show its text and need none of them."""


class SampleScore(models.Model):
    """Append-only: what a reward model says of a sample, and how sure it is. Raters never see it.

    Both numbers are in units of the model's score: 0 is the mean of its parent policy's responses, 1 their deviation.
    """

    # the constraint below begins with the sample, so its index serves
    sample = models.ForeignKey(Sample, on_delete=models.PROTECT, related_name="scores", db_index=False)
    reward_model = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="scores")
    score = models.FloatField()
    uncertainty = models.FloatField(
        null=True,
        help_text="standard deviation of the score: how far the reward model's members differ, and what its feedback "
        "leaves open in each; null where it is no ensemble",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["sample", "reward_model"], name="one_score_a_reward_model")]

    def __str__(self) -> str:
        return f"{self.score:.2f} for {self.sample_id} by {self.reward_model}"


class NoScore(models.Model):
    """Append-only: a reward model has no score for this sample, however often it is asked, and why."""

    class Reason(models.TextChoices):
        NOT_FINITE = "not_finite"
        TOKENS = "tokens"  # which this reward model does not read

    # the constraint below begins with the sample, so its index serves
    sample = models.ForeignKey(Sample, on_delete=models.PROTECT, related_name="no_scores", db_index=False)
    reward_model = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="no_scores")
    reason = models.CharField(max_length=10, choices=Reason.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["sample", "reward_model"], name="one_no_score_a_reward_model")]

    def __str__(self) -> str:
        return f"{self.reason}: no score for {self.sample_id} by {self.reward_model}"


class ScoreWanted(models.Model):
    """A sample for raters that waits for what a reward model says of it; the row goes with the answer.

    Which reward model, ``ScoreQueue`` says. So what waits is found without a look at all that was scored.
    """

    sample = models.OneToOneField(Sample, primary_key=True, on_delete=models.PROTECT, related_name="wanted")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="+", db_index=False)

    class Meta:
        indexes = [models.Index(fields=["project", "-sample"], name="score_wanted_newest")]

    def __str__(self) -> str:
        return f"a score of {self.sample_id}"


class ScoreQueue(models.Model):
    """The reward model that the rows of ``ScoreWanted`` of a project wait for; who changes them locks this row."""

    project = models.OneToOneField(Project, primary_key=True, on_delete=models.PROTECT, related_name="+")
    reward_model = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")

    def __str__(self) -> str:
        return f"scores by {self.reward_model} in {self.project}"


class Comparison(models.Model):
    """What one rater judges at a time: two samples of one prompt, one alone (``second`` empty), or several to rank.

    ``kind`` is the rating mode (``webapp.feedback.modes``). The samples stand in the order of their ids; those of a
    ranking after the second are rows of ``FurtherSample``.
    """

    class Kind(models.TextChoices):
        PAIR = "pair"
        SINGLE = "single"
        RANKING = "ranking"
        RULE = "rule"
        REWRITE = "rewrite"
        TURNS = "turns"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="comparisons")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    first = models.ForeignKey(Sample, on_delete=models.PROTECT, related_name="first_of")
    second = models.ForeignKey(Sample, null=True, blank=True, on_delete=models.PROTECT, related_name="second_of")
    rule = models.ForeignKey(Rule, null=True, blank=True, on_delete=models.PROTECT, related_name="comparisons")
    priority = models.IntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="rule", rule__isnull=False) | (~Q(kind="rule") & Q(rule__isnull=True)),
                name="a_rule_is_asked_of_a_rule_item",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["single", "rule", "rewrite", "turns"], second__isnull=True)
                | Q(kind__in=["pair", "ranking"], second__isnull=False),
                name="a_pair_has_two_samples",
            ),
            models.CheckConstraint(
                condition=Q(second__isnull=True) | Q(first__lt=F("second")), name="first_id_is_lower"
            ),
            models.UniqueConstraint(
                fields=["project", "kind", "first", "second", "rule"],
                name="one_comparison_a_pair",
                nulls_distinct=False,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.prompt}"

    @property
    def samples(self) -> list[Sample]:
        """All that is judged, in the order of their ids; of a ranking that ``load_rankings`` has seen, no query."""
        two = [self.first] if self.second is None else [self.first, self.second]
        return [*two, *(row.sample for row in self.further.all())] if self.kind == self.Kind.RANKING else two


class FurtherSample(models.Model):
    """Append-only: the third to sixth sample of a ranking."""

    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, related_name="further")
    ordinal = models.PositiveSmallIntegerField(help_text="3 for the third")
    sample = models.ForeignKey(Sample, on_delete=models.PROTECT, related_name="ranked_in")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["comparison", "ordinal"], name="one_sample_an_ordinal"),
            models.UniqueConstraint(fields=["comparison", "sample"], name="a_sample_once_a_ranking"),
            models.CheckConstraint(condition=Q(ordinal__gte=3, ordinal__lte=6), name="ordinal_3_to_6"),
        ]
        ordering = ["ordinal"]

    def __str__(self) -> str:
        return f"sample {self.ordinal} of {self.comparison_id}"


def load_rankings(comparisons: Iterable[Comparison], *, without: Iterable[str] = ()) -> None:
    """Load the samples of the rankings among ``comparisons``: one query, or none where there is no ranking.

    ``without``: columns of the samples that are not read, such as ``TOKENS``.
    """
    rankings = [one for one in comparisons if one.kind == Comparison.Kind.RANKING]
    further = FurtherSample.objects.select_related("sample__checkpoint").defer(*(f"sample__{one}" for one in without))
    prefetch_related_objects(rankings, Prefetch("further", further))


class Slot(models.Model):
    """One wanted rating of a comparison: K wanted are K rows, so an overlap can not be exceeded.

    ``token`` is all that a rater's browser sees. It is drawn afresh at each lease.
    """

    class State(models.TextChoices):
        OPEN = "open"
        LEASED = "leased"
        DONE = "done"
        VOID = "void"

    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, related_name="slots")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="slots")
    ordinal = models.PositiveSmallIntegerField()
    priority = models.IntegerField(default=0)
    state = models.CharField(max_length=6, choices=State.choices, default=State.OPEN)
    rater = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="slots", db_index=False
    )  # slot_of_rater serves instead
    token = models.UUIDField(default=uuid.uuid4, unique=True)
    lease_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["comparison", "ordinal"], name="one_slot_an_ordinal"),
            models.UniqueConstraint(
                fields=["comparison", "rater"], condition=Q(rater__isnull=False), name="one_slot_a_rater"
            ),
            models.CheckConstraint(
                condition=Q(state="open", rater__isnull=True)
                | Q(state="void")
                | Q(state__in=["leased", "done"], rater__isnull=False),
                name="open_means_no_rater",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "-priority", "id"], name="slot_next", condition=Q(state__in=["open", "leased"])
            ),
            # What a rater holds is one or two rows among all that the rater has ever judged.
            models.Index(fields=["rater", "state"], name="slot_of_rater"),
        ]

    def __str__(self) -> str:
        return f"slot {self.ordinal} of {self.comparison_id}: {self.state}"


class Presentation(models.Model):
    """Append-only: a comparison was handed to a rater, in this order, with this guideline.

    ``token`` is the slot's at that time: a rating that arrives late finds its presentation by it. ``shown_at`` alone is
    written later where a page fetches an item ahead: it stays empty until the page says that the item stands there.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slot = models.ForeignKey(Slot, on_delete=models.PROTECT, related_name="presentations")
    rater = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="presentations")
    token = models.UUIDField(unique=True)
    first_is_left = models.BooleanField()
    order = ArrayField(
        models.PositiveSmallIntegerField(), default=list, help_text="of a ranking: which sample stands where, from 0"
    )
    guideline = models.ForeignKey(Guideline, null=True, on_delete=models.PROTECT, related_name="+")
    shown_at = models.DateTimeField(null=True, help_text="empty: fetched ahead, and no page has said that it showed it")

    def __str__(self) -> str:
        return f"presentation {self.token}"

    @property
    def samples(self) -> list[Sample]:
        """The samples in the order in which they were shown."""
        return self.as_they_stood(self.slot.comparison.samples)

    def as_they_stood(self, of_samples: Sequence[T]) -> list[T]:
        """What is known of each sample, in the order of their ids, in the order in which they were shown."""
        if self.order:
            return [of_samples[index] for index in self.order]
        return list(of_samples if self.first_is_left else reversed(of_samples))


class Rating(models.Model):
    """Append-only: a verdict, stored against samples and never against left or right; an edit is a new revision.

    ``verdict`` of a pair: +3, +2, +1 first is much, clearly, slightly better; 0 a tie; negative: second is. Of a single
    answer: the score, 1 to 5. Of a ranking: how many places lie below the best, 0 where all are equal; ``details`` then
    has the place of each sample. Of a rewrite: 0 with the new text in ``details``, or 1: good as it is, perhaps
    with a draft there.
    Of a rule: 1 it is kept, -1 broken, 0 unsure; ``details`` may have passages as evidence.
    Of turns: 1 the last one is good, -1 bad, 0 unsure; ``details`` has the same of each turn, and each is a row of
    ``TurnVerdict``.
    """

    class Source(models.TextChoices):
        HUMAN = "human", gettext_lazy("Human")
        SIMULATED = "simulated", gettext_lazy("Simulated")
        DEMO = "demo", gettext_lazy("Demo")
        AI = "ai", gettext_lazy("AI")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="ratings")
    comparison = models.ForeignKey(
        Comparison, on_delete=models.PROTECT, related_name="ratings", db_index=False
    )  # one_rating_a_revision begins with it, and finds a rater's own at once
    slot = models.ForeignKey(Slot, on_delete=models.PROTECT, related_name="ratings")
    presentation = models.ForeignKey(Presentation, on_delete=models.PROTECT, related_name="ratings")
    rater = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="ratings")
    submission_id = models.UUIDField(help_text="the page's idempotency key")
    revision = models.PositiveSmallIntegerField(default=1)
    is_current = models.BooleanField(default=True, help_text="the latest revision")
    verdict = models.SmallIntegerField()
    both_bad = models.BooleanField(default=False, help_text="all are bad; stored as a tie")
    details = models.JSONField(
        default=dict, help_text="what the verdict's number does not say, by mode; see webapp.feedback.modes"
    )
    flags = ArrayField(models.CharField(max_length=40), default=list, help_text="of the project's list at that time")
    reason = models.TextField(blank=True, default="", help_text="in the rater's own words")
    source = models.CharField(max_length=9, choices=Source.choices, default=Source.HUMAN)
    counts_toward_overlap = models.BooleanField(default=True)
    active_ms = models.PositiveIntegerField(null=True, help_text="from first paint to verdict, as the page measured it")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["rater", "submission_id"], name="one_rating_a_submission"),
            models.UniqueConstraint(fields=["comparison", "rater", "revision"], name="one_rating_a_revision"),
            models.UniqueConstraint(
                fields=["comparison", "rater"], condition=Q(is_current=True), name="one_current_rating_a_rater"
            ),
            models.CheckConstraint(condition=Q(verdict__gte=-3, verdict__lte=5), name="verdict_in_range"),
            models.CheckConstraint(condition=Q(both_bad=False) | Q(verdict=0), name="both_bad_is_a_tie"),
        ]
        indexes = [
            models.Index(fields=["project", "created_at"], name="rating_by_time"),
            # The last ones of a rater, as undo and the rater's own list read them: no other rating is looked at.
            models.Index(
                fields=["rater", "project", "-created_at", "-id"],
                name="rating_of_rater_now",
                condition=Q(is_current=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verdict:+d} on {self.comparison_id}"

    @property
    def quotes(self) -> list[str]:
        """The passages that were marked as evidence; the comparison's sample must be loaded."""
        return [self.comparison.first.text[start:end] for start, end in self.details.get("evidence", [])]


class TurnVerdict(models.Model):
    """Append-only: what a rating says of one turn of the assistant; the last of them is the sample.

    Written with its rating, of which ``details`` says the same.
    """

    rating = models.ForeignKey(Rating, on_delete=models.PROTECT, related_name="turn_verdicts")
    ordinal = models.PositiveSmallIntegerField(help_text="1 for the assistant's first turn")
    verdict = models.SmallIntegerField(help_text="1 good, -1 bad, 0 unsure")
    text_sha256 = models.CharField(max_length=64, help_text="of the turn's text, as the rater was shown it")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["rating", "ordinal"], name="one_verdict_a_turn"),
            models.CheckConstraint(condition=Q(verdict__gte=-1, verdict__lte=1), name="turn_verdict_in_range"),
        ]
        ordering = ["ordinal"]

    def __str__(self) -> str:
        return f"{self.verdict:+d} on turn {self.ordinal} of {self.rating_id}"


class Skip(models.Model):
    """Append-only: a rater passed a comparison by and never gets it again."""

    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, related_name="skips")
    rater = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="skips")
    reason = models.CharField(max_length=20, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["comparison", "rater"], name="one_skip_each")]

    def __str__(self) -> str:
        return f"skip of {self.comparison_id}"


class Report(models.Model):
    """A rater says that an item should not be shown; it is passed by too, and admins decide what becomes of it."""

    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, related_name="reports")
    rater = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reports")
    words = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True)
    settled_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["comparison", "rater"], name="one_report_each")]

    def __str__(self) -> str:
        return f"report of {self.comparison_id}"
