"""Takes the pictures of docs/rater-guide.md in a studio of its own: ``python -m tests.house.guide_pictures``."""

import base64
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.browser import chromium
from benchmarks.feedback_project import make_session
from benchmarks.studio import studio

FOLDER = Path(__file__).parents[2] / "docs/pictures"
LARGEST = 60_000  # bytes
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 375, "height": 812}
READY = "#item[aria-busy=false]"
PRACTICE = "#item .said"  # a practice pair, answered or not

PROMPT = "My wife fell asleep, my son left the room, and I sat there until the very end because"
ANSWERS = (
    "somebody in that family had to find out who stole the boat. It was the uncle. It is always the uncle, but the way "
    "he folds his napkin when he is found out is worth the two hours.",
    "I was sitting there. The film is a film, and the end was the end of the film. I have to say that I sat there and "
    "it was the film.",
    "the remote had slipped behind the sofa. There is a good half hour in the middle, when the sisters speak at last, "
    "and a poor hour on either side of it.",
    "I had paid for it. A slow film about slow people, and proud of it.",
)
TURN = "Because of salmonella: the yolk must be hot all through before it is gone."
REWRITTEN = "the remote had slipped behind the sofa. What I saw was a good half hour between two poor ones."


@dataclass(frozen=True)
class Picture:
    """One picture: what stands on the page, the keys that are pressed before it is taken, and where it is seen."""

    name: str
    kind: str = "pair"  # a rating mode
    answers: int = 2
    keys: Sequence[str] = ()
    typed: str = ""  # after the keys
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the project
    has_first_visit: bool = False
    wait_for: str = READY
    size: Mapping[str, int] = field(default_factory=lambda: DESKTOP)


AXES = {"axes": ["helpful", "truthful", "harmless"]}
PICTURES = (
    Picture("welcome", has_first_visit=True, wait_for="#agree"),
    Picture("practice", has_first_visit=True, keys=["Enter", "1"], wait_for="#next"),
    Picture("pair"),
    Picture("single", kind="single", answers=1),
    Picture("axes", kind="single", answers=1, settings=AXES, keys=["4", "5"]),
    Picture("ranking", kind="ranking", answers=4, keys=["3", "1"]),
    Picture("rule", kind="rule", answers=1, keys=["m", "ArrowRight", "Enter"]),
    Picture("turns", kind="turns", answers=1, keys=["1"], settings={"prompt_label": "The conversation"}),
    Picture("rewrite", kind="rewrite", answers=1, keys=["e", "Control+a"], typed=REWRITTEN),
    Picture("flags", settings={"flags": ["spam", "personal data", "harmful"]}, keys=["x", "2"]),
    Picture("reason", keys=["r"], typed="The other one repeats itself and tells nothing of the film."),
    Picture("differences", keys=["d"]),
    Picture("guideline", keys=["g"]),
    Picture("keys", keys=["?"]),
    Picture("paused", keys=["p"], wait_for="#go-on"),
    Picture("phone-pair", size=PHONE),
    Picture("phone-ranking", kind="ranking", answers=4, keys=["3", "1"], size=PHONE),
)
"""All of them; each mode of ``webapp.feedback.modes`` has one."""


def prepare(picture: Picture) -> tuple[str, str]:
    """The project that a picture is taken of and a rater's session; its slug and the session's key."""
    from demo.practice import CONSENT, practice_pairs
    from tests.conversations import conversation
    from tests.studio import open_studio
    from webapp.accounts.models import User
    from webapp.feedback.filling import make_items
    from webapp.projects.models import Membership, PracticePair, Rule

    made = open_studio(slug=f"guide-{picture.name}")
    rater = User.objects.filter(username="ada").first() or made.add_rater("ada")
    Membership.objects.get_or_create(project=made.project, user=rater)
    for name, value in picture.settings.items():
        setattr(made.project, name, value)
    if picture.has_first_visit:
        made.project.consent = CONSENT
        for pair in practice_pairs():
            PracticePair.objects.create(project=made.project, **pair)
    made.project.save()
    made.project.memberships.update(guideline_read=1)
    if picture.kind == "rule":
        Rule.objects.create(project=made.project, text="It gives a reason for its verdict.")
    if picture.kind == "turns":
        prompt = conversation(made.project)
        samples = made.add_samples(prompt.text, TURN)
        make_items(project=made.project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: "turns"})
    else:
        made.add_item(PROMPT, *ANSWERS[: picture.answers], kind=picture.kind)
    return made.project.slug, make_session(rater)


def take(browser: Any, url: str, picture: Picture) -> bytes:
    """The picture as WebP."""
    slug, session = prepare(picture)
    context = browser.new_context(viewport=dict(picture.size), reduced_motion="reduce")
    context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    page = context.new_page()
    page.goto(f"{url}/p/{slug}/rate/")
    page.wait_for_selector("#agree" if picture.has_first_visit else READY)
    for key in picture.keys:
        page.keyboard.press(key)
        if picture.has_first_visit:
            page.wait_for_selector(PRACTICE)
    page.keyboard.type(picture.typed)
    page.wait_for_selector(picture.wait_for)
    page.wait_for_timeout(300)  # a colour that fades
    shot = context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": 60})
    context.close()
    return base64.b64decode(shot["data"])


def main() -> int:
    """Write all pictures, or those that are named; the exit code is 1 where one is too large."""
    wanted = sys.argv[1:] or [picture.name for picture in PICTURES]
    too_large = []
    with studio() as url, chromium() as browser:
        for picture in PICTURES:
            if picture.name in wanted:
                taken = take(browser, url, picture)
                (FOLDER / f"rate-{picture.name}.webp").write_bytes(taken)
                print(f"rate-{picture.name}.webp: {len(taken):,} bytes")
                too_large += [picture.name] if len(taken) > LARGEST else []
    if too_large:
        print(f"larger than {LARGEST:,} bytes: {', '.join(too_large)}", file=sys.stderr)
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
