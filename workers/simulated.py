"""Simulated raters: they like kind words about films, they are not always sure, and they press the same keys as people.

They see what a rater sees, nothing more. A pair is decided as Bradley and Terry have it: the difference of the two
answers' worth plus logistic noise, whose size is the rater's own. Their ratings are stored as simulated.
"""

import math
import random
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from webapp.accounts.models import User
from webapp.accounts.services import ensure_simulated_rater
from webapp.feedback import selectors, services
from webapp.feedback.selectors import ShownItem
from webapp.projects.models import Membership, Project
from webapp.runs.selectors import projects_to_simulate, simulating
from workers.locks import try_lock
from workers.refilling import refill

# Written for this project; a word counts in the forms listed.
PRAISE = {
    "good": 1.0, "great": 1.5, "best": 1.5, "better": 0.5, "excellent": 2.0, "wonderful": 2.0, "brilliant": 2.0,
    "superb": 2.0, "perfect": 2.0, "perfectly": 1.5, "masterpiece": 2.5, "amazing": 1.5, "fantastic": 2.0,
    "beautiful": 1.5, "beautifully": 1.5, "lovely": 1.5, "love": 1.0, "loved": 1.5, "loves": 0.5, "enjoy": 1.0,
    "enjoyed": 1.5, "enjoyable": 1.5, "fun": 1.0, "funny": 1.0, "hilarious": 1.5, "charming": 1.5, "charm": 1.0,
    "moving": 1.0, "touching": 1.5, "gripping": 1.5, "memorable": 1.5, "favorite": 1.5, "favourite": 1.5,
    "recommend": 1.5, "recommended": 1.5, "impressive": 1.5, "strong": 0.5, "solid": 0.5, "clever": 1.0, "smart": 1.0,
    "delightful": 2.0, "fascinating": 1.5, "fresh": 1.0, "powerful": 1.0, "outstanding": 2.0, "classic": 1.0,
    "interesting": 0.5, "nice": 0.5, "well": 0.5, "liked": 1.0, "like": 0.2, "worth": 0.5, "heart": 0.5, "gem": 1.5,
}  # fmt: skip
BLAME = {
    "bad": 1.0, "worse": 1.0, "worst": 2.0, "awful": 2.0, "terrible": 2.0, "horrible": 2.0, "poor": 1.0, "poorly": 1.5,
    "boring": 1.5, "bored": 1.5, "dull": 1.5, "stupid": 1.5, "waste": 2.0, "wasted": 1.5, "wasting": 1.5, "lame": 1.5,
    "ridiculous": 1.0, "annoying": 1.5, "disappointing": 1.5, "disappointed": 1.5, "disappointment": 1.5, "mess": 1.5,
    "pointless": 2.0, "weak": 1.0, "silly": 0.5, "cheap": 1.0, "cheesy": 0.5, "predictable": 1.0, "hate": 1.5,
    "hated": 1.5, "fails": 1.0, "failed": 1.0, "failure": 1.5, "crap": 2.0, "garbage": 2.0, "trash": 1.5,
    "unwatchable": 2.5, "slow": 0.5, "avoid": 1.5, "badly": 1.5, "painful": 1.5, "sad": 0.2,
    "unfortunately": 1.0, "unfunny": 1.5, "wooden": 1.0, "clumsy": 1.0, "mediocre": 1.0,
    "forgettable": 1.0, "rubbish": 2.0, "nothing": 0.5, "problem": 0.5,
}  # fmt: skip
DENIALS = {"not", "no", "never", "hardly", "isn't", "wasn't", "don't", "didn't", "doesn't", "nor", "without", "can't"}
DENIAL_REACH = 3  # words after a denial that it turns round, by half

RATERS = (("simulated-1", 2.0), ("simulated-2", 1.5), ("simulated-3", 1.0), ("simulated-4", 0.7))
"""User names and how sure of their taste they are: the factor before a difference in worth."""
JUDGED = ("pair", "single", "ranking", "turns")
"""The rating modes that a taste suffices for."""
SLICE_SECONDS = 10.0  # they make room for others so often
MOST_PROJECTS = 6  # in one go: well within the time limit of a task
PAIR_STEPS = (0.25, 1.0, 2.5)  # a noisy difference below these is a tie, slightly, clearly better; above: much better


@dataclass(frozen=True)
class SimulatedRater:
    """A taste with noise; ``certainty`` multiplies every difference in worth."""

    user: User
    certainty: float
    chance: random.Random

    def choose(self, item: ShownItem) -> str:
        """The key to press for what is shown."""
        if item.kind == "ranking":
            return self.rank(item.answers)
        if item.kind == "turns":
            return ",".join(self.call(text) for text in item.replies)
        left = worth(item.left_text)
        if item.right_text is None:
            return str(min(5, max(1, round(3 + 0.8 * left + self.noise() / (2 * self.certainty)))))
        right = worth(item.right_text)
        if max(left, right) < -2.0 and self.chance.random() < 0.5:
            return "0"
        difference = self.certainty * (left - right) + self.noise()
        steps = sum(abs(difference) >= step for step in PAIR_STEPS)  # 0 a tie ... 3 much better
        return str(4 - steps if difference > 0 else 4 + steps)

    def call(self, text: str) -> str:
        """The key for one turn: good where its noisy worth is above 0, bad below, unsure where it is as good as 0."""
        felt = self.certainty * worth(text) + self.noise()
        return "3" if abs(felt) < PAIR_STEPS[0] else "1" if felt > 0 else "2"

    def rank(self, answers: Sequence[str]) -> str:
        """The places of several answers, by worth plus noise: a draw of the model of Plackett and Luce."""
        worths = [
            self.certainty * worth(text) - math.log(-math.log(self.uniform())) for text in answers
        ]  # Gumbel noise
        order = sorted(worths, reverse=True)
        return ",".join(str(order.index(one) + 1) for one in worths)

    def uniform(self) -> float:
        """An even draw between 0 and 1, neither of which it is."""
        return min(max(self.chance.random(), 1e-9), 1 - 1e-9)

    def noise(self) -> float:
        """A draw of the standard logistic distribution."""
        return logistic_noise(self.uniform())


def logistic_noise(uniform: float) -> float:
    """A draw of the standard logistic distribution from ``uniform``, one that is even between 0 and 1 and neither.

    Added to a difference in worth, it makes choices as Bradley and Terry (1952) have them.
    """
    return math.log(uniform / (1 - uniform))


def worth(text: str) -> float:
    """How much a text praises: kind words less unkind ones, a denied word the other way by half; about -4 to 4."""
    total, denied_until = 0.0, -1
    words = re.findall(r"[a-z]+(?:['\u2019][a-z]+)?", text.lower())
    for index, word in enumerate(word.replace("\u2019", "'") for word in words):
        if word in DENIALS:
            denied_until = index + DENIAL_REACH
            continue
        value = PRAISE.get(word, 0.0) - BLAME.get(word, 0.0)
        total += -0.5 * value if index <= denied_until else value
    return 4.0 * math.tanh(total / 4.0)  # the tenth kind word adds little


def simulated_raters(project: Project) -> list[SimulatedRater]:
    """The four, made and let into the project where they are missing; nobody can log in as one of them."""
    raters = []
    for username, certainty in RATERS:
        user = ensure_simulated_rater(username=username)
        if not user.is_simulated:
            raise ValueError(f"the name {username!r} belongs to a person: rename that account first")
        Membership.objects.get_or_create(project=project, user=user)
        raters.append(SimulatedRater(user, certainty, random.Random()))
    return raters


def give_ratings(project_id: UUID, count: int, *, seconds: float) -> int:
    """Let the simulated raters in turn give up to ``count`` ratings, for about ``seconds``; the number given.

    Fills the queue as needed.
    """
    project = Project.objects.get(pk=project_id)
    given = 0
    raters = simulated_raters(project)
    random.shuffle(raters)
    end = time.monotonic() + seconds
    while given < count and time.monotonic() < end:
        rated = 0
        for rater in raters[: count - given]:
            rated += rate_one(rater, project)
        given += rated
        if not rated and not refill(project_id):
            break
    return given


def go_on(project_id: UUID) -> int:
    """Give some seconds' worth of the ratings that were asked for and are missing; the number given.

    Called twice, or after a worker was killed, it gives what is missing then and no more.
    """
    with try_lock(f"workers.simulated {project_id}") as had:
        found = simulating(Project.objects.get(pk=project_id), 0) if had else None
        return give_ratings(project_id, found.missing, seconds=SLICE_SECONDS) if found else 0


def go_on_everywhere() -> int:
    """``go_on`` in each project in which simulated ratings are missing; the number given."""
    projects = list(projects_to_simulate().values_list("pk", flat=True))
    random.shuffle(projects)
    return sum(go_on(project_id) for project_id in projects[:MOST_PROJECTS])


def rate_one(rater: SimulatedRater, project: Project) -> bool:
    """Judge the rater's next item; says whether there was one."""
    item = next_item(rater, project)
    if item is None:
        return False
    services.submit(
        rater=rater.user,
        project=project,
        token=item.token,
        submission_id=uuid.uuid4(),
        choice=rater.choose(item),
        source="simulated",
    )
    return True


def next_item(rater: SimulatedRater, project: Project) -> ShownItem | None:
    """What the rater judges next; what takes more than a taste, such as writing, is passed by for others."""
    while presentation := services.claim(rater=rater.user, project=project):
        item = selectors.shown(presentation, project)
        if item.kind in JUDGED:
            return item
        services.skip(rater=rater.user, project=project, token=item.token, reason="expertise")
    return None
