"""The rater page, by Django's client: verdicts, hostile text, plain forms, what is fetched ahead, few queries."""

import re
import uuid

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.studio import Studio, open_studio
from tests.web.rater_pages import HTMX, enter, field_of, look, texts_of, url
from webapp.feedback.models import Presentation, Rating, Skip, Slot
from webapp.projects.models import Guideline, Membership

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio() -> Studio:
    return open_studio()


def test_a_pair_shows_its_question_prompt_and_both_answers(studio, rater):
    studio.add_items(pairs=1)
    html, _ = look(rater, studio)
    assert "Which continuation is the better review?" in html
    assert "The review begins" in html
    assert sorted(texts_of(html)) == ["First text of pair 0.", "Opening 0 of a pair", "Second text of pair 0."]
    assert re.findall(r'name="choice" value="(\d)"', html) == list("12345670")


def test_a_single_answer_has_five_steps_and_no_both_bad(studio, rater):
    studio.add_items(singles=1)
    html, _ = look(rater, studio)
    assert "How good is this continuation?" in html
    assert texts_of(html) == ["Opening 0 of a single answer", "Only text of answer 0."]
    assert re.findall(r'name="choice" value="(\d)"', html) == list("12345")


def test_an_empty_answer_is_said_to_be_empty_wherever_it_is_shown(studio, rater):
    studio.add_item("Opening", "An answer.", "\n")
    html, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "2"}, headers=HTMX)
    admin = Client()
    admin.force_login(studio.admin)
    pages = [html, *(client.get(url(studio, end)).content.decode() for client, end in ((rater, "history/"),))]
    pages.append(admin.get(url(studio, f"ratings/{Rating.objects.get().pk}/")).content.decode())
    assert [page.count("nothing: the answer is empty") for page in pages] == [1, 1, 1]


def test_a_verdict_is_stored_by_the_order_that_was_shown(studio, rater):
    item = studio.add_item("Opening", "the lower id", "the higher id")
    html, fields = look(rater, studio)
    left_is_first = texts_of(html)[1] == item.first.text
    rater.post(url(studio), {**fields, "choice": "2", "active_ms": "1500"}, headers=HTMX)
    rating = Rating.objects.get()
    assert rating.verdict == (2 if left_is_first else -2)  # key 2: the left one is clearly better
    assert (rating.active_ms, rating.source, rating.both_bad) == (1500, "human", False)


def test_a_verdict_by_htmx_brings_the_next_item_as_a_fragment(studio, rater):
    studio.add_items(pairs=2)
    html, fields = look(rater, studio)
    answer = rater.post(url(studio), {**fields, "choice": "4"}, headers=HTMX)
    fragment = answer.content.decode()
    assert answer.status_code == 200
    assert fragment.lstrip().startswith('<div id="item"')
    assert "<html" not in fragment
    assert "1 rated today" in re.sub("<[^>]*>", "", fragment)
    assert texts_of(fragment) != texts_of(html)
    assert "HX-Request" in answer["Vary"]
    assert "no-store" in answer["Cache-Control"]


def test_a_verdict_by_a_plain_form_leads_to_the_next_page(studio, rater):
    studio.add_items(pairs=2)
    _, fields = look(rater, studio)
    answer = rater.post(url(studio), {**fields, "choice": "0"})
    assert (answer.status_code, answer.url) == (302, url(studio))
    assert Rating.objects.get().both_bad


def test_the_same_submission_twice_is_one_rating_and_the_same_answer(studio, rater):
    studio.add_items(pairs=2)
    _, fields = look(rater, studio)
    answers = [rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert texts_of(answers[0].content.decode()) == texts_of(answers[1].content.decode())
    assert Rating.objects.count() == 1


def test_another_verdict_from_a_second_tab_is_told_kindly_and_the_first_stands(studio, rater):
    studio.add_items(pairs=2)
    _, first_tab = look(rater, studio)
    _, second_tab = look(rater, studio)
    assert first_tab["token"] == second_tab["token"]
    assert first_tab["submission_id"] != second_tab["submission_id"]
    rater.post(url(studio), {**first_tab, "choice": "1"}, headers=HTMX)
    stored = Rating.objects.get().verdict
    answer = rater.post(url(studio), {**second_tab, "choice": "7"}, headers=HTMX)
    assert answer.status_code == 409
    assert "answered this item already" in answer.content.decode()
    assert 'id="verdict"' in answer.content.decode(), "the next item is there all the same"
    assert Rating.objects.get().verdict == stored
    answer = rater.post(url(studio), {**second_tab, "choice": "7"}, follow=True)
    assert "answered this item already" in answer.content.decode(), "and by a plain form"


def test_a_late_rating_is_kept_and_told(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    Slot.objects.update(lease_until=timezone.now() - timezone.timedelta(minutes=1))
    bea = enter(studio, "bea")
    _, hers = look(bea, studio)
    bea.post(url(studio), {**hers, "choice": "3"}, headers=HTMX)
    answer = rater.post(url(studio), {**fields, "choice": "6"}, headers=HTMX)
    assert answer.status_code == 200
    assert "kept and marked as late" in answer.content.decode()
    assert sorted(Rating.objects.values_list("rater__username", "counts_toward_overlap")) == [
        ("ada", False),
        ("bea", True),
    ]


@pytest.mark.parametrize("sent", [{"choice": "8"}, {"choice": ""}, {"token": "x"}, {"submission_id": "x"}])
def test_nonsense_is_refused_in_words_and_nothing_is_saved(studio, rater, sent):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    answer = rater.post(url(studio), {**fields, "choice": "1", **sent}, headers=HTMX)
    assert answer.status_code == 422
    assert "nothing was saved" in answer.content.decode()
    assert not Rating.objects.exists()


def test_a_single_answer_takes_no_pair_verdict(studio, rater):
    studio.add_items(singles=1)
    _, fields = look(rater, studio)
    assert rater.post(url(studio), {**fields, "choice": "7"}, headers=HTMX).status_code == 422
    assert not Rating.objects.exists()


def test_a_clock_that_cannot_be_right_does_not_cost_the_verdict(studio, rater):
    studio.add_items(singles=1)
    _, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "5", "active_ms": "-7"}, headers=HTMX)
    rating = Rating.objects.get()
    assert (rating.verdict, rating.active_ms) == (5, None)


def test_skipping_never_shows_the_item_again(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    answer = rater.post(url(studio, "rate/skip/"), {"token": fields["token"], "reason": "unclear"}, headers=HTMX)
    assert "Nothing to rate yet" in answer.content.decode()
    assert Skip.objects.get().reason == "unclear"
    assert Slot.objects.get().state == "open", "for somebody else"


def test_a_rated_item_cannot_be_skipped_in_another_tab(studio, rater):
    studio.add_items(pairs=2)
    _, fields = look(rater, studio)
    rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX)
    answer = rater.post(url(studio, "rate/skip/"), {"token": fields["token"]}, headers=HTMX)
    assert answer.status_code == 409
    assert not Skip.objects.exists()


def test_the_heartbeat_keeps_the_lease_and_says_when_it_is_over(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    soon = timezone.now() + timezone.timedelta(seconds=5)
    Slot.objects.update(lease_until=soon)
    beat = url(studio, "rate/heartbeat/")
    assert rater.post(beat, {"token": fields["token"]}).status_code == 204
    assert Slot.objects.get().lease_until > soon + timezone.timedelta(minutes=10)
    rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX)
    assert rater.post(beat, {"token": fields["token"]}).status_code == 410
    assert rater.post(beat, {"token": "x"}).status_code == 410
    assert rater.get(beat).status_code == 405


def test_nobody_can_touch_the_item_of_another_rater(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    bea = enter(studio, "bea")
    for end in ("rate/", "rate/skip/"):
        assert bea.post(url(studio, end), {**fields, "choice": "1"}, headers=HTMX).status_code == 404
    assert bea.post(url(studio, "rate/heartbeat/"), fields).status_code == 410
    assert Slot.objects.get().rater == studio.raters["ada"]
    assert not Rating.objects.exists()


def test_a_stranger_to_the_project_does_not_see_that_it_exists(studio):
    stranger = enter(open_studio("poems", "Poems"), "zoe")
    for end in ("rate/", "history/", "guideline/", "ratings/", "settings/"):
        assert stranger.get(url(studio, end)).status_code == 404
        assert stranger.get(f"/p/no-such-project/{end}").status_code == 404


def test_who_is_logged_out_is_sent_to_the_log_in_and_a_script_is_told(studio):
    studio.add_items(pairs=1)
    nobody = Client()
    answer = nobody.get(url(studio))
    assert (answer.status_code, answer.url) == (302, f"/login/?next={url(studio)}")
    fields = {"token": uuid.uuid4(), "submission_id": uuid.uuid4(), "choice": "1"}
    assert nobody.post(url(studio), fields, headers=HTMX).status_code == 401
    answer = nobody.post(url(studio, "rate/skip/"), fields, headers={"Referer": f"http://testserver{url(studio)}"})
    assert answer.url == f"/login/?next={url(studio)}"


def test_an_empty_queue_teaches_and_looks_again_for_a_while_only(studio, rater):
    html = rater.get(url(studio)).content.decode()
    assert "Nothing to rate yet" in html
    assert "Look again" in html
    assert '?look=1" hx-trigger="load delay:10s"' in html
    last = rater.get(url(studio) + "?look=18", headers=HTMX).content.decode()
    assert "hx-trigger" not in last
    assert "has stopped looking" in last
    assert "Look again" in last


def test_the_last_verdict_leads_to_a_page_that_says_it_is_all(studio, rater):
    studio.add_items(singles=1)
    _, fields = look(rater, studio)
    answer = rater.post(url(studio), {**fields, "choice": "3"}, headers=HTMX)
    assert "That is all for now" in answer.content.decode()
    assert "You rated 1 today" in answer.content.decode()


def test_a_paused_project_says_so_and_does_not_look_again(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    studio.project.is_paused = True
    studio.project.save()
    html = rater.get(url(studio)).content.decode()
    assert "Rating is paused" in html
    assert "hx-trigger" not in html
    rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX)
    assert Rating.objects.count() == 1, "what was on its way is accepted"


HOSTILE = [
    "<script>document.title = 'taken'</script>",
    "<svg/onload=alert(1)>",
    "</div></article><button hx-post='/logout/' hx-trigger='load'>x</button>",
    "{{ project.pk }}{% csrf_token %}",
    "\u202eright to left\u2066 and \u200b hidden",
    "&lt;b&gt; & \" '",
    "a" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_model_text_is_shown_as_text(studio, rater, text):
    from html import unescape

    studio.add_item(text, text)
    html, _ = look(rater, studio)
    marked = re.findall(r'<div class="shown"[^>]*dir="auto">(.*?)</div>', html, re.DOTALL)
    shown = [re.sub(r'<span class="mark"[^<>]*><span hidden>(.*?)</span></span>', r"\1", found) for found in marked]
    assert [unescape(found) for found in shown] == [text, text]
    assert all("<" not in found for found in shown)
    assert html.count("hx-disable") == 3  # prompt, answer, guideline


def test_submit_and_next_needs_few_queries_however_long_the_queue(studio, rater):
    found = []
    for wave in range(2):
        studio.add_items(pairs=2 + 20 * wave)
        _, fields = look(rater, studio)
        with CaptureQueriesContext(connection) as queries:
            rater.post(url(studio), {**fields, "choice": "1"}, headers=HTMX)
        found.append(len([query for query in queries if "SAVEPOINT" not in query["sql"]]))
    print(f"queries of submit and next: {found}")
    assert 10 < max(found) <= 26


def test_the_guideline_is_on_the_page_and_new_until_it_was_read(studio, rater):
    studio.add_items(pairs=1)
    html, _ = look(rater, studio)
    assert "<strong>a reader would finish</strong>" in html
    assert 'id="guideline-new"' in html
    assert rater.post(url(studio, "guideline/read/"), {"version": "1"}).status_code == 204
    assert Membership.objects.get(user=studio.raters["ada"]).guideline_read == 1
    assert 'id="guideline-new"' not in look(rater, studio)[0]
    Guideline.objects.create(project=studio.project, version=2, body="Be kind.", sha256="0" * 64)
    Slot.objects.update(state="void", rater=None, lease_until=None)
    studio.add_items(singles=1)
    assert rater.get(url(studio)).headers["Location"] == url(studio, "guideline/"), "it is read before going on"
    open_page = rater.get(url(studio), headers={"X-Requested-With": "fetch"}).content.decode()
    assert 'id="guideline-new"' in open_page, "which shows it in its drawer"
    assert 'data-changed="yes"' in open_page


# --- Ahead of need ---------------------------------------------------------------------------------------------------


def test_a_page_that_names_what_it_shows_gets_the_item_after_that(studio, rater):
    studio.add_items(pairs=5)
    html, first = look(rater, studio)
    ahead = rater.get(url(studio) + f"?showing={first['token']}", headers=HTMX).content.decode()
    second = {name: field_of(ahead, name) for name in ("token", "submission_id")}
    assert texts_of(ahead) != texts_of(html)
    assert Presentation.objects.get(token=second["token"]).shown_at is None
    has = {"showing": second["token"], "ahead": ""}
    answer = rater.post(url(studio), {**first, **has, "choice": "1"}, headers=HTMX).content.decode()
    assert field_of(answer, "token") not in (first["token"], second["token"])
    assert Presentation.objects.get(token=second["token"]).shown_at is not None
    has = {"showing": second["token"], "ahead": field_of(answer, "token")}
    full = rater.post(url(studio), {**first, **has, "choice": "1"}, headers=HTMX).content.decode()
    assert 'id="item"' not in full, "the page has two: there is no third, and nothing takes their place"
    assert "1 rated today" in re.sub("<[^>]*>", "", full)


def test_a_page_with_nothing_ahead_is_not_told_that_all_is_done(studio, rater):
    studio.add_items(pairs=1)
    _, fields = look(rater, studio)
    answer = rater.get(url(studio) + f"?showing={fields['token']}", headers=HTMX)
    assert 'id="item"' not in answer.content.decode()
    answer = rater.get(url(studio) + "?showing=nonsense", headers=HTMX)
    assert field_of(answer.content.decode(), "token") == fields["token"]


def test_the_heartbeat_keeps_both_and_names_what_is_gone(studio, rater):
    studio.add_items(pairs=5)
    _, fields = look(rater, studio)
    ahead = rater.get(url(studio) + f"?showing={fields['token']}", headers=HTMX).content.decode()
    both = {"token": fields["token"], "ahead": field_of(ahead, "token")}
    assert rater.post(url(studio, "rate/heartbeat/"), both).status_code == 204
    assert rater.post(url(studio, "rate/release/"), {"token": both["ahead"]}).status_code == 204
    answer = rater.post(url(studio, "rate/heartbeat/"), both)
    assert (answer.status_code, answer.content.decode()) == (410, both["ahead"])
    assert rater.post(url(studio, "rate/release/"), {"token": both["token"]}).status_code == 204
    assert Slot.objects.filter(state="leased").count() == 1, "what was shown is not handed back by that"
    assert rater.post(url(studio, "rate/release/"), {"token": "x"}).status_code == 204


def test_a_pause_hands_all_back_and_its_page_takes_nothing(studio, rater):
    studio.add_items(pairs=5)
    _, fields = look(rater, studio)
    rater.get(url(studio) + f"?showing={fields['token']}", headers=HTMX)
    assert Slot.objects.filter(state="leased").count() == 2
    answer = rater.post(url(studio, "rate/pause/"), follow=True)
    assert "Paused" in answer.content.decode()
    assert not Slot.objects.filter(state="leased").exists()
