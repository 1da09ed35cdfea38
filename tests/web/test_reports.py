"""Reporting an item hides it from its reporter at once and tells the admins, who settle it."""

import re
import threading
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import Count
from django.test import Client
from django.utils import timezone

from tests.hostile import HOSTILE
from tests.markup import see
from tests.studio import Studio, open_studio, until_another_waits
from tests.web.rater_pages import HTMX, enter, look, url
from webapp.accounts.models import Audit
from webapp.feedback.models import Rating, Report, Skip, Slot
from webapp.feedback.reports import settle
from webapp.feedback.selectors import raters_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio():
    return open_studio(overlap=2)


def test_a_report_hides_the_item_at_once_and_reaches_the_admins(studio, rater, admin):
    studio.add_items(pairs=2)
    html, fields = look(rater, studio)
    assert "Report" in html
    answer = rater.post(
        url(studio, "rate/report/"), {"token": fields["token"], "words": " it names a person "}, headers=HTMX
    )
    assert "Reported. You do not get it again" in answer.content.decode()
    assert 'id="verdict"' in answer.content.decode(), "the next one is there"
    report = Report.objects.get()
    assert (report.words, report.rater, report.settled_at) == ("it names a person", studio.raters["ada"], None)
    assert Skip.objects.get().comparison == report.comparison
    page = admin.get(url(studio, "ratings/")).content.decode()
    assert "it names a person" in page
    assert "Reported" in page
    assert "Reported" not in rater.get(url(studio, "history/")).content.decode()
    back = rater.get(url(studio, "rate/undo/"), headers=HTMX, follow=True).content.decode()
    assert "You reported this one." in back
    assert "You skipped this one." not in back


def test_the_own_list_says_what_was_reported_and_why_apart_from_what_was_skipped(studio, rater):
    studio.add_items(pairs=3)
    for address, more in (("report", {"words": "it <b>names</b> a person"}), ("report", {}), ("skip", {})):
        _, fields = look(rater, studio)
        rater.post(url(studio, f"rate/{address}/"), {"token": fields["token"], **more})
    html = rater.get(url(studio, "history/")).content.decode()
    assert html.count("You reported this one.") == 2
    assert html.count("<strong>Skipped</strong>") == 1
    assert html.count("“it &lt;b&gt;names&lt;/b&gt; a person”") == 1
    assert "You skipped 1 item. You reported 2 items. As they stood before you." in html
    assert "Skipped or reported lately" in html
    opened = re.findall(r'class="button" href="([^"]+/history/[^"]+)"', html)
    assert len(opened) == 3
    page = rater.get(opened[2]).content.decode()  # the oldest
    assert "“it &lt;b&gt;names&lt;/b&gt; a person”" in page
    assert "You can still judge it; the report stays with the admins." in page
    sent = {"submission_id": re.search(r'name="submission_id" value="([^"]+)"', page)[1], "choice": "2"}
    html = rater.post(f"{opened[2]}?then=history", sent, follow=True).content.decode()
    assert "A is clearly better" in html
    assert "You reported 1 item." in html
    assert "it &lt;b&gt;names" not in html, "it stands among the ratings"
    assert Report.objects.count() == 2, "an admin still looks at it"
    row = next(row for row in raters_of(studio.project) if row.ratings)
    assert (row.ratings, row.skips, row.reports) == (1, 1, 1)


def test_a_report_is_kept_once_and_not_of_what_was_judged_or_never_shown(studio, rater):
    studio.add_items(pairs=2)
    _, fields = look(rater, studio)
    for words in ("first", "second"):
        rater.post(url(studio, "rate/report/"), {"token": fields["token"], "words": words})
    assert Report.objects.get().words == "first"
    _, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
    answer = rater.post(url(studio, "rate/report/"), {"token": fields["token"]}, headers=HTMX)
    assert answer.status_code == 409
    stranger = enter(studio, "bea")
    assert stranger.post(url(studio, "rate/report/"), {"token": fields["token"]}).status_code == 404
    assert rater.post(url(studio, "rate/report/"), {"token": "x"}, headers=HTMX).status_code == 422
    assert Report.objects.count() == 1


@pytest.mark.parametrize("withdraw", [True, False])
def test_an_admin_withdraws_the_item_or_lets_it_be_shown(studio, rater, admin, withdraw):
    studio.add_items(pairs=1)
    for client in (rater, enter(studio, "bea")):
        _, fields = look(client, studio)
        client.post(url(studio, "rate/report/"), {"token": fields["token"]})
    sent = {"report": Report.objects.earliest("id").pk, **({"withdraw": "yes"} if withdraw else {})}
    assert rater.post(url(studio, "ratings/settle/"), sent).status_code == 404, "raters may not"
    page = admin.post(url(studio, "ratings/settle/"), sent, follow=True).content.decode()
    assert ("Withdrawn" if withdraw else "offered as before") in page
    assert 'id="reports"' not in page, "both reports are settled"
    states = dict(Slot.objects.values_list("state").annotate(Count("id")))
    assert states == ({"void": 2} if withdraw else {"open": 2})
    assert Audit.objects.get(action__startswith="report.").action == f"report.{'withdraw' if withdraw else 'dismiss'}"
    assert "settled before" in admin.post(url(studio, "ratings/settle/"), sent, follow=True).content.decode()
    assert not Rating.objects.exists()


def withdraw_under(studio: Studio, rater: Client, admin: Client, holder: Client) -> dict[str, str]:
    """Report and withdraw an item that ``holder`` has open; the fields of that page."""
    studio.add_items(pairs=1)
    _, held = look(holder, studio)
    _, fields = look(rater, studio)
    rater.post(url(studio, "rate/report/"), {"token": fields["token"]})
    admin.post(url(studio, "ratings/settle/"), {"report": Report.objects.get().pk, "withdraw": "yes"})
    assert list(Slot.objects.values_list("state", flat=True)) == ["void", "void"]
    return held


def test_who_has_a_withdrawn_item_open_may_finish(studio, rater, admin):
    holder = enter(studio, "bea")
    held = withdraw_under(studio, rater, admin, holder)
    assert holder.post(url(studio, "rate/heartbeat/"), {"token": held["token"]}).status_code == 204
    assert holder.post(url(studio), {**held, "choice": "2"}, headers=HTMX).status_code == 200
    assert Rating.objects.get().counts_toward_overlap
    assert Slot.objects.filter(state="done", rater=studio.raters["bea"]).count() == 1


@pytest.mark.parametrize("leaves", ["rate/pause/", "rate/skip/", ""])
def test_a_withdrawn_item_that_is_handed_back_or_left_is_offered_to_nobody(studio, rater, admin, leaves):
    holder = enter(studio, "bea")
    held = withdraw_under(studio, rater, admin, holder)
    if leaves:
        holder.post(url(studio, leaves), {"token": held["token"]})
    else:
        Slot.objects.filter(token=held["token"]).update(lease_until=timezone.now() - timedelta(hours=1))
    assert 'id="empty"' in enter(studio, "cem").get(url(studio)).content.decode()
    assert set(Slot.objects.values_list("state", flat=True)) == {"void"}


MARKS = [("span", ("class", "data-mark", "title")), ("span", ("hidden",))]  # for what cannot be seen


def elements_of(client: Client, address: str) -> list[tuple[str, tuple[str, ...]]]:
    return [one for one in see(client.get(address).content.decode()).elements if one not in MARKS]


def test_the_words_of_a_report_are_shown_as_text(studio, rater, admin):
    texts = [text for text in HOSTILE.values() if text.strip()]
    item = studio.add_item("A prompt", "one text", "another text")
    user = studio.raters["ada"]
    Report.objects.create(comparison=item, rater=user, words="x")
    plain = elements_of(admin, url(studio, "ratings/"))
    report = Report.objects.get()
    for text in texts[::4]:
        report.words = text.replace("\0", "\ufffd")[:300]
        report.save()
        assert elements_of(admin, url(studio, "ratings/")) == plain, text[:80]


@pytest.mark.django_db(transaction=True)
def test_of_two_admins_who_settle_reports_of_one_item_at_once_one_does(at_once):
    studio = open_studio()
    item = studio.add_item("A prompt", "one text", "another text")
    one, other = (
        Report.objects.create(comparison=item, rater=studio.add_rater(name), words=name).pk for name in ("ada", "bea")
    )
    is_settled = threading.Event()

    def withdraw() -> bool:
        with transaction.atomic():
            said = settle(actor=studio.admin, project=studio.project, report=one, is_withdrawn=True)
            is_settled.set()
            until_another_waits()
        return said

    def dismiss() -> bool:
        is_settled.wait(10)
        return settle(actor=studio.admin, project=studio.project, report=other, is_withdrawn=False)

    assert at_once(withdraw, dismiss) == [True, False]
    assert [audit.action for audit in Audit.objects.filter(action__startswith="report.")] == ["report.withdraw"]
    assert set(Slot.objects.values_list("state", flat=True)) == {"void"}
