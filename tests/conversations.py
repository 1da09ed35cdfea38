"""Conversations for tests: five turns, of which the assistant's two and the answer that is drawn are judged."""

import json
from collections.abc import Sequence

from webapp.feedback.models import Comparison
from webapp.projects.models import Project, Prompt
from webapp.projects.services import import_prompts

FIVE = (
    ("user", "How do I boil an egg?"),
    ("assistant", "Put it in **boiling** water for 8 minutes."),
    ("user", "And a soft one?"),
    ("assistant", "Never eat soft eggs."),
    ("user", "Why not?"),
)
TEXT = """User: How do I boil an egg?
Assistant: Put it in **boiling** water for 8 minutes.
User: And a soft one?
Assistant: Never eat soft eggs.
User: Why not?
Assistant:"""


def line_of(turns: Sequence[tuple[str, str]], **more: object) -> str:
    """A line of a file of prompts."""
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns], **more}) + "\n"


def conversation(project: Project, turns: Sequence[tuple[str, str]] = FIVE) -> Prompt:
    """A prompt of several turns, imported."""
    import_prompts(actor=None, project=project, text=line_of(turns), held_out_percent=0)
    return Prompt.objects.filter(project=project).latest("id")


def turns_in_order(item: Comparison) -> list[str]:
    """What the assistant says in an item, the answer last."""
    return [*(turn["text"] for turn in item.prompt.turns if turn["role"] == "assistant"), item.first.text]
