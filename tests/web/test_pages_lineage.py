"""Lineage as pages: the family tree of policies, and what became of a rating."""

import uuid

import pytest
from django.test import Client

from tests.studio import open_studio, queries_of, sha256
from tests.turns import ask_for_reward_run, rate, rate_by_machine, turn
from tests.web.admin_pages import read, words_of
from webapp.accounts.models import User
from webapp.feedback.models import Rating
from webapp.projects.models import Membership, Project
from webapp.registry.models import Checkpoint
from webapp.registry.selectors import serving
from webapp.registry.services import adopt_policy, promote
from webapp.runs.models import Run
from webapp.runs.tree import LANE, MARGIN, ROW, plant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("no_broker")]


@pytest.fixture
def studio():
    return open_studio()


def family(*parents: int) -> list[Checkpoint]:
    """Unsaved policies v1, v2 ... whose parents have these versions; 0 is none."""
    made: list[Checkpoint] = []
    for version, parent in enumerate(parents, start=1):
        made.append(Checkpoint(version=version, kind="policy", parent=made[parent - 1] if parent else None))
    return made


def lanes(*parents: int) -> dict[int, int]:
    return {node.policy.version: node.lane for node in plant(family(*parents)).nodes}


# --- The picture -----------------------------------------------------------------------------------------------------


def test_a_line_of_policies_is_straight_with_the_newest_on_top():
    picture = plant(family(0, 1, 2))
    assert [(node.policy.version, node.row, node.lane) for node in picture.nodes] == [(3, 0, 0), (2, 1, 0), (1, 2, 0)]
    assert picture.lines == (f"M{MARGIN} {MARGIN}V{MARGIN + ROW}", f"M{MARGIN} {MARGIN + ROW}V{MARGIN + 2 * ROW}")
    assert (picture.height, picture.words_at) == (3 * ROW, MARGIN + LANE)


def test_the_way_to_the_newest_stays_left_and_what_was_tried_beside_it_stands_right():
    assert lanes(0, 1, 1, 2) == {1: 0, 2: 0, 4: 0, 3: 1}  # v3 is the branch: v4 came of v2
    assert lanes(0, 1, 1, 1) == {1: 0, 4: 0, 2: 1, 3: 2}  # both branches leave v1, so they need a lane each


def test_a_lane_is_used_again_where_its_branch_has_ended():
    assert lanes(0, 1, 1, 3, 3) == {1: 0, 3: 0, 5: 0, 2: 1, 4: 1}


def test_two_families_and_none():
    assert lanes(0, 0, 1) == {1: 0, 3: 0, 2: 1}
    empty = plant([])
    assert (empty.nodes, empty.lines, empty.height) == ((), (), 0)


def test_the_lineage_page_draws_every_policy_and_says_which_serves(studio, admin):
    rate(studio, 20)
    rate_by_machine(studio, 2)
    second = turn(studio)
    promote(project=studio.project, checkpoint=second, actor=None, expected_epoch=serving(studio.project).epoch)
    turn(studio)
    html = read(admin, studio, "lineage/")
    assert html.count('class="dot ') == 3
    assert html.count('class="dot serving"') == 1
    assert html.count('class="dot candidate"') == 2  # v3, and v1, which this studio let serve without a promotion
    assert html.count('<path class="branch"') == 2
    assert "style=" not in html
    words = words_of(html)
    assert "v2 serving from v1 by PPO, run 2 · 22 ratings" in words
    assert "2 simulated" in words
    assert "/lineage/" in read(admin, studio, "")
    assert "/lineage/" in read(admin, studio, "policies/3/")


def test_a_policy_taken_over_says_from_where_to_who_manages_both(studio, admin):
    rate(studio, 20)
    promote(project=studio.project, checkpoint=turn(studio), actor=None, expected_epoch=1)
    poems = Project.objects.create(name="Poems", slug="poems", question="Which?", single_question="How good?")
    adopt_policy(project=poems, source=serving(studio.project), actor=studio.admin)
    stranger = Client()
    stranger.force_login(User.objects.create_user("paula"))
    Membership.objects.create(project=poems, user=User.objects.get(username="paula"), role="admin")
    for end in ("policies/1/", "policies/1/ratings/", "lineage/"):
        mine = admin.get(f"/p/poems/{end}").content.decode()
        assert "v2 of Film reviews" in mine
        theirs = stranger.get(f"/p/poems/{end}").content.decode()
        assert "a policy of another project" in theirs
        assert "Film reviews" not in theirs
        assert "pre-training" not in mine + theirs


def test_a_project_without_policies_says_what_will_stand_here(studio, admin):
    Project.objects.create(name="Empty", slug="empty", question="Which?", single_question="How good?")
    answer = admin.get("/p/empty/lineage/")
    assert "No policy yet" in answer.content.decode()


# --- A rating --------------------------------------------------------------------------------------------------------


def test_a_rating_leads_to_the_policies_that_learned_from_it(studio, admin):
    rate(studio, 20)
    turn(studio)
    rating = Rating.objects.filter(project=studio.project).first()
    html = read(admin, studio, f"ratings/{rating.pk}/")
    words = words_of(html)
    assert "policies learned from it" in words
    assert "Reward model 1 · run 1 · agrees on" in words
    assert "Policy v2 by run 2 from v1" in words
    assert "Better · v1" in words
    for end in ("runs/1/", "runs/2/", "policies/2/", f"datasets/{Run.objects.get(number=1).dataset_id}/"):
        assert f"/p/{studio.project.slug}/{end}" in html
    assert f"/ratings/{rating.pk}/" in read(admin, studio, "ratings/")
    assert f"/ratings/{rating.pk}/" in read(admin, studio, "policies/2/ratings/")
    assert "run 1 (reward model 1)" in words_of(
        read(admin, studio, f"datasets/{Run.objects.get(number=1).dataset_id}/")
    )


def test_a_rating_says_how_far_it_came(studio, admin):
    rate(studio, 20)
    rating = Rating.objects.filter(project=studio.project).first()
    assert "the next dataset that is frozen will hold it" in read(admin, studio, f"ratings/{rating.pk}/")
    rate_by_machine(studio, 1)
    simulated = f"ratings/{Rating.objects.get(source='simulated').pk}/"
    assert "the next dataset that is frozen will hold it" in read(admin, studio, simulated)
    Project.objects.update(use_simulated_ratings=False)
    assert "Nothing: this project leaves simulated ratings out of its trainings" in read(admin, studio, simulated)
    ask_for_reward_run(studio)
    words = words_of(read(admin, studio, f"ratings/{rating.pk}/"))
    assert "nothing that was trained on it is finished" in words
    assert "Run 1 queued made nothing yet" in words


def test_hostile_texts_of_a_rating_are_only_text(studio, admin):
    studio.add_item("<b>Opening</b>", "<script>one</script>", "<script>two</script>")
    rate(studio, 1)
    rating = Rating.objects.filter(comparison__prompt__text="<b>Opening</b>").get()
    html = read(admin, studio, f"ratings/{rating.pk}/")
    assert "<script>one" not in html
    assert "&lt;script&gt;one&lt;/script&gt;" in html


def test_ratings_of_others_and_raters_find_nothing(studio, admin):
    rate(studio, 1)
    rating = Rating.objects.get()
    other = open_studio("other", "Other")
    read(admin, other, f"ratings/{rating.pk}/", status=404)
    read(admin, studio, f"ratings/{uuid.uuid4()}/", status=404)
    client = Client()
    client.force_login(studio.add_rater("rhea"))
    for end in ("lineage/", f"ratings/{rating.pk}/"):
        read(client, studio, end, status=404)


def test_the_pages_cost_as_many_queries_after_many_turns(studio, admin):
    rate(studio, 20)
    turn(studio)
    rating = Rating.objects.filter(project=studio.project).first()
    ends = ("lineage/", f"ratings/{rating.pk}/", f"datasets/{Run.objects.get(number=1).dataset_id}/")
    before = [queries_of(admin, f"/p/{studio.project.slug}/{end}") for end in ends]
    for _ in range(3):
        rate(studio, 2)
        turn(studio)
    Checkpoint.objects.create(
        project=studio.project, kind="policy", version=9, sha256=sha256("nine"), parent=studio.checkpoint
    )
    assert [queries_of(admin, f"/p/{studio.project.slug}/{end}") for end in ends] == before
