"""What admins' pages say in words: each sentence whole in every language, and each figure with its origin."""

from dataclasses import replace

import pytest
from django.test import Client
from django.utils import translation

from rlhf_core.config import PRESETS, PolicyConfig
from tests.studio import Studio, open_studio
from tests.turns import (
    begin_watched_run,
    evaluate,
    hold_out,
    rate,
    rate_by_machine,
    turn,
)
from tests.web.admin_pages import words_of
from webapp.errors import ImportRefused, LineError, OneSidedFeedback
from webapp.feedback.models import Comparison, Slot
from webapp.projects.models import Rule
from webapp.registry.services import promote
from webapp.runs.board import words_of_kind
from webapp.runs.figures import say_left
from webapp.runs.models import Run
from webapp.runs.run_details import shown_settings
from webapp.runs.start_words import size_of
from webapp.runs.steps import Steps


@pytest.fixture
def studio(db) -> Studio:
    return open_studio()


def read(studio: Studio, end: str = "", language: str = "en") -> str:
    """The source of a page as its admin reads it in ``language``."""
    studio.admin.language = language
    studio.admin.save()
    client = Client()
    client.force_login(studio.admin)
    answer = client.get(f"/p/film-reviews/{end}")
    translation.activate("en")  # the request's language stays in the thread
    assert answer.status_code == 200
    return answer.content.decode()


# --- Sentences -------------------------------------------------------------------------------------------------------


def test_amounts_have_the_form_that_their_number_asks_for():
    one = replace(PRESETS["sft"]["CPU"], epochs=1, batch_size=1, lora_rank=4)
    assert size_of("sft", one) == ["1 pass", "1 demonstration a step", "adapters of rank 4"]
    assert size_of("evaluate", replace(PRESETS["evaluate"]["CPU"], prompts=0))[0] == "all held-out prompts"
    with translation.override("de"):
        assert size_of("sft", one)[:2] == ["1 Durchgang", "1 Demonstration je Schritt"]
        assert words_of_kind("rewrite", 2) == "2 Neufassungen"
    with translation.override("ar"):
        several = replace(PRESETS["reward"]["CPU"], epochs=3, batch_size=16)
        assert size_of("reward", several)[:2] == ["3 مرات مرور", "16 تقييمًا لكل خطوة"]


def test_how_far_a_run_is_stands_in_sentences_of_its_language():
    steps = Steps("policy", 3, 10)
    assert (steps.at, steps.failed) == ("update 3 of 10", "This run failed at update 3 of 10")
    with translation.override("de"):
        assert steps.cancelled == "Abgebrochen in Runde 3 von 10."  # not "bei Runde"
        assert Steps("reward", 0, None).none_came == "Keine Zahlen: Der Lauf endete vor seinem ersten Schritt."
        assert say_left(240) == "noch etwa 4 min"
    assert say_left(None) == ""


def test_every_kind_of_item_and_of_run_has_words():
    for kind in Comparison.Kind.values:
        assert words_of_kind(kind, 2).startswith("2 ")
    for kind in ("sft", "reward", "policy", "evaluate"):
        assert Steps(kind, 1, 2).along.startswith("by ")


def test_a_state_and_a_source_are_written_as_their_language_writes_them(studio):
    rate(studio, 16)
    rate_by_machine(studio, 4)
    rate(studio, 1, source="ai")
    turn(studio)
    assert '<span class="tag good">succeeded</span>' in read(studio, "runs/")
    assert '<span class="tag good">gelungen</span>' in read(studio, "runs/", "de")
    assert '<span class="tag ai">AI</span>' in read(studio, "ratings/")
    german = read(studio, "ratings/", "de")
    assert '<span class="tag ai">KI</span>' in german
    assert '<span class="tag simulated">simuliert</span>' in german


def test_refusals_are_sentences_of_their_language():
    assert str(OneSidedFeedback(ties=1, singles=3)) == (
        "Nothing can be learned from these ratings. The only comparison is a tie. Here all 3 single ratings give the "
        "same score. Collect ratings in which some answers are better than others."
    )
    lines = [LineError(1, "it is empty"), LineError(4, "it is empty")]
    assert str(ImportRefused(lines)).startswith(
        "Nothing was imported: line 1: it is empty (and 1 more such line). Mend"
    )
    with translation.override("de"):
        assert "Der einzige Vergleich ist unentschieden." in str(OneSidedFeedback(ties=1, singles=0))
        assert "(und 1 weitere solche Zeile)." in str(ImportRefused(lines))


# --- The loop --------------------------------------------------------------------------------------------------------


def test_the_loop_says_what_waits_and_what_of_it_is_left_to_people(studio):
    rate_by_machine(studio, 20)
    assert "0 items waiting · last rating just now" in words_of(read(studio))
    studio.add_item("An opening", "One", "Two")
    Rule.objects.create(project=studio.project, text="It names nobody.")
    assert "1 item waiting · last rating" in words_of(read(studio)), "of one kind: its number says it all"
    studio.add_item("Another opening", "One", kind="rewrite")
    shown = words_of(read(studio))
    assert "2 items waiting (1 pair, 1 rewrite)" in shown
    assert "Simulated raters skip rules and rewrites" in shown
    Slot.objects.filter(comparison__kind="rewrite").update(state=Slot.State.VOID)
    assert "Simulated raters skip" not in words_of(read(studio))


def test_new_ratings_are_counted_from_a_reward_model_that_is_named(studio):
    rate(studio, 20)
    promote(project=studio.project, checkpoint=turn(studio), actor=studio.admin, expected_epoch=1)
    rate(studio, 1)
    assert "1 rating has come since reward model 1 was trained." in words_of(read(studio))
    rate(studio, 1)
    assert "2 ratings have come since reward model 1 was trained." in words_of(read(studio))


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_a_policys_figures_say_what_they_were_measured_on(studio):
    rate(studio, 20)
    turn(studio)
    alone = words_of(read(studio, "policies/2/"))
    assert "At the last update of its training Means over the answers that run 2 drew last" in alone
    assert "The evaluation above" not in alone
    hold_out(studio, 3)
    evaluate(studio)
    both = words_of(read(studio, "policies/2/"))
    assert "Evaluation on held-out prompts" in both
    assert "The evaluation above drew other answers, to held-out prompts, so its figures differ." in both


def test_no_caption_names_a_judge_where_there_is_none(studio):
    rate(studio, 40)
    turn(studio)
    html = read(studio, "runs/2/")
    assert "judge: " not in words_of(html).lower()
    assert "judge_score" not in html
    watched = begin_watched_run(studio)
    assert 'data-metrics="score reward judge_score"' in read(studio, f"runs/{watched.run.number}/")


def test_settings_of_a_run_stand_in_the_order_of_the_form_in_every_language(studio):
    rate(studio, 20)
    turn(studio)
    run = Run.objects.get(kind="policy")
    run.config["gone"] = 1
    run.save()
    run.refresh_from_db()
    names = [setting.name for setting in shown_settings(run)]
    assert names == [*PolicyConfig.__dataclass_fields__, "gone"]
    assert "Lernrate <code>learning_rate</code>" in read(studio, "runs/1/", "de")


def test_the_log_is_marked_as_english_whatever_the_page_is(studio):
    rate(studio, 20)
    turn(studio)
    html = read(studio, "runs/1/", "ar")
    assert '<ol class="log" lang="en" dir="ltr">' in html
    assert "ما يكتبه البرنامج نفسه، بالإنجليزية." in html
