"""Simulated raters at work: each comes in by a link, joins the project, and rates page by page, all at once."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from webapp.accounts.models import User
from webapp.accounts.services import create_login_link, ensure_simulated_rater
from workers.simulation.browser import Browser, BrowserError, Form, Item
from workers.simulation.choices import Rater

NAME = "simulated-guest-{}"
LOOK_SECONDS = 0.5  # between two looks at an empty queue
PATIENCE_SECONDS = 180.0  # with an empty queue, after which they give up
JUDGED = ("pair", "single", "ranking")
"""The rating modes that a taste suffices for."""


def come_in(browser: Browser, user: User) -> None:
    """Log in with a one-time link, as a person does: open it, press the button."""
    page = browser.get(f"/link/{create_login_link(user=user)}/")
    browser.send(page.form(), page)


def enrol(url: str, admin: Browser, project_slug: str, number: int) -> list[Browser]:
    """Browsers of ``number`` simulated raters who are logged in and members of the project.

    The admin makes the invitation on the raters' page; each rater opens it and joins.
    """
    page = admin.get(f"/p/{project_slug}/raters/")
    invitation = admin.get(admin.send(page.form("role", "uses"), page, role="rater", uses=str(number))).link
    if not invitation:
        raise BrowserError(f"{page.url} shows no invitation link after one was made")
    browsers = []
    for ordinal in range(1, number + 1):
        user = ensure_simulated_rater(username=NAME.format(ordinal))
        if not user.is_simulated:
            raise BrowserError(f"the name {user.username!r} belongs to a person: rename that account first")
        browser = Browser(url)
        come_in(browser, user)
        page = browser.get(invitation)
        browser.send(page.form(), page)  # the page that it leads to would take an item already
        browsers.append(browser)
    return browsers


class Shift:
    """Some raters give a number of ratings together.

    Args:
        browsers: of the raters, logged in.
        raters: what each of them likes, in the same order.
        address: of the rater page.
        wanted: ratings in all.
        tell: called now and then with the number given so far.
    """

    def __init__(
        self,
        browsers: Sequence[Browser],
        raters: Sequence[Rater],
        address: str,
        wanted: int,
        tell: Callable[[int], None],
    ) -> None:
        self.people = list(zip(browsers, raters, strict=True))
        self.address, self.wanted, self.tell = address, wanted, tell
        self.tickets = count(1)  # one a rating: who holds none opens no further item
        self.lock = threading.Lock()
        self.given = 0
        self.last_given_at = time.monotonic()
        self.failed = threading.Event()

    def work(self) -> None:
        """Rate until all are given.

        Raises:
            BrowserError: no item came for PATIENCE_SECONDS, or the studio refused something.
        """
        with ThreadPoolExecutor(len(self.people), thread_name_prefix="rater") as pool:
            futures = [pool.submit(self.rate, browser, rater) for browser, rater in self.people]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # Ctrl-C comes here
                self.failed.set()
                raise

    def rate(self, browser: Browser, rater: Rater) -> None:
        """One rater's part."""
        try:
            while next(self.tickets) <= self.wanted and not self.failed.is_set():
                self.rate_one(browser, rater)
        except BaseException:
            self.failed.set()  # the others stop too
            raise

    def rate_one(self, browser: Browser, rater: Rater) -> None:
        """Look until there is an item that a taste suffices for, judge it, press the key."""
        while (page := browser.get(self.address)).item is None or page.item.kind not in JUDGED:
            if self.failed.is_set():
                return
            if page.item is not None:  # what takes more than a taste, such as writing, is passed by for others
                browser.send(page.named("skip"), page, reason="expertise")
                continue
            if time.monotonic() - self.last_given_at > PATIENCE_SECONDS:
                raise BrowserError(
                    f"no item to rate for {PATIENCE_SECONDS:.0f} s, with {self.given} of {self.wanted} ratings given: "
                    "do the sampler and a worker for the queue sample run?"
                )
            time.sleep(LOOK_SECONDS)
        verdict = page.form("token", "submission_id")
        said = said_of(page.item, rater, verdict)
        if ("choice", said["choice"]) not in verdict.buttons:
            raise BrowserError(f"{page.url} has no button for the key {said['choice']}")
        browser.send(verdict, page, **said)
        with self.lock:
            self.given += 1
            self.last_given_at = time.monotonic()
            self.tell(self.given)


def said_of(item: Item, rater: Rater, verdict: Form) -> dict[str, str | list[str]]:
    """What a rater says of an item, as its form sends it: a key, the places of a ranking, or an overall score."""
    if item.kind == "ranking":
        return {"choice": "ranked", "place": rater.rank(item.prompt, item.answers)}
    if item.kind == "pair":
        return {"choice": rater.choose(item.prompt, *item.answers)}
    score = rater.score(item.prompt, *item.answers)
    return {"choice": "scored", "overall": score} if ("choice", "scored") in verdict.buttons else {"choice": score}
