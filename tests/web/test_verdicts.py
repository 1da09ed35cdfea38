"""Verdicts: stored against samples, once each, changed by revisions; and which side an answer stands on."""

from itertools import pairwise
from math import comb
from uuid import uuid4

import pytest

from tests.studio import let_a_day_pass
from tests.web.verdicts import rate
from webapp.errors import ChoiceInvalid, RevisionClosed, StudioError, SubmissionConflict, TokenUnknown
from webapp.feedback.models import Rating
from webapp.feedback.selectors import act_before, progress, queue_counts, shown
from webapp.feedback.services import (
    claim,
    draw_side,
    release,
    revise,
    skip,
    submit,
)
from webapp.quality.services import dataset_bytes, freeze


@pytest.mark.parametrize(
    ("first_is_left", "choice", "verdict"),
    [
        (True, "1", 3),  # left much better, and left is first
        (True, "4", 0),
        (True, "6", -2),
        (False, "2", -2),  # left clearly better, and left is second
        (False, "7", 3),  # right much better, and right is first
        (False, "4", 0),
    ],
)
def test_what_was_pressed_is_stored_against_samples(studio, first_is_left, choice, verdict):
    project = studio.ready_project()
    item = studio.items(project, pairs=1)[0]
    rater = studio.rater(project)
    presentation = presentation_in_order(studio, rater, project, first_is_left)
    page = shown(presentation, project)
    left = item.first if first_is_left else item.second
    assert (page.left_text, page.kind) == (left.text, "pair")
    rating = rate(rater, presentation, choice).rating
    assert (rating.verdict, rating.both_bad) == (verdict, False)


def presentation_in_order(studio, rater, project, first_is_left):
    while True:
        presentation = studio.shown(rater, project)
        if presentation.first_is_left == first_is_left:
            return presentation
        release(rater=rater, token=presentation.token)


def test_both_bad_is_a_tie_apart(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    rating = rate(rater, presentation, "0").rating
    assert (rating.verdict, rating.both_bad) == (0, True)
    with pytest.raises(SubmissionConflict, match="'0'"):
        rate(rater, presentation, "4")  # a plain tie is another answer


def test_a_single_answer_is_scored_from_1_to_5(studio):
    project = studio.ready_project()
    studio.items(project, singles=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    page = shown(presentation, project)
    assert (page.kind, page.right_text, page.question) == ("single", None, project.single_question)
    for choice in ("0", "6", "7", "", "x", "1 ", "١"):
        with pytest.raises(ChoiceInvalid):
            rate(rater, presentation, choice)
    assert rate(rater, presentation, "5").rating.verdict == 5


@pytest.mark.parametrize("choice", ["8", "-1", "", "much", "11"])
def test_a_choice_that_does_not_exist_is_refused(studio, choice):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    with pytest.raises(ChoiceInvalid, match="1 to 7"):
        rate(rater, studio.shown(rater, project), choice)
    assert Rating.objects.count() == 0


def test_the_same_submission_again_gives_the_same_rating(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation, key = studio.shown(rater, project), uuid4()
    first = rate(rater, presentation, "2", key, active_ms=1500)
    again = rate(rater, presentation, "2", key, active_ms=9999)
    assert (first.is_duplicate, again.is_duplicate) == (False, True)
    assert again.rating == first.rating
    assert Rating.objects.get().active_ms == 1500


def test_the_same_submission_with_another_choice_is_a_conflict_that_names_the_stored_one(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation, key = studio.shown(rater, project), uuid4()
    rate(rater, presentation, "2", key)
    with pytest.raises(SubmissionConflict) as refused:
        rate(rater, presentation, "3", key)
    assert refused.value.choice == "2"
    assert Rating.objects.count() == 1


def test_a_submission_id_cannot_serve_two_items(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater, key = studio.rater(project), uuid4()
    rate(rater, studio.shown(rater, project), "4", key)
    with pytest.raises(SubmissionConflict):
        rate(rater, studio.shown(rater, project), "4", key)


def test_a_judged_item_sent_from_another_tab_gives_no_second_rating(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    first = rate(rater, presentation, "2")
    assert rate(rater, presentation, "2").rating == first.rating  # a new key, the same verdict
    with pytest.raises(SubmissionConflict):
        rate(rater, presentation, "6")
    with pytest.raises(SubmissionConflict):
        skip(rater=rater, project=project, token=presentation.token)
    assert Rating.objects.count() == 1


def test_a_token_of_another_rater_is_as_good_as_unknown(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    presentation = studio.shown(studio.rater(project), project)
    other = studio.rater(project)
    for act in (
        lambda: rate(other, presentation),
        lambda: skip(rater=other, project=project, token=presentation.token),
    ):
        with pytest.raises(TokenUnknown):
            act()
    with pytest.raises(TokenUnknown):
        submit(rater=other, project=project, token=uuid4(), submission_id=uuid4(), choice="1")
    assert not release(rater=other, token=presentation.token)


def test_a_changed_mind_is_a_new_revision(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation, key = studio.shown(rater, project), uuid4()
    old = rate(rater, presentation, "4").rating
    new = revise(rater=rater, project=project, token=presentation.token, submission_id=key, choice="1").rating
    assert revise(rater=rater, project=project, token=presentation.token, submission_id=key, choice="1").rating == new
    old.refresh_from_db()
    assert (old.is_current, old.verdict, old.revision) == (False, 0, 1)
    assert (new.is_current, abs(new.verdict), new.revision) == (True, 3, 2)
    assert queue_counts(project).done == 1


def test_a_skip_that_is_undone_becomes_a_first_verdict(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    presentation = studio.shown(rater, project)
    with pytest.raises(TokenUnknown):
        revise(
            rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice="1"
        )  # neither judged nor skipped
    skip(rater=rater, project=project, token=presentation.token)
    assert claim(rater=rater, project=project) is None
    found = revise(rater=rater, project=project, token=presentation.token, submission_id=uuid4(), choice="1")
    assert (found.rating.revision, found.is_late) == (1, False)
    assert studio.slot(presentation).state == "done"
    assert progress(rater, project).skipped == 0


def test_only_the_last_ten_and_those_of_a_day_can_be_changed(studio):
    project = studio.ready_project()
    studio.items(project, pairs=12)
    rater = studio.rater(project)
    ratings = studio.rate_all(rater, project, "1")
    revise(
        rater=rater, project=project, token=ratings[0].presentation.token, submission_id=uuid4(), choice="2"
    )  # old, but of today
    let_a_day_pass()
    # The first was changed last: of the twelve, the second and the third are no longer among the last ten.
    for old in ratings[1:3]:
        with pytest.raises(RevisionClosed, match="only your last 10 and those of the last 24 hours"):
            revise(rater=rater, project=project, token=old.presentation.token, submission_id=uuid4(), choice="3")
    assert (
        revise(
            rater=rater, project=project, token=ratings[3].presentation.token, submission_id=uuid4(), choice="3"
        ).rating.revision
        == 2
    )
    same = revise(rater=rater, project=project, token=ratings[1].presentation.token, submission_id=uuid4(), choice="1")
    assert same.is_duplicate  # nothing changes


def test_undo_goes_ten_acts_back_by_the_time_of_each_act(studio):
    project = studio.ready_project()
    studio.items(project, pairs=12)
    rater = studio.rater(project)
    tokens = []
    for number in range(12):
        presentation = studio.shown(rater, project)
        tokens.append(presentation.token)
        if number % 3:
            rate(rater, presentation)
        else:
            skip(rater=rater, project=project, token=presentation.token)
    steps = []
    act = act_before(rater, project)
    while act:
        steps.append(act.token)
        act = act_before(rater, project, act.token)
    assert steps == tokens[:1:-1]
    assert act_before(studio.rater(project), project) is None


def test_a_dataset_keeps_the_revision_that_it_was_frozen_with(studio):
    project = studio.ready_project()
    studio.items(project, pairs=2)
    rater = studio.rater(project)
    old, _ = studio.rate_all(rater, project, "1")
    dataset = freeze(actor=studio.admin, project=project)
    before = b"".join(dataset_bytes(dataset))
    new = revise(rater=rater, project=project, token=old.presentation.token, submission_id=uuid4(), choice="7").rating
    assert b"".join(dataset_bytes(dataset)) == before
    assert freeze(actor=studio.admin, project=project).sha256 != dataset.sha256
    assert new.verdict == -old.verdict


def test_ratings_of_a_simulated_rater_are_never_human(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project, is_simulated=True)
    assert rate(rater, studio.shown(rater, project)).rating.source == "simulated"


@pytest.mark.parametrize("active_ms", [-5, 2**31, 10**30])
def test_a_nonsensical_time_is_left_out_and_the_rating_kept(studio, active_ms):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    assert rate(rater, studio.shown(rater, project), active_ms=active_ms).rating.active_ms is None


def test_an_unknown_reason_to_skip_is_refused(studio):
    project = studio.ready_project()
    studio.items(project, pairs=1)
    rater = studio.rater(project)
    with pytest.raises(StudioError, match="boring"):
        skip(rater=rater, project=project, token=studio.shown(rater, project).token, reason="boring")


def test_left_and_right_are_balanced_over_10000_draws():
    # A fair coin fails one throw in a thousand; of two throws both, once in a million.
    sides, changes = [], []
    for _ in range(2):
        draws = [draw_side() for _ in range(10_000)]
        sides.append(two_sided(sum(draws), 10_000))
        changes.append(two_sided(sum(one != next_one for one, next_one in pairwise(draws)), 9_999))
    print(f"10,000 draws, binomial p: {sides[0]:.3f}; that one tells the next: {changes[0]:.3f}")
    assert max(sides) > 0.001
    assert max(changes) > 0.001  # nor does one draw tell the next


def test_each_lease_draws_the_sides_anew(studio):
    project = studio.ready_project()
    studio.items(project, pairs=40)
    sides = []
    for _ in range(3):
        rater = studio.rater(project)
        while presentation := claim(rater=rater, project=project):
            sides.append(presentation.first_is_left)
            skip(rater=rater, project=project, token=presentation.token)
    assert len(sides) == 120
    assert two_sided(sum(sides), 120) > 0.0001


def two_sided(successes, trials):
    """Probability of a fair coin being at least as far from the middle."""
    tail = min(successes, trials - successes)
    return min(1.0, 2 * sum(comb(trials, k) for k in range(tail + 1)) / 2**trials)
