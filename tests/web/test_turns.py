"""A verdict on each turn of a conversation: what is stored, what is learned from it, a page that works as a form."""

import json
import random
import re
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from tests.conversations import FIVE, conversation, turns_in_order
from tests.studio import enter, fields_of, sha256, values_of
from webapp.accounts.models import User
from webapp.errors import ChoiceInvalid, SubmissionConflict
from webapp.feedback.exports import rating_lines
from webapp.feedback.models import Comparison, Rating, TurnVerdict
from webapp.feedback.modes import Extras, verdict_in_words
from webapp.feedback.selectors import own_item, shown
from webapp.feedback.services import make_items, revise, skip
from webapp.projects.models import Prompt
from webapp.projects.services import update_modes
from webapp.quality.demonstrations import DemonstrationRules, demonstrations
from webapp.quality.selectors import usable_ratings
from webapp.quality.services import feedback_records, freeze
from workers.refilling import plan_items
from workers.simulated import SimulatedRater


def asked(studio, turns=FIVE, project=None, text=" Because of salmonella."):
    project = project or studio.ready_project()
    prompt = conversation(project, turns) if turns else studio.prompts(project, 1)[0]
    samples = studio.samples(prompt, 1, [text])
    (item,) = make_items(project=project, samples_by_prompt={prompt.pk: samples}, kinds={prompt.pk: "turns"})
    return project, item


def test_a_verdict_is_kept_for_each_turn_and_the_last_one_is_the_ratings_own(studio):
    project, item = asked(studio)
    ada = studio.rater(project)
    presentation, key = studio.shown(ada, project), uuid4()
    assert shown(presentation, project).replies == tuple(turns_in_order(item))
    rating = studio.say(ada, presentation, "1,2,3", Extras(reason="odd"), submission_id=key).rating
    assert (rating.verdict, rating.details, rating.reason) == (0, {"turns": [1, -1, 0]}, "odd")
    assert list(rating.turn_verdicts.values_list("ordinal", "verdict", "text_sha256")) == [
        (number, verdict, sha256(text))
        for number, verdict, text in zip((1, 2, 3), (1, -1, 0), turns_in_order(item), strict=True)
    ]
    assert verdict_in_words(rating) == "turn 1 good, turn 2 bad, turn 3 unsure"
    assert own_item(ada, project, presentation.token).choice == "1,2,3"
    assert studio.say(ada, presentation, "1,2,3", Extras(reason="odd"), submission_id=key).is_duplicate
    with pytest.raises(SubmissionConflict, match="1,2,3"):
        studio.say(ada, presentation, "1,1,3")
    assert TurnVerdict.objects.count() == 3


def test_a_change_is_a_new_revision_with_rows_of_its_own_and_none_can_be_changed(studio):
    project, _ = asked(studio)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    studio.say(ada, presentation, "1,2,3")
    changed = studio.say(ada, presentation, "1,2,1", act=revise).rating
    assert (changed.revision, changed.verdict) == (2, 1)
    assert sorted(TurnVerdict.objects.values_list("rating__revision", "ordinal", "verdict")) == [
        (1, 1, 1), (1, 2, -1), (1, 3, 0), (2, 1, 1), (2, 2, -1), (2, 3, 1),
    ]  # fmt: skip
    for change in (lambda: TurnVerdict.objects.update(verdict=0), lambda: TurnVerdict.objects.all().delete()):
        with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
            change()


@pytest.mark.parametrize("choice", ["1,2", "1,2,3,1", "1,2,4", "1", "", "1,2,", "1,,2", "judged"])
def test_each_turn_needs_a_verdict_and_there_are_three(studio, choice):
    project, _ = asked(studio)
    ada = studio.rater(project)
    with pytest.raises(ChoiceInvalid, match="1 good, 2 bad, 3 unsure, for each turn of the assistant; there are 3"):
        studio.say(ada, studio.shown(ada, project), choice)
    assert not Rating.objects.exists()


def test_a_plain_prompt_has_one_turn(studio):
    project, item = asked(studio, turns=())
    ada = studio.rater(project)
    rating = studio.say(ada, studio.shown(ada, project), "2").rating
    assert (item.kind, rating.details, verdict_in_words(rating)) == ("turns", {"turns": [-1]}, "bad")


def test_a_reward_model_learns_good_as_4_and_bad_as_1_of_the_last_turn_and_nothing_of_unsure(studio):
    project = studio.ready_project(pair_percent=0)
    items = [asked(studio, FIVE[:length], project, text=f"answer {length}")[1] for length in (1, 3, 5)]
    ada = studio.rater(project)
    for choice in ("2", "2,1", "1,1,3"):
        studio.say(ada, studio.shown(ada, project), choice)
    counts = usable_ratings(project)
    assert (counts.total, counts.singles, counts.scores, counts.is_one_sided) == (2, 2, 2, False)
    dataset = freeze(actor=studio.admin, project=project)
    assert dataset.counts["singles"] == 2
    found = [(record.prompt_id, record.score, record.response_tokens) for record in feedback_records(dataset)]
    assert found == [(str(item.prompt_id), score, (100, 2)) for item, score in zip(items, (1, 4), strict=False)]
    (chosen,) = demonstrations(project, DemonstrationRules(minimum_demonstrations=2))
    assert (chosen.sample, chosen.record.response) == (items[1].first, "answer 3")
    assert chosen.record.prompt.endswith("User: And a soft one?\nAssistant:")


def test_a_score_of_1_and_a_bad_turn_say_the_same(studio):
    project = studio.ready_project(pair_percent=0)
    asked(studio, FIVE[:1], project)
    studio.items(project, singles=1)
    ada = studio.rater(project)
    studio.say(ada, studio.shown(ada, project), "2")
    studio.say(ada, studio.shown(ada, project), "1")
    assert usable_ratings(project).is_one_sided


def test_the_export_has_every_turn_and_every_verdict(studio):
    project, item = asked(studio)
    ada = studio.rater(project)
    studio.say(ada, studio.shown(ada, project), "1,2,1")
    (line,) = (json.loads(line) for line in rating_lines(project))
    assert (line["mode"], line["details"], line["verdict"]) == ("turns", {"turns": [1, -1, 1]}, 1)
    assert line["prompt"]["turns"] == [{"role": role, "text": text} for role, text in FIVE]
    assert (line["prompt"]["text"], line["prompt"]["sha256"]) == (item.prompt.text, sha256(item.prompt.text))
    assert line["answers"][0]["text"] == " Because of salmonella."


def test_the_share_of_turns_fills_the_queue_with_one_answer_each(studio):
    project = update_modes(
        actor=studio.admin, project=studio.ready_project(), rules=[], pair_percent=0, turns_percent=100
    )
    conversation(project)
    studio.prompts(project, 1)
    plan = plan_items(project, list(Prompt.objects.filter(project=project)))
    assert [(kind, count) for _, kind, count in plan] == [("turns", 1)] * 2


def test_a_simulated_rater_judges_each_turn_by_its_worth(studio):
    turns = [("user", "a"), ("assistant", "A wonderful, superb film."), ("user", "b")]
    project, _ = asked(studio, turns, text="A terrible waste, an awful mess.")
    item = shown(studio.shown(studio.rater(project), project), project)
    rater = SimulatedRater(User(), 5.0, random.Random(0))
    found = [rater.choose(item) for _ in range(50)]
    assert found.count("1,2") > 45
    assert all(re.fullmatch("[123],[123]", choice) for choice in found)


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_a_plain_form_judges_all_turns_and_history_shows_and_changes_them(studio):
    project, _ = asked(studio)
    ada = studio.rater(project)
    client, address = enter(ada), f"/p/{project.slug}/rate/"
    html = client.get(address).content.decode()
    assert re.findall(r'type="radio" form="verdict" name="turn:(\d)" value="(\d)"', html) == [
        (turn, key) for turn in "123" for key in "123"
    ]
    assert "Is each turn of the assistant good?" in html
    assert "Assistant:" not in html
    fields = {**fields_of(html), "choice": "judged"}
    answer = client.post(address, {**fields, "turn:1": "1", "turn:3": "1"}, follow=True)
    assert "for each turn of the assistant; there are 3. So nothing was saved." in (again := answer.content.decode())
    assert re.findall(r'name="(turn:\d)" value="(\d)" data-word="\w+" checked', again) == [
        ("turn:1", "1"),
        ("turn:3", "1"),
    ]
    said = {
        "turn:3": "3",
        "turn:1": "1",
        "turn:2": "2",
        "turn:1000": "1",
        "turn:x": "1",
    }  # what is no turn does nothing
    assert client.post(address, {**fields, **said}).status_code == 302
    rating = Rating.objects.get()
    assert rating.details == {"turns": [1, -1, 0]}
    history = client.get(f"/p/{project.slug}/history/").content.decode()
    assert "Turn 1 good, turn 2 bad, turn 3 unsure" in history
    assert ">Why not?</div>" in history
    found = re.findall(r'<li><span class="tag">(\w+)</span> <span[^>]*>([^<]*)', history)
    read = [text.strip() for text in turns_in_order(Comparison.objects.get())]
    assert found == [*zip(("good", "bad", "unsure"), read, strict=True)]
    own = f"/p/{project.slug}/history/{rating.presentation.token}/"
    html = client.get(own).content.decode()
    assert re.findall(r'name="turn:(\d)" value="(\d)" data-word="\w+" checked', html) == [
        *zip("123", "123", strict=True)
    ]
    client.post(own, {**fields_of(html), "choice": "judged", "turn:1": "1", "turn:2": "2", "turn:3": "1"})
    assert Rating.objects.get(is_current=True).details == {"turns": [1, -1, 1]}
    admin = enter(studio.admin)
    for page in (f"/p/{project.slug}/ratings/", f"/p/{project.slug}/ratings/{rating.pk}/"):
        answer = admin.get(page)
        if answer.status_code == 200:
            assert "turn 1 good, turn 2 bad, turn 3" in answer.content.decode().lower()


def test_a_plain_prompt_is_shown_as_ever_with_one_turn_to_judge(studio):
    project, item = asked(studio, turns=())
    html = enter(studio.rater(project)).get(f"/p/{project.slug}/rate/").content.decode()
    assert html.count('id="shown-prompt"') == 1
    assert item.prompt.text in html
    assert set(re.findall(r'name="(turn:\d)"', html)) == {"turn:1"}
    assert "data-turn-step" not in html


def test_a_conversation_that_was_skipped_can_be_judged_after_all(studio):
    project, _ = asked(studio)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    skip(rater=ada, project=project, token=presentation.token)
    assert studio.say(ada, presentation, "1,1,1", act=revise).rating.turn_verdicts.count() == 3


def test_the_modes_page_takes_the_share_and_the_question(studio):
    project = studio.ready_project()
    client, address = enter(studio.admin), f"/p/{project.slug}/settings/modes/"
    values = values_of(client.get(address).content.decode())
    changed = {**values, "pair_percent": "40", "turns_percent": "60", "turns_question": "Good so far?"}
    assert client.post(address, changed).status_code == 302
    project.refresh_from_db()
    assert (project.turns_percent, project.turns_question) == (60, "Good so far?")
    refused = client.post(address, {**changed, "turns_percent": "61"})
    assert "add up to 101 % (pair 40\xa0%, turns 61\xa0%)" in refused.content.decode()
    assert not Comparison.objects.exists()
