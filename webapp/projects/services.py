"""What changes projects: settings, members, guidelines and prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from webapp.accounts.models import User
from webapp.accounts.services import create_user, hash_password, record_audit
from webapp.accounts.tokens import hash_token, new_token
from webapp.errors import InvitationInvalid, SettingsRefused
from webapp.ids import sha256_of
from webapp.projects.models import Guideline, Invitation, Membership, Project, Prompt, Rule
from webapp.projects.prompt_files import read_prompts, stream_of

RULE_LENGTH = 300  # characters
BATCH = 1000  # prompts written at once
EDITABLE = (
    "name",
    "question",
    "single_question",
    "prompt_label",
    "pair_percent",
    "overlap",
    "buffer_target",
    "choice",
    "lease_minutes",
    "use_simulated_ratings",
    "is_paused",
    "ranking_question",
    "ranking_percent",
    "ranking_size",
    "rule_percent",
    "rule_question",
    "rewrite_percent",
    "rewrite_question",
    "turns_percent",
    "turns_question",
    "axes",
    "flags",
    "consent",
)
"""What an admin may change of a project; its slug stays, since links point to it."""


def create_project(
    *,
    actor: User,
    name: str,
    slug: str,
    question: str,
    single_question: str,
    prompt_label: str = "Prompt",
    pair_percent: int = 80,
    overlap: int = 1,
    buffer_target: int = 40,
    lease_minutes: int = 15,
    use_simulated_ratings: bool = True,
    guideline_body: str = "",
) -> Project:
    """A new project, with ``actor`` as its admin and, where there is a text, guideline version 1.

    Raises:
        SettingsRefused: a value is not permitted, or the slug is taken.
    """
    project = Project(
        name=name,
        slug=slug,
        question=question,
        single_question=single_question,
        prompt_label=prompt_label,
        pair_percent=pair_percent,
        overlap=overlap,
        buffer_target=buffer_target,
        lease_minutes=lease_minutes,
        use_simulated_ratings=use_simulated_ratings,
    )
    with transaction.atomic():
        check(project)
        project.save(force_insert=True)
        Membership.objects.create(project=project, user=actor, role=Membership.Role.ADMIN)
        record_audit(actor=actor, action="project.create", target=slug)
        if guideline_body.strip():
            save_guideline(actor=actor, project=project, body=guideline_body)
    return project


def update_project(*, actor: User, project: Project, **fields: Any) -> Project:
    """Change settings of a project (those in EDITABLE); what was changed from what to what goes into the audit.

    Raises:
        SettingsRefused: a value is not permitted, or a setting cannot be changed.
    """
    unknown = set(fields) - set(EDITABLE)
    if unknown:
        raise SettingsRefused({name: [_("This cannot be changed.")] for name in sorted(unknown)})
    with transaction.atomic():
        before = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        changes = {name: [getattr(before, name), value] for name, value in fields.items()}
        changes = {name: pair for name, pair in changes.items() if pair[0] != pair[1]}
        for name, value in fields.items():
            setattr(project, name, value)
        check(project)
        if changes:
            project.save(update_fields=list(changes))
            record_audit(actor=actor, action="project.update", target=project.slug, changes=changes)
    return project


def update_modes(*, actor: User, project: Project, rules: Sequence[str], **fields: Any) -> Project:
    """Change rating modes: settings as in ``update_project``, and the list of rules, together or not at all.

    A rule that is not in ``rules`` is asked no more; what was said of it stays. One that comes again is the same rule.

    Raises:
        SettingsRefused: a value is not permitted, or rules shall be asked and there is none.
    """
    texts = [" ".join(text.split()) for text in rules]
    if any(not text or len(text) > RULE_LENGTH or "\0" in text for text in texts):
        said = ngettext("A rule has 1 to %(most)s character.", "A rule has 1 to %(most)s characters.", RULE_LENGTH)
        raise SettingsRefused({"rules": [said % {"most": RULE_LENGTH}]})
    if not texts and fields.get("rule_percent", project.rule_percent):
        raise SettingsRefused({"rules": [_("Rules shall be asked: write one at least, or set their share to 0.")]})
    with transaction.atomic():
        project = update_project(actor=actor, project=project, **fields)
        active = set(project.rules.filter(is_active=True).values_list("text", flat=True))
        if active != set(texts):
            Rule.objects.bulk_create([Rule(project=project, text=text) for text in texts], ignore_conflicts=True)
            project.rules.filter(text__in=texts).update(is_active=True)
            project.rules.exclude(text__in=texts).update(is_active=False)
            record_audit(
                actor=actor,
                action="rules.save",
                target=project.slug,
                added=sorted(set(texts) - active),
                removed=sorted(active - set(texts)),
            )
    return project


def check(project: Project) -> None:
    """Raise SettingsRefused where a field of ``project`` is not permitted."""
    try:
        project.full_clean()
    except ValidationError as error:
        raise SettingsRefused(error.message_dict) from error


# --- Members ---------------------------------------------------------------------------------------------------------


def create_invitation(
    *,
    actor: User,
    project: Project,
    role: str = Membership.Role.RATER,
    valid_for: timedelta = timedelta(days=7),
    uses: int = 1,
) -> str:
    """A token by which ``uses`` people can join as ``role`` within ``valid_for``. It is told only here."""
    if role not in Membership.Role.values:
        raise SettingsRefused({"role": [_("It is one of %(roles)s.") % {"roles": ", ".join(Membership.Role.values)}]})
    if not 1 <= uses <= 1000:
        raise SettingsRefused({"uses": [_("An invitation serves 1 to 1000 people.")]})
    token = new_token()
    with transaction.atomic():
        Invitation.objects.create(
            token_sha256=hash_token(token),
            project=project,
            role=role,
            created_by=actor,
            expires_at=Now() + valid_for,
            uses_left=uses,
        )
        record_audit(actor=actor, action="invitation.create", target=project.slug, role=role, uses=uses)
    return token


def accept_invitation(*, token: str, username: str, password: str) -> User:
    """A new person, who joins the project that the invitation names.

    Raises:
        InvitationInvalid: unknown, used up or out of date; nobody was added then.
        NameTaken, NameRefused, PasswordRefused: the name or password cannot be had; no use was spent then.
    """
    if not open_invitations_with(token).exists():
        raise InvitationInvalid  # before the password is hashed, which is slow on purpose
    password_hash = hash_password(username=username, password=password)
    with transaction.atomic():
        user = create_user(username=username, password_hash=password_hash)
        join_with_invitation(token=token, user=user)
    return user


def join_with_invitation(*, token: str, user: User) -> Membership:
    """Let ``user`` join the project that the invitation names; who is a member already spends no use of it.

    An invitation as admin makes a rater an admin; one as rater changes nothing for an admin.

    Raises:
        InvitationInvalid: unknown, used up or out of date.
    """
    with transaction.atomic():
        invitation = open_invitations_with(token).select_for_update().select_related(None).first()
        if invitation is None:
            raise InvitationInvalid
        membership, joined = Membership.objects.get_or_create(
            project_id=invitation.project_id, user=user, defaults={"role": invitation.role}
        )
        rises = invitation.role == Membership.Role.ADMIN and membership.role != Membership.Role.ADMIN
        if rises:
            membership.role = invitation.role
            membership.save(update_fields=["role"])
        if joined or rises:
            Invitation.objects.filter(pk=invitation.pk).update(uses_left=F("uses_left") - 1)
            record_audit(actor=user, action="project.join", target=membership.project.slug, role=membership.role)
    return membership


def withdraw_invitation(*, actor: User, project: Project, invitation: int) -> bool:
    """Let an invitation be over now; False where it was used up, out of date or withdrawn before, or never there.

    Who has joined by it stays. Whoever is just joining is in or out, never half: both wait for the row.
    """
    with transaction.atomic():
        is_open = Invitation.objects.filter(project=project, uses_left__gt=0, expires_at__gt=Now())
        found = is_open.select_for_update().filter(pk=invitation).first()
        if found is None:
            return False
        Invitation.objects.filter(pk=found.pk).update(expires_at=Now())
        record_audit(
            actor=actor,
            action="invitation.withdraw",
            target=project.slug,
            invitation=found.pk,
            role=found.role,
            uses_left=found.uses_left,
        )
    return True


def open_invitations_with(token: str) -> QuerySet[Invitation]:
    """The invitation of ``token`` as a query, empty where it cannot be used (any more)."""
    return Invitation.objects.filter(token_sha256=hash_token(token), uses_left__gt=0, expires_at__gt=Now())


def confirm_guideline(*, user: User, project: Project, version: int) -> None:
    """Note that a member has read the guideline up to ``version``."""
    Membership.objects.filter(project=project, user=user, guideline_read__lt=version).update(guideline_read=version)


# --- Guidelines ------------------------------------------------------------------------------------------------------


def save_guideline(*, actor: User, project: Project, body: str) -> Guideline:
    """The next version of what raters are told; the version there is where the text did not change."""
    body = body.replace("\r\n", "\n").strip()
    if not body:
        raise SettingsRefused({"body": [_("The guideline is empty.")]})
    if "\0" in body:
        raise SettingsRefused({"body": [_("The guideline has a NUL character, which cannot be stored.")]})
    sha256 = sha256_of(body)
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # two editors: one version after the other
        current = project.guidelines.order_by("-version").first()
        if current and current.sha256 == sha256:
            return current
        version = current.version + 1 if current else 1
        guideline = Guideline.objects.create(project=project, version=version, body=body, sha256=sha256)
        record_audit(actor=actor, action="guideline.save", target=project.slug, version=version)
    return guideline


# --- Prompts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of an import: rows made, and lines whose text was there already or came twice.

    ``reprioritised``: prompts that were there and got another priority. ``without_turns``: conversations whose text is
    there as plain text, and stays so.
    """

    created: int
    duplicates: int
    reprioritised: int = 0
    without_turns: int = 0


def import_prompts(
    *,
    actor: User | None,
    project: Project,
    stream: BinaryIO | None = None,
    text: str | None = None,
    format: str = "jsonl",
    held_out_percent: int = 20,
    source: str = "",
) -> ImportReport:
    """Add the prompts of a file or of pasted text: all of them or, if any line is not right, none.

    Whether a prompt is held out follows from its text alone, so the same text falls on the same side in every import
    with the same ``held_out_percent``; a prompt that is there already stays as it is, but for its priority where its
    line has one. Priorities hold for items made from now on.

    Raises:
        ImportRefused: its ``errors`` name each faulty line.
    """
    if (stream is None) == (text is None):
        raise ValueError("give one of stream and text")
    if not 0 <= held_out_percent <= 100:
        raise SettingsRefused({"held_out_percent": [_("It is a share, 0 to 100.")]})
    found = read_prompts(stream if stream is not None else stream_of(text or ""), format)
    by_hash = {sha256_of(prompt.text): prompt for prompt in found}
    conversations = {sha256_of(prompt.text) for prompt in found if prompt.turns}
    lines = list(by_hash.items())
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # two imports: one after the other
        created = reprioritised = without_turns = 0
        for start in range(0, len(lines), BATCH):  # the database ends a transaction that hears nothing for long
            some = dict(lines[start : start + BATCH])
            known = {prompt.sha256: prompt for prompt in Prompt.objects.filter(project=project, sha256__in=some)}
            rows = [
                Prompt(
                    project=project,
                    text=prompt.text,
                    turns=list(prompt.turns),
                    sha256=sha256,
                    split=split_of(sha256, held_out_percent),
                    priority=prompt.priority or 0,
                    source=source[:60],
                )
                for sha256, prompt in some.items()
                if sha256 not in known
            ]
            created += len(Prompt.objects.bulk_create(rows))
            without_turns += sum(not known.get(key, some[key]).turns for key in conversations & some.keys())
            moved = []
            for sha256, old in known.items():
                priority = some[sha256].priority
                if priority is not None and priority != old.priority:
                    old.priority = priority
                    moved.append(old)
            Prompt.objects.bulk_update(moved, ["priority"])
            reprioritised += len(moved)
        report = ImportReport(created, len(found) - created, reprioritised, without_turns)
        record_audit(
            actor=actor,
            action="prompts.import",
            target=project.slug,
            created=report.created,
            duplicates=report.duplicates,
            reprioritised=report.reprioritised,
            source=source[:60],
        )
    return report


def split_of(sha256: str, held_out_percent: int) -> str:
    """Held out or to train on, by the first 32 bits of the text's hash."""
    return Prompt.Split.HELD_OUT if int(sha256[:8], 16) % 100 < held_out_percent else Prompt.Split.TRAIN
