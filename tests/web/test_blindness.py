"""No byte of the rater page tells which policy wrote what."""

import re

import pytest

from tests.studio import Studio, open_studio
from tests.web.rater_pages import HTMX, enter, look, texts_of, url
from webapp.feedback.models import Slot

pytestmark = pytest.mark.django_db


@pytest.fixture
def studio() -> Studio:
    return open_studio()


def bare(answer) -> tuple[str, dict[str, str]]:
    """A page and its headers without what is drawn at random: nonces and the tokens of slots and forms."""
    html = answer.content.decode()
    marks = [*re.findall(r'name="(?:csrfmiddlewaretoken|token|submission_id)" value="([^"]*)"', html)]
    marks += re.findall(r"/history/([0-9a-f-]{36})/", html)
    for mark in marks:
        html = html.replace(mark, "")
    headers = {key: value for key, value in answer.headers.items() if key not in ("Set-Cookie", "Expires")}
    if "Content-Security-Policy" in headers:
        headers["Content-Security-Policy"] = re.sub(r"'nonce-[^']*'", "", headers["Content-Security-Policy"])
    return re.sub(r'"X-CSRFToken": "[^"]*"', "", html), headers


def test_swapping_which_policy_made_a_and_b_changes_no_byte_of_any_page(studio):
    """Equal texts at equal places: the page, the fragment fetched ahead, the verdict's answer, undo and the list."""
    from webapp.feedback.services import make_items
    from webapp.registry.models import Checkpoint, ServingPointer

    old, new = [
        Checkpoint.objects.create(
            project=studio.project, kind="policy", version=2 + n, sha256=sha * 64, metrics={"reward": n}
        )
        for n, sha in enumerate("ab")
    ]
    texts = ("The text on the left.", "The text on the right, which is longer.")

    def pages(maker_of_left, maker_of_right, name) -> list[tuple[str, dict[str, str]]]:
        client = enter(studio, name)
        Slot.objects.filter(state="open").update(state="void")
        ServingPointer.objects.update(checkpoint=maker_of_left)  # else what a pause hands back is withdrawn
        for text in ("The opening", "Another opening", "A third opening"):
            by_prompt = {}
            for maker, answer in zip((maker_of_left, maker_of_right), texts, strict=True):
                studio.checkpoint = maker
                (sample,) = studio.add_samples(text, answer)
                by_prompt.setdefault(sample.prompt_id, []).append(sample)
            make_items(project=studio.project, samples_by_prompt=by_prompt)
        while True:  # until the lot puts both items as wanted
            html, fields = look(client, studio)
            ahead = client.get(url(studio) + f"?showing={fields['token']}", headers=HTMX)
            sides = [texts_of(page)[1:] for page in (html, ahead.content.decode())]
            if sides == [list(texts), list(texts)]:
                break
            client.post(url(studio, "rate/pause/"))
        found = [client.get(url(studio)), ahead]
        found.append(client.post(url(studio), {**fields, "choice": "2"}, headers=HTMX))
        found.append(client.get(url(studio, "rate/undo/"), headers=HTMX, follow=True))
        found.append(client.get(url(studio, "history/")))
        found.append(client.get(url(studio, f"history/{fields['token']}/")))
        return [bare(page) for page in found]

    one, other = pages(old, new, "ada"), pages(new, old, "adx")
    for (html, headers), (html_swapped, headers_swapped) in zip(one, other, strict=True):
        assert re.sub("<time.*?</time>", "", html) == re.sub("<time.*?</time>", "", html_swapped).replace("adx", "ada")
        assert headers.pop("Content-Length") == headers_swapped.pop("Content-Length")
        assert headers == headers_swapped
        assert not re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}", html), "no time-ordered id"


def test_the_page_is_the_same_whichever_policy_wrote_what(studio, rater):
    """Blindness: equal texts of two policies, shown in the same place, give the same bytes but for random marks."""
    from webapp.registry.models import Checkpoint

    pages = []
    for sha in ("a" * 64, "b" * 64):
        studio.checkpoint = Checkpoint.objects.create(
            project=studio.project, kind="policy", version=2 + len(pages), sha256=sha, metrics={"reward": len(pages)}
        )
        studio.add_item("The same opening", "the same text, twice the same length")
        answer = rater.get(url(studio))
        html, fields = look(rater, studio)
        Slot.objects.filter(token=fields["token"]).update(state="void", rater=None, lease_until=None)
        known = {key: value for key, value in answer.headers.items() if key not in ("Set-Cookie", "Expires")}
        csp = re.sub(r"'nonce-[^']*'", "", known.pop("Content-Security-Policy"))
        for mark in (*re.findall(r'name="csrfmiddlewaretoken" value="([^"]*)"', html), *fields.values()):
            html = html.replace(mark, "")
        html = re.sub(r'"X-CSRFToken": "[^"]*"', "", html)
        pages.append((html, known, csp))
    assert pages[0] == pages[1]
    html = pages[0][0]
    for hidden in ("policy", "checkpoint", "a" * 16, "b" * 16, "v1", "v2", "v3"):
        assert hidden not in html
    assert not re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}", html), "no time-ordered id"
