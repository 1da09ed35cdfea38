"""Judging what was shown, in one step."""

from uuid import uuid4

from webapp.feedback.services import submit


def rate(rater, presentation, choice="1", submission_id=None, **more):
    project = presentation.slot.project
    return submit(
        rater=rater,
        project=project,
        token=presentation.token,
        submission_id=submission_id or uuid4(),
        choice=choice,
        **more,
    )
