"""What a rater of the demo project agrees to, and the practice pairs of the first visit; all of it written by us."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent
CONSENT = (FOLDER / "consent.md").read_text(encoding="utf-8")


def practice_pairs() -> list[dict[str, str]]:
    """Prompt, left and right answer, which is best (a, b or tie), and the explanation of each pair."""
    pairs: list[dict[str, str]] = json.loads((FOLDER / "practice.json").read_text(encoding="utf-8"))
    return pairs
