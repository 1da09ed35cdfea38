"""One rule at a time: which rule is asked, verdicts, passages by their place, a page that works as a form."""

import json
import random
import re
import time
from collections import Counter
from html import unescape
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from tests.studio import enter, fields_of, values_of
from webapp.errors import ChoiceInvalid, RemarkInvalid, SettingsRefused, SubmissionConflict
from webapp.feedback.models import Comparison, Rating
from webapp.feedback.modes import Extras, verdict_in_words
from webapp.feedback.modes.rule import find
from webapp.feedback.selectors import own_item, shown
from webapp.feedback.services import make_items, revise
from webapp.projects.models import Prompt, Rule
from webapp.projects.services import update_modes
from webapp.quality.selectors import usable_ratings

RULES = ["It names no private person.", "It gives no medical advice."]
TEXT = "  Ask Dr Jekyll. \U0001f600 He lives at 4 Elm Street."  # two spaces, and a character of two UTF-16 units


def asked(studio, count=1, text=TEXT, rules=RULES):
    project = update_modes(actor=studio.admin, project=studio.ready_project(), rules=rules)
    return project, ask(studio, project, count, text)


def ask(studio, project, count, text=TEXT):
    prompts = studio.prompts(project, count)
    samples = {prompt.pk: studio.samples(prompt, 1, [text]) for prompt in prompts}
    return make_items(project=project, samples_by_prompt=samples, kinds=dict.fromkeys(samples, "rule"))


def test_each_item_asks_one_rule_and_the_least_asked_comes_first(studio):
    project, _ = asked(studio, 3)
    ask(studio, project, 3)
    assert Counter(Comparison.objects.values_list("rule__text", flat=True)) == {RULES[0]: 3, RULES[1]: 3}
    update_modes(actor=studio.admin, project=project, rules=[*RULES, "A third one."])
    items = ask(studio, project, 4)  # asked 3, 3 and never: it takes three turns to draw level, then the first is next
    assert [item.rule.text for item in items] == ["A third one."] * 3 + [RULES[0]]
    presentation = studio.shown(studio.rater(project), project)
    assert shown(presentation, project).rule == presentation.slot.comparison.rule.text


def test_without_a_rule_the_answer_is_judged_by_itself(studio):
    project = studio.ready_project()
    (item,) = ask(studio, project, 1)
    assert (item.kind, item.rule) == ("single", None)


def test_a_rule_that_is_taken_away_is_asked_no_more_and_comes_back_as_itself(studio):
    project, _ = asked(studio)
    update_modes(actor=studio.admin, project=project, rules=RULES[:1])
    assert {item.rule.text for item in ask(studio, project, 3)} == {RULES[0]}
    update_modes(actor=studio.admin, project=project, rules=RULES)
    assert sorted(Rule.objects.values_list("text", "is_active")) == [(RULES[1], True), (RULES[0], True)]
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        Rule.objects.update(text="another")
    with pytest.raises(SettingsRefused, match="write one at least"):
        update_modes(actor=studio.admin, project=project, rules=[], rule_percent=10)
    assert Rule.objects.filter(is_active=True).count() == 2


@pytest.mark.parametrize(
    ("choice", "verdict", "words"), [("1", 1, "keeps to"), ("2", -1, "breaks"), ("3", 0, "unsure about")]
)
def test_a_verdict_on_a_rule(studio, choice, verdict, words):
    project, (item,) = asked(studio)
    ada = studio.rater(project)
    presentation = studio.shown(ada, project)
    rating = studio.say(ada, presentation, choice).rating
    assert (rating.verdict, rating.details) == (verdict, {})
    assert verdict_in_words(rating) == f"{words} the rule “{item.rule.text}”"
    assert own_item(ada, project, presentation.token).choice == choice
    assert usable_ratings(project).total == 0, "keeping a rule is not being better"


def test_evidence_is_kept_by_its_place_in_the_answer_of_this_hash(studio):
    project, (item,) = asked(studio)
    ada = studio.rater(project)
    presentation, key = studio.shown(ada, project), uuid4()
    start = TEXT.index("4 Elm")
    said = (f"{start}-{start + 12}", "6-15", "9-16", f"{start + 5}-{len(TEXT)}")  # in any order, overlapping
    rating = studio.say(ada, presentation, "2", Extras(evidence=said), submission_id=key).rating
    assert rating.details == {
        "evidence": [[6, 16], [start, len(TEXT)]],
        "text_sha256": item.first.text_sha256,
    }
    assert rating.quotes == ["Dr Jekyll.", "4 Elm Street."]
    entry = own_item(ada, project, presentation.token)
    assert entry.extras.evidence == ("6-16", f"{start}-{len(TEXT)}")
    assert entry.quotes == rating.quotes
    assert studio.say(ada, presentation, "2", entry.extras, submission_id=key).is_duplicate
    with pytest.raises(SubmissionConflict):
        studio.say(ada, presentation, "2", Extras(evidence=("6-15",)))
    assert studio.say(ada, presentation, "2", act=revise).rating.details == {}


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ({"evidence": ("5-5",)}, "'5-5' is none of this answer"),
        ({"evidence": ("7-5",)}, "is none of this answer"),
        ({"evidence": (f"0-{len(TEXT) + 1}",)}, f"at most {len(TEXT)}"),
        ({"evidence": ("a-b",)}, "is none of this answer"),
        ({"evidence": ("-1-5",)}, "is none of this answer"),
        ({"evidence": tuple(f"{n}-{n + 1}" for n in range(0, 42, 2))}, "21 passages are marked: 20 at most"),
        ({"quote": "Mr Hyde"}, "'Mr Hyde' stands nowhere"),
    ],
)
def test_what_is_no_passage_is_named(studio, extras, said):
    project, _ = asked(studio)
    ada = studio.rater(project)
    with pytest.raises(RemarkInvalid, match=said):
        studio.say(ada, studio.shown(ada, project), "2", Extras(**extras))
    assert Rating.objects.count() == 0


def test_a_rule_has_three_answers(studio):
    project, _ = asked(studio)
    ada = studio.rater(project)
    with pytest.raises(ChoiceInvalid, match="1 yes, 2 no, 3 unsure"):
        studio.say(ada, studio.shown(ada, project), "4")


# --- Pages -----------------------------------------------------------------------------------------------------------


def test_a_plain_form_takes_a_copied_passage_and_every_list_shows_it(studio):
    project, (item,) = asked(studio)
    client, address = enter(studio.rater(project)), f"/p/{project.slug}/rate/"
    html = client.get(address).content.decode()
    assert item.rule.text in html
    assert 'data-lead="2"' in html
    assert re.findall(r'name="choice" value="(\d)"', html) == list("123")
    fields = fields_of(html)
    answer = client.post(address, {**fields, "choice": "2", "quote": "Mr Hyde"}, follow=True)
    assert "stands nowhere in the answer" in answer.content.decode()
    quote = "lives  at\r\n4 Elm"
    assert client.post(address, {**fields, "choice": "2", "evidence": "6-15", "quote": quote}).status_code == 302
    rating = Rating.objects.get()
    assert rating.quotes == ["Dr Jekyll", "lives at 4 Elm"]
    admin = enter(studio.admin)
    for page in (
        client.get(f"/p/{project.slug}/history/"),
        client.get(f"/p/{project.slug}/history/{fields['token']}/"),
        admin.get(f"/p/{project.slug}/ratings/"),
        admin.get(f"/p/{project.slug}/ratings/{rating.pk}/"),
    ):
        html = page.content.decode()
        assert "lives at 4 Elm”" in html
        assert item.rule.text in html


def test_an_admin_writes_rules_one_a_line(studio):
    project = studio.ready_project()
    admin, address = enter(studio.admin), f"/p/{project.slug}/settings/modes/"
    html = admin.get(address).content.decode()
    values = values_of(html)
    assert {"pair_percent", "rule_percent", "ranking_size", "rule_question"} <= set(values)
    values |= {"pair_percent": "50", "rule_percent": "20"}
    answer = admin.post(address, values)
    assert (answer.status_code, "write one at least" in answer.content.decode()) == (422, True)
    assert admin.post(address, values | {"rules": "\r\n".join(RULES)}).status_code == 302
    assert list(Rule.objects.values_list("text", flat=True)) == RULES
    assert RULES[1] in admin.get(address).content.decode()


@pytest.mark.parametrize("seed", range(40))
def test_a_quote_is_found_where_a_search_for_its_words_finds_it(seed):
    lot = random.Random(seed)
    text = "".join(lot.choices("ab.\u3000 \n\t", k=60))
    start = lot.randrange(55)
    quote = " \r\n".join(text[start : start + lot.randrange(1, 9)].split()) or "b"
    pattern = r"\s+".join(re.escape(word) for word in quote.split())
    expected = re.search(pattern, text)
    if expected is None:
        with pytest.raises(RemarkInvalid, match="stands nowhere"):
            find(quote, text)
    else:
        assert find(quote, text) == list(expected.span())


def test_a_hostile_quote_costs_no_more_than_an_honest_one():
    text = "a " * 50_000  # 100,000 characters
    begin = time.process_time()
    for quote in ("a " * 9_999 + "b", "b " + "a " * 9_998, ("a " * 99 + "aa ") * 100):
        with pytest.raises(RemarkInvalid):
            find(quote, text)
    assert find("a " * 10_000, text) == [0, 19_999]
    assert time.process_time() - begin < 2, "word by word from each place it would be 5 * 10**8 steps"


HIDDEN = "a\u202eb\u200b\u200b"  # an override of the writing direction, and two spaces without width


def test_what_cannot_be_seen_is_marked_on_the_page_of_a_rule_and_in_the_list(studio):
    project = update_modes(actor=studio.admin, project=studio.ready_project(), rules=[f"Keep {HIDDEN}."])
    studio.ask(project, "rule", f" It {HIDDEN} is.")
    Prompt.objects.filter(project=project).update(text=f"Say {HIDDEN}")
    ada = studio.rater(project)
    client = enter(ada)
    html = client.get(f"/p/{project.slug}/rate/").content.decode()
    rule = html.split('<p class="rule"')[1].split("</p>")[0]
    assert re.findall(r'data-mark="([^"]*)"', rule) == ["U+202E", "U+200B ×2"]
    marks = json.loads(unescape(re.search(r'data-marks="([^"]*)"', html)[1]))
    assert marks == [
        [4, 5, "U+202E", "right-to-left override"],
        [6, 8, "U+200B ×2", "zero width space, a run of 2"],
    ], "counted in what is left of the answer without the space at its beginning"
    client.post(f"/p/{project.slug}/rate/", {**fields_of(html), "choice": "1"})
    html = client.get(f"/p/{project.slug}/history/").content.decode()
    shown = html.split('<article class="panel">')[1].split("</article>")[0]
    assert re.findall(r'data-mark="([^"]*)"', shown) == ["U+202E", "U+200B ×2"] * 3, "rule, prompt and answer"
