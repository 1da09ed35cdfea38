"""The rater's guide: every mode has its section and picture, and the pictures are light."""

import re
from pathlib import Path

from tests.house.guide_pictures import FOLDER, LARGEST, PICTURES
from webapp.feedback.modes import MODES

GUIDE = (Path(__file__).parents[2] / "docs/rater-guide.md").read_text(encoding="utf-8")


def test_the_guide_shows_every_picture_with_words_and_no_other():
    shown = re.findall(r"!\[([^\]]+)\]\(pictures/rate-([a-z-]+)\.webp\)", GUIDE)
    assert sorted(name for _, name in shown) == sorted(picture.name for picture in PICTURES)
    assert all(len(words) > 10 for words, _ in shown)


def test_every_mode_has_a_picture():
    assert {picture.kind for picture in PICTURES} == set(MODES), "a mode takes one entry in guide_pictures.py"


def test_the_pictures_are_there_and_light():
    for picture in PICTURES:
        content = (FOLDER / f"rate-{picture.name}.webp").read_bytes()
        assert content[8:12] == b"WEBP", "taken by: make guide"
        assert len(content) <= LARGEST, picture.name
