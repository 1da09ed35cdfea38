"""What is judged: projects, who takes part, guideline versions and prompts."""

from collections.abc import Iterable

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.ids import uuid7

SHARES = {
    "pair_percent": gettext_lazy("pair"),
    "ranking_percent": gettext_lazy("ranking"),
    "rule_percent": gettext_lazy("rule"),
    "rewrite_percent": gettext_lazy("rewrite"),
    "turns_percent": gettext_lazy("turns"),
}
"""Fields of ``Project``: how much of what raters judge is of which mode, by its name; the rest is single answers."""


def in_words(shares: Iterable[tuple[str | Promise, int]]) -> str:
    """Shares in percent by name: ``pair 60 %, ranking 40 %``; what has none is left out."""
    return ", ".join(f"{name} {share}\N{NO-BREAK SPACE}%" for name, share in shares if share > 0)


class Project(models.Model):
    """One question put to raters about one policy and its successors."""

    class Choice(models.TextChoices):
        RANDOM = "random", gettext_lazy("whatever waits longest")
        UNCERTAIN = "uncertain", gettext_lazy("the most uncertain")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=60, unique=True)
    question = models.CharField(max_length=200, help_text="what raters are asked of a pair, in one sentence")
    single_question = models.CharField(max_length=200, help_text="what raters are asked of one answer")
    ranking_question = models.CharField(
        max_length=200,
        default="Put the answers in order, best first.",
        help_text="what raters are asked of several answers",
    )
    prompt_label = models.CharField(max_length=60, default="Prompt", help_text="stands before the prompt on the page")
    pair_percent = models.PositiveSmallIntegerField(
        default=80, validators=[MaxValueValidator(100)], help_text="share of pairs; what is left is single answers"
    )
    ranking_percent = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(100)], help_text="share of rankings of several answers"
    )
    ranking_size = models.PositiveSmallIntegerField(
        default=4, validators=[MinValueValidator(2), MaxValueValidator(6)], help_text="answers to a ranking"
    )
    rule_percent = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(100)], help_text="share of answers held against one rule"
    )
    rule_question = models.CharField(
        max_length=200,
        default="Does the answer keep to this rule?",
        help_text="what raters are asked of a rule",
    )
    rewrite_percent = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(100)], help_text="share of answers to be rewritten"
    )
    rewrite_question = models.CharField(
        max_length=200,
        default="Rewrite this answer as you would have given it.",
        help_text="what raters are asked of an answer to be rewritten",
    )
    turns_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(100)],
        help_text="share of conversations of which each turn is judged",
    )
    turns_question = models.CharField(
        max_length=200,
        default="Is each turn of the assistant good?",
        help_text="what raters are asked of the turns of a conversation",
    )
    axes = ArrayField(
        models.CharField(max_length=30), size=5, default=list, blank=True, help_text="of what a single answer is scored"
    )
    flags = ArrayField(
        models.CharField(max_length=40), size=9, default=list, blank=True, help_text="what raters may mark an item with"
    )
    overlap = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(20)], help_text="ratings wanted of each item"
    )
    buffer_target = models.PositiveIntegerField(
        default=40, validators=[MaxValueValidator(5000)], help_text="open slots that the sampler keeps ready"
    )
    choice = models.CharField(
        max_length=9,
        choices=Choice.choices,
        default=Choice.RANDOM,
        help_text="which of the items that wait raters get first",
    )
    lease_minutes = models.PositiveSmallIntegerField(
        default=15, validators=[MinValueValidator(1), MaxValueValidator(1440)]
    )
    use_simulated_ratings = models.BooleanField(
        default=True, help_text="train on ratings of simulated raters too (they are always shown as such)"
    )
    simulated_target = models.PositiveIntegerField(
        default=0, help_text="how many simulated ratings there shall be in all; 0: none were asked for"
    )
    simulated_asked_at = models.DateTimeField(null=True, blank=True)
    is_paused = models.BooleanField(default=False)
    consent = models.TextField(
        blank=True, default="", help_text="what raters agree to on their first visit; empty: they are not asked"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name

    @property
    def mix(self) -> str:
        """The rating modes in use with their shares, in words: ``pair 60 %, ranking 30 %, single answers 10 %``."""
        shares = [(words, getattr(self, name)) for name, words in SHARES.items()]
        return in_words([*shares, (_("single answers"), 100 - sum(share for _words, share in shares))])

    def clean(self) -> None:
        """Refuse shares of the rating modes that add up to more than 100 %."""
        shares = {name: getattr(self, name) for name in SHARES}
        if not all(isinstance(share, int) and share <= 100 for share in shares.values()):
            return  # the field itself says so
        total = sum(shares.values())
        if total > 100:
            said = in_words((SHARES[name], share) for name, share in shares.items())
            raise ValidationError(
                _(
                    "The shares of the rating modes add up to %(total)s %% (%(said)s); 100 %% is all there is. "
                    "Lower one."
                )
                % {"total": total, "said": said}
            )


class Rule(models.Model):
    """Append-only: a sentence that an answer keeps to or breaks; one that is asked no more is not active."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="rules")
    text = models.CharField(max_length=300)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "text"], name="one_rule_a_text")]
        ordering = ["id"]

    def __str__(self) -> str:
        return self.text[:60]


class Membership(models.Model):
    """A person's part in a project."""

    class Role(models.TextChoices):
        RATER = "rater", gettext_lazy("Rater")
        ADMIN = "admin", gettext_lazy("Admin")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="memberships")
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.RATER)
    guideline_read = models.PositiveIntegerField(default=0, help_text="the last guideline version confirmed as read")
    joined_at = models.DateTimeField(auto_now_add=True)
    consented_at = models.DateTimeField(null=True, blank=True)
    practised = models.PositiveSmallIntegerField(default=0, help_text="practice pairs answered")
    welcomed_at = models.DateTimeField(null=True, blank=True, help_text="when the first visit was over")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="one_membership_each")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class Invitation(models.Model):
    """A link by which a new person joins a project; only the SHA-256 of its token is kept."""

    token_sha256 = models.CharField(max_length=64, unique=True)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=8, choices=Membership.Role.choices, default=Membership.Role.RATER)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    uses_left = models.PositiveSmallIntegerField(default=1)

    def __str__(self) -> str:
        return f"invitation to {self.project}"


class Guideline(models.Model):
    """Append-only: one version of what raters are told."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="guidelines")
    version = models.PositiveIntegerField()
    body = models.TextField()
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "version"], name="one_guideline_a_version")]
        ordering = ["-version"]

    def __str__(self) -> str:
        return f"guideline {self.version} of {self.project}"


class Prompt(models.Model):
    """What the policy answers; its split is fixed when it is imported.

    ``text`` is what the policy is given, and ``sha256`` its hash. Of a conversation that is made of ``turns``, as
    ``webapp.projects.conversations`` has it: raters are shown the turns. Other prompts have none.
    """

    class Split(models.TextChoices):
        TRAIN = "train"
        HELD_OUT = "held_out", gettext_lazy("held out")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="prompts")
    text = models.TextField()
    turns = models.JSONField(default=list, blank=True, help_text="role and text of each turn of a conversation")
    sha256 = models.CharField(max_length=64)
    split = models.CharField(max_length=8, choices=Split.choices)
    priority = models.SmallIntegerField(default=0, help_text="higher is sampled first")
    source = models.CharField(max_length=60, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "sha256"], name="one_prompt_a_text")]
        indexes = [models.Index(fields=["project", "split", "-priority"], name="prompt_next")]

    def __str__(self) -> str:
        return self.text[:60]


class PracticePair(models.Model):
    """A pair with a known answer, shown on a rater's first visit and explained; nothing learns from it."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="practice_pairs")
    prompt = models.TextField()
    left = models.TextField(help_text="answer A")
    right = models.TextField(help_text="answer B")
    best = models.CharField(
        max_length=4,
        choices=[
            ("a", gettext_lazy("A is better")),
            ("b", gettext_lazy("B is better")),
            ("tie", gettext_lazy("equal")),
        ],
    )
    explanation = models.TextField(help_text="why, in one or two sentences")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"practice pair of {self.project}"
