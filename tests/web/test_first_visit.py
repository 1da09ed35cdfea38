"""A rater's first visit: consent, guideline, practice pairs with explained answers; and a guideline that changed."""

import pytest
from django.utils import timezone

from tests.studio import Studio, open_studio
from tests.web.rater_pages import HTMX, look, url
from webapp.accounts.models import User
from webapp.feedback.models import Rating, Skip, Slot
from webapp.projects import welcome
from webapp.projects.models import Membership, PracticePair
from webapp.projects.services import confirm_guideline, save_guideline

pytestmark = pytest.mark.django_db
PAIR = {"prompt": "A film", "left": "Good.", "right": "Bad.", "best": "a", "explanation": "It says *why*."}


@pytest.fixture
def studio() -> Studio:
    studio = open_studio()
    studio.add_items(pairs=3)
    return studio


def ask_consent(studio: Studio) -> None:
    studio.project.consent = "Your ratings **train** a model."
    studio.project.save()


def add_pairs(studio: Studio, *bests: str) -> list[PracticePair]:
    return [PracticePair.objects.create(project=studio.project, **{**PAIR, "best": best}) for best in bests]


def test_without_consent_and_practice_rating_begins_at_once(studio, rater):
    assert rater.get(url(studio)).status_code == 200


def test_the_first_visit_leads_through_consent_and_practice_to_rating(studio, rater):
    ask_consent(studio)
    first, second = add_pairs(studio, "a", "tie")
    page = rater.get(url(studio), follow=True)
    assert page.redirect_chain == [(url(studio, "rate/welcome/"), 302)]
    html = page.content.decode()
    assert "<strong>train</strong>" in html
    assert "a reader would finish" in html, "the guideline"
    assert not Slot.objects.filter(state="leased").exists(), "nothing is claimed before"
    assert rater.get(url(studio, "rate/practice/"), follow=True).redirect_chain[0][0] == url(studio, "rate/welcome/")
    html = rater.post(url(studio, "rate/welcome/"), follow=True).content.decode()
    assert "Practice 1 of 2." in html
    html = rater.post(url(studio, "rate/practice/"), {"pair": first.pk, "choice": "6"}).content.decode()
    assert "You said: B is clearly better." in html
    assert "The answer is: A is better." in html
    assert "It says *why*." in html
    assert rater.get(url(studio), follow=True).redirect_chain[0][0] == url(studio, "rate/welcome/"), "not over yet"
    html = rater.get(url(studio, "rate/practice/")).content.decode()
    assert "Practice 2 of 2." in html
    html = rater.post(url(studio, "rate/practice/"), {"pair": second.pk, "choice": "4"}).content.decode()
    assert "That is the answer." in html
    assert "Begin rating" in html
    member = Membership.objects.get(user=studio.raters["ada"])
    assert member.consented_at < member.welcomed_at
    assert member.guideline_read == 1
    assert rater.get(url(studio)).status_code == 200
    assert not Rating.objects.exists(), "practice is no rating"


def test_answered_twice_or_out_of_turn_a_practice_pair_counts_once(studio, rater):
    first, second, _ = add_pairs(studio, "a", "b", "a")
    rater.post(url(studio, "rate/welcome/"))
    for pair in (first, first, second, second):
        rater.post(url(studio, "rate/practice/"), {"pair": pair.pk, "choice": "1"})
    assert Membership.objects.get(user=studio.raters["ada"]).practised == 2
    other = open_studio("other", "Other")
    (stranger,) = add_pairs(other, "a")
    assert rater.post(url(studio, "rate/practice/"), {"pair": stranger.pk, "choice": "1"}).status_code == 404


def test_consent_alone_ends_the_visit_and_is_not_asked_twice(studio, rater):
    ask_consent(studio)
    assert rater.post(url(studio, "rate/welcome/"), follow=True).redirect_chain[-1][0] == url(studio)
    ask_consent(studio)
    assert rater.get(url(studio)).status_code == 200


def test_no_request_of_a_rater_passes_before_consent(studio, rater):
    _, judged = look(rater, studio)
    rater.post(url(studio), {**judged, "choice": "2"}, headers=HTMX)
    _, fields = look(rater, studio)
    Membership.objects.update(welcomed_at=timezone.now())  # by practice, when there was nothing to agree to yet
    ask_consent(studio)
    slot = Slot.objects.get(token=fields["token"])
    leased = slot.lease_until
    posts = {
        "rate/": {**fields, "choice": "1"},
        "rate/skip/": fields,
        "rate/report/": {**fields, "words": "no"},
        "rate/heartbeat/": fields,
        f"history/{judged['token']}/": {"submission_id": fields["submission_id"], "choice": "6"},
    }
    gets = ("rate/", "rate/?paused=1", "rate/undo/", "history/", f"history/{judged['token']}/")
    for headers in ({}, HTMX, {"X-Requested-With": "fetch"}):
        answers = [rater.post(url(studio, end), values, headers=headers) for end, values in posts.items()]
        answers += [rater.get(url(studio, end), headers=headers) for end in gets]
        found = {(answer.status_code, answer.headers.get("Location")) for answer in answers}
        assert found == ({(403, None)} if headers else {(302, url(studio, "rate/welcome/"))})
    assert Rating.objects.get().revision == 1
    assert not Skip.objects.exists()
    assert Slot.objects.get(token=fields["token"]).lease_until == leased
    assert rater.post(url(studio, "rate/release/"), fields).status_code == 204
    rater.post(url(studio, "rate/pause/"), headers=HTMX)
    assert Slot.objects.get(pk=slot.pk).lease_until != leased, "giving back is no rating"
    rater.post(url(studio, "rate/welcome/"))
    assert rater.post(url(studio), posts["rate/"], headers=HTMX).status_code == 200


def test_a_plain_form_that_comes_before_consent_says_that_it_was_not_saved(studio, rater):
    _, fields = look(rater, studio)
    ask_consent(studio)
    Membership.objects.update(welcomed_at=None)
    page = rater.post(url(studio), {**fields, "choice": "1"}, follow=True)
    assert page.redirect_chain == [(url(studio, "rate/welcome/"), 302)]
    assert "What you sent was not saved: read this first." in page.content.decode()
    assert not Rating.objects.exists()
    assert "was not saved" not in rater.get(url(studio), follow=True).content.decode()


def test_simulated_raters_and_admins_without_a_part_are_not_turned_away(studio, rater, admin):
    ask_consent(studio)
    assert admin.get(url(studio)).status_code == 200
    User.objects.filter(username="ada").update(is_simulated=True)
    assert rater.get(url(studio)).status_code == 200


@pytest.mark.parametrize(
    ("choice", "side"), [("1", "a"), ("3", "a"), ("4", "tie"), ("0", "tie"), ("5", "b"), ("7", "b")]
)
def test_a_verdict_says_a_side(choice, side):
    assert welcome.side_of(choice) == side


def test_admins_write_the_first_visit(studio, rater, admin):
    address = url(studio, "settings/first-visit/")
    assert rater.get(address).status_code == 404
    assert admin.post(address, {"consent": "Agree."}, follow=True).status_code == 200
    studio.project.refresh_from_db()
    assert studio.project.consent == "Agree."
    assert admin.post(address + "new/", {**PAIR, "explanation": ""}).status_code == 422
    admin.post(address + "new/", PAIR)
    pair = PracticePair.objects.get()
    assert pair.explanation == "It says *why*."
    admin.post(f"{address}{pair.pk}/", {**PAIR, "best": "b"})
    pair.refresh_from_db()
    assert pair.best == "b"
    page = admin.get(address).content.decode()
    assert "B is better" in page
    assert '<p dir="auto">It says *why*.</p>' in page, "its full stop stands where its own language has it"
    admin.post(f"{address}{pair.pk}/", {"remove": "yes"})
    assert not PracticePair.objects.exists()
    assert admin.get(f"{address}{pair.pk}/").status_code == 404
    for _ in range(welcome.MOST_PAIRS):
        admin.post(address + "new/", PAIR)
    answer = admin.post(address + "new/", PAIR)
    assert (answer.status_code, PracticePair.objects.count()) == (422, welcome.MOST_PAIRS)
    assert "take one away first" in answer.content.decode()


def test_a_pair_that_is_taken_away_moves_nobody_past_the_next_one(studio, rater):
    first, second, third = add_pairs(studio, "a", "b", "a")
    rater.post(url(studio, "rate/welcome/"))
    rater.post(url(studio, "rate/practice/"), {"pair": first.pk, "choice": "1"})
    welcome.remove_pair(actor=studio.admin, project=studio.project, pair=first)
    assert welcome.next_pair(studio.raters["ada"], studio.project) == (second, 1, 2)
    welcome.remove_pair(actor=studio.admin, project=studio.project, pair=third)
    assert welcome.next_pair(studio.raters["ada"], studio.project) == (second, 1, 1)


def test_who_has_done_all_pairs_that_are_left_when_one_is_taken_away_goes_on_to_rating(studio, rater):
    ask_consent(studio)
    first, second = add_pairs(studio, "a", "b")
    rater.post(url(studio, "rate/welcome/"))
    rater.post(url(studio, "rate/practice/"), {"pair": first.pk, "choice": "1"})
    welcome.remove_pair(actor=studio.admin, project=studio.project, pair=second)
    assert rater.get(url(studio)).status_code == 200


def test_a_guideline_that_changed_is_read_once_before_rating_goes_on(studio, rater):
    confirm_guideline(user=studio.raters["ada"], project=studio.project, version=1)
    look(rater, studio)
    save_guideline(actor=studio.admin, project=studio.project, body="Prefer the shorter text.")
    page = rater.get(url(studio), follow=True)
    assert page.redirect_chain == [(url(studio, "guideline/"), 302)]
    assert "I have read version 2: go to rating" in page.content.decode()
    page = rater.post(url(studio, "guideline/read/"), {"version": "2", "go_on": "yes"}, follow=True)
    assert page.redirect_chain == [(url(studio), 302)]
    assert page.status_code == 200
    assert "go to rating" not in rater.get(url(studio, "guideline/")).content.decode()


def test_an_admin_finds_the_loop_on_the_pages_of_a_first_visit(studio, rater):
    ask_consent(studio)
    add_pairs(studio, "a")
    loop = f'href="/p/{studio.project.slug}/"'
    assert loop not in rater.get(url(studio, "rate/welcome/")).content.decode()
    studio.project.memberships.update(role=Membership.Role.ADMIN)
    assert loop in rater.get(url(studio, "rate/welcome/")).content.decode()
    rater.post(url(studio, "rate/welcome/"))
    page = rater.get(url(studio, "rate/practice/")).content.decode()
    assert loop in page
    assert "Practice 1 of 1." in page
