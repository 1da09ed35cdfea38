"""Projects, their settings, members and guidelines."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import IntegrityError, transaction

from webapp.accounts.models import Audit, User
from webapp.errors import InvitationInvalid, NameTaken, PasswordRefused, SettingsRefused
from webapp.projects.models import Guideline, Invitation, Membership, Project
from webapp.projects.selectors import (
    current_guideline,
    invitation_for,
    is_project_admin,
    members_of,
    open_invitations,
    overview_for,
    project_for,
    projects_for,
)
from webapp.projects.services import (
    accept_invitation,
    confirm_guideline,
    create_invitation,
    join_with_invitation,
    save_guideline,
    update_project,
)

GOOD_PASSWORD = "a long and winding one"


def test_who_makes_a_project_is_its_admin(studio):
    project = studio.project(guideline_body="Be fair.\r\nBe quick.")
    assert members_of(project).get().role == "admin"
    assert (current_guideline(project).version, current_guideline(project).body) == (1, "Be fair.\nBe quick.")


@pytest.mark.parametrize(
    ("field", "value"),
    [("slug", "no blanks"), ("name", ""), ("overlap", 0), ("overlap", 21), ("pair_percent", 101), ("name", "x" * 121)],
)
def test_a_setting_that_is_not_permitted_is_named(studio, field, value):
    with pytest.raises(SettingsRefused) as refused:
        studio.project(**{field: value})
    assert list(refused.value.errors) == [field]
    assert Project.objects.count() == 0


def test_an_address_is_had_once(studio):
    studio.project(slug="films")
    with pytest.raises(SettingsRefused, match="slug"):
        studio.project(slug="films")


def test_changed_settings_are_written_down_with_what_they_were(studio):
    project = studio.project(overlap=1)
    update_project(actor=studio.admin, project=project, overlap=3, name=project.name)
    project.refresh_from_db()
    assert project.overlap == 3
    assert Audit.objects.get(action="project.update").detail == {"changes": {"overlap": [1, 3]}}
    for wrong in ({"overlap": 99}, {"slug": "other"}, {"id": 5}):
        with pytest.raises(SettingsRefused):
            update_project(actor=studio.admin, project=project, **wrong)
    project.refresh_from_db()
    assert project.overlap == 3


# --- Members ---------------------------------------------------------------------------------------------------------


def test_an_invitation_lets_a_new_rater_in(studio):
    project = studio.project()
    token = create_invitation(actor=studio.admin, project=project)
    assert invitation_for(token).project == project
    assert not Invitation.objects.filter(token_sha256=token).exists()
    user = accept_invitation(token=token, username="ada", password=GOOD_PASSWORD)
    assert user.check_password(GOOD_PASSWORD)
    assert project_for(user, project.slug) == project
    assert not is_project_admin(user, project)
    with pytest.raises(InvitationInvalid):
        accept_invitation(token=token, username="bob", password=GOOD_PASSWORD)
    with pytest.raises(InvitationInvalid):
        invitation_for(token)
    assert not User.objects.filter(username="bob").exists()


def test_a_refused_name_or_password_spends_no_use(studio):
    project = studio.project()
    token = create_invitation(actor=studio.admin, project=project)
    with pytest.raises(NameTaken):
        accept_invitation(token=token, username="ADMIN", password=GOOD_PASSWORD)
    with pytest.raises(PasswordRefused):
        accept_invitation(token=token, username="ada", password="short")
    assert open_invitations(project).get().uses_left == 1


def test_a_last_use_lets_one_of_four_in(live_studio, at_once):
    project = live_studio.project()
    token = create_invitation(actor=live_studio.admin, project=project, uses=1)
    people = [live_studio.rater() for _ in range(4)]
    answers = at_once(*[lambda user=user: join_with_invitation(token=token, user=user) for user in people])
    assert sum(isinstance(answer, Membership) for answer in answers) == 1
    assert sum(isinstance(answer, InvitationInvalid) for answer in answers) == 3


def test_a_member_spends_no_use_and_rises_but_never_falls(studio):
    project = studio.project()
    rater = studio.rater(project)
    as_rater = create_invitation(actor=studio.admin, project=project, uses=2)
    as_admin = create_invitation(actor=studio.admin, project=project, role="admin", uses=2)
    assert join_with_invitation(token=as_rater, user=rater).role == "rater"
    assert join_with_invitation(token=as_admin, user=rater).role == "admin"
    assert join_with_invitation(token=as_rater, user=rater).role == "admin"
    assert sorted(row.uses_left for row in open_invitations(project)) == [1, 2]


def test_an_invitation_that_is_out_of_date_or_odd_is_refused(studio):
    project = studio.project()
    stale = create_invitation(actor=studio.admin, project=project, valid_for=timedelta(seconds=-1))
    for token in (stale, "", "guessed", "\ud800"):
        with pytest.raises(InvitationInvalid):
            join_with_invitation(token=token, user=studio.admin)
    for odd in ({"uses": 0}, {"uses": 1001}, {"role": "owner"}):
        with pytest.raises(SettingsRefused):
            create_invitation(actor=studio.admin, project=project, **odd)


def test_people_see_their_own_projects_alone(studio):
    here, there = studio.project(), studio.project()
    rater = studio.rater(here)
    manager = studio.rater()
    Membership.objects.create(project=here, user=manager, role="admin")
    assert list(projects_for(rater)) == [here]
    assert set(projects_for(studio.admin)) == {here, there}
    assert list(projects_for(AnonymousUser())) == []
    with pytest.raises(Project.DoesNotExist):
        project_for(rater, there.slug)
    with pytest.raises(Project.DoesNotExist):
        project_for(rater, here.slug, role="admin")
    assert project_for(manager, here.slug, role="admin") == here
    assert project_for(rater, here.slug, role="rater") == here
    rater.is_active = False
    assert list(projects_for(rater)) == []


def test_the_home_page_tells_sizes_and_the_serving_policy(studio):
    project, empty = studio.ready_project(prompts=3), studio.project()
    rater = studio.rater(project)
    by_project = {row.project: row for row in overview_for(studio.admin)}
    row = by_project[project]
    assert (row.may_manage, row.prompts, row.members, row.serving_version) == (True, 3, 2, 1)
    assert (by_project[empty].prompts, by_project[empty].serving_version) == (0, None)
    assert [(row.project, row.may_manage, row.serving_version) for row in overview_for(rater)] == [
        (project, False, None)
    ]


# --- Guidelines ------------------------------------------------------------------------------------------------------


def test_a_guideline_has_versions_and_an_unchanged_text_makes_none(studio):
    project = studio.project(guideline_body="one")
    assert save_guideline(actor=studio.admin, project=project, body="one\n").version == 1
    assert save_guideline(actor=studio.admin, project=project, body="two").version == 2
    assert save_guideline(actor=studio.admin, project=project, body="one").version == 3
    for body in ("", "  \n", "a\0b"):
        with pytest.raises(SettingsRefused):
            save_guideline(actor=studio.admin, project=project, body=body)
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        Guideline.objects.update(body="rewritten")


def test_two_who_save_at_once_make_two_versions(live_studio, at_once):
    project = live_studio.project()
    answers = at_once(
        *[
            lambda body=body: save_guideline(actor=live_studio.admin, project=project, body=body).version
            for body in ("one", "two", "three")
        ]
    )
    assert sorted(answers) == [1, 2, 3]


def test_a_confirmed_guideline_only_moves_forward(studio):
    project = studio.project()
    rater = studio.rater(project)
    for version in (2, 1):
        confirm_guideline(user=rater, project=project, version=version)
    assert Membership.objects.get(user=rater).guideline_read == 2
