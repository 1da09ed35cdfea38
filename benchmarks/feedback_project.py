"""Projects with items of any rating mode ready to be judged, and raters who are logged in; the benchmarks' own."""

import json
from collections.abc import Sequence
from typing import Any

SAMPLES_OF = {"pair": 2, "ranking": 4}
"""How many answers an item of a mode has; of a mode that is not named, one."""
RULES = ("It says what the film is like.", "It names nobody.")


def make_project(slug: str, *, items: int, overlap: int, kinds: Sequence[str] = ("pair",), **settings: Any) -> Any:
    """A project with ``items`` items of plain texts ready to rate, their modes by turns those of ``kinds``.

    Where ``turns`` is one of them, the prompts are conversations of three turns.

    Args:
        settings: of the project, such as ``axes`` and ``flags``.
    """
    from rlhf_core.config import SamplingConfig
    from webapp.accounts.services import ensure_admin
    from webapp.feedback.services import NewSample, make_items, record_samples
    from webapp.projects.models import Prompt
    from webapp.projects.services import create_project, import_prompts, update_modes
    from webapp.registry.services import record_checkpoint, sampling_settings

    admin = ensure_admin()
    project = create_project(
        actor=admin, name=slug, slug=slug, question="Which is better?", single_question="How good is it?"
    )
    update_modes(actor=admin, project=project, rules=RULES, overlap=overlap, buffer_target=0, **settings)
    asked = [f"Prompt number {number}, of a benchmark" for number in range(items)]
    lines = "\n".join(conversation_line(text) for text in asked) if "turns" in kinds else "\n".join(asked)
    form = "jsonl" if "turns" in kinds else "text"
    import_prompts(actor=admin, project=project, text=lines, format=form, held_out_percent=0, source="benchmark")
    checkpoint = record_checkpoint(project=project, kind="policy", sha256="0" * 64, parent=None, metrics={})
    prompts = list(Prompt.objects.filter(project=project).order_by("id"))
    kind_of = {prompt.pk: kinds[number % len(kinds)] for number, prompt in enumerate(prompts)}
    drawn = [
        NewSample(prompt.pk, seed, [1], [5, 6, 2], f"Answer {seed} to {text}. " * 12, "end", -3.0)
        for prompt, text in zip(prompts, asked, strict=True)
        for seed in range(SAMPLES_OF.get(kind_of[prompt.pk], 1))
    ]
    rows = record_samples(checkpoint=checkpoint, sampling=sampling_settings(SamplingConfig()), samples=drawn)
    by_prompt: dict[Any, list[Any]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_id, []).append(row)
    make_items(project=project, samples_by_prompt=by_prompt, kinds=kind_of)
    return project


def conversation_line(text: str) -> str:
    """A line of JSON with a conversation that ends with ``text``."""
    turns = (("user", "Are you there?"), ("assistant", "Yes."), ("user", text))
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def make_sessions(project: Any, count: int) -> list[str]:
    """Raters of the project, each with a session of their own."""
    from webapp.accounts.models import User
    from webapp.projects.models import Membership

    keys = []
    for number in range(count):
        user = User.objects.create(username=f"{project.slug}-{number}")
        user.set_unusable_password()
        user.save()
        Membership.objects.create(project=project, user=user)
        keys.append(make_session(user))
    return keys


def make_session(user: Any) -> str:
    """The key of a session in which ``user`` is logged in."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def end_first_visit(project: Any, user: Any) -> None:
    """Agree to what a project asks of ``user``, if it does, and practise all of its pairs."""
    from webapp.projects import welcome

    welcome.consent_to(user=user, project=project)
    while (pair := welcome.next_pair(user, project)[0]) is not None:
        welcome.practise(user=user, project=project, pair=pair)
