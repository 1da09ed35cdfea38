"""Texts on the rater page: formatted where they are Markdown, and word for word always."""

import pytest

from tests.markup import see
from webapp.typeset import KEPT_BYTES, Typeset, kept, typeset, typeset_anew, weight_of
from webapp.typeset.cache import WeighedCache
from webapp.typeset.code import highlighted
from webapp.typeset.formulas import to_mathml


def formatted(text: str) -> str:
    found = typeset(text).formatted
    assert found is not None
    return found


def test_markdown_becomes_elements_each_block_with_its_own_direction():
    html = formatted(
        "# Title\n\n**b** and *i*\nnext line\n\n- one\n- two\n\n> \u05e9\u05dc\u05d5\u05dd\n\n|a|b|\n|-|-:|\n|1|2|"
    )
    for piece in (
        '<h3 dir="auto">Title</h3>',  # below the page's own headings
        "<strong>b</strong> and <em>i</em><br>\nnext line",
        '<li dir="auto">one</li>',
        '<blockquote dir="auto">',
        '<p dir="auto">\u05e9\u05dc\u05d5\u05dd</p>',
        '<td dir="auto" class="right">2</td>',
    ):
        assert piece in html


@pytest.mark.parametrize(
    "text", ["Plain prose; isn't it?\n\nTwo paragraphs - and 3 < 4.", "w" * 40_000, "- a\n" * 9000, ""]
)
def test_what_formatting_would_not_change_or_takes_too_long_is_shown_word_for_word_alone(text):
    shown = typeset(text)
    assert shown.formatted is None
    assert see(shown.raw).text == text


def test_a_link_shows_where_it_leads_and_leads_nowhere():
    html = formatted('[the **site**](http://\u0430pple.test/x "a <title>") and ![pixel](http://b.test/p.png)')
    assert "<a" not in html
    assert "<img" not in html
    assert (
        'the <strong>site</strong> <span class="target">(http://xn--pple-43d.test/x "a &lt;title&gt;")</span>' in html
    )
    assert "http://b.test/p.png" in html


def test_nothing_that_markdown_drops_is_dropped():
    html = formatted("[note]: http://a.test 'dropped'\n\n<!-- a comment -->\n\n```python title=x\ny\n```")
    text = see(html).text
    assert all(piece in text for piece in ("[note]: http://a.test 'dropped'", "<!-- a comment -->", "python title=x"))


def test_code_is_coloured_by_classes_and_keeps_every_character():
    code = "\n\ndef f(x):\n\treturn 'é' # <b>\n"
    html = highlighted(code, "Python")
    assert '<span class="c-k">def</span>' in html
    assert "style" not in html
    assert see(html).text == code
    assert highlighted("x = 1", "no-such-language") == "x = 1"
    assert "<span" not in highlighted("x = 1\n" * 301, "python")
    assert "<span" not in highlighted("x" * 301, "python")


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        (r"so \(a<b\)", 'so <math display="inline"><mrow><mi>a</mi><mo>&lt;</mo><mi>b</mi></mrow></math>'),
        ("so $x^2$.", "<msup><mi>x</mi><mn>2</mn></msup>"),
        ("$$\n\\frac{1}{2}\n- c\n$$", '<p class="display"><math display="block"><mrow><mfrac>'),
        ("\\[\nx\n\\]\ntext", "</math></p><p"),
        (r"see \[ x \] here", '<math display="block">'),
    ],
)
def test_latex_becomes_mathml(text, piece):
    assert piece in formatted(text)


@pytest.mark.parametrize(
    "source",
    [
        r"\frac{a",
        r"\left(",
        r"\nosuch{x}",
        "{" * 900,
        r"\sqrt{" * 100 + "x" + "}" * 100,
        "x" * 2001,
        r"\href{http://evil.test}{x}",
        r"\phantom{hidden}",
        r"\color{white}{x}",
        "a\u202eb",
    ],
)
def test_latex_that_is_broken_or_hides_something_stays_as_it_was_written(source):
    assert to_mathml(source, is_display=False) is None
    if len(source) < 100:
        assert see(formatted(f"so ${source}$ *x*")).text.startswith(f"so ${source}$")


def test_no_part_of_a_formula_is_drawn_over_another():
    assert '<mspace width="3em">' in formatted(r"so $\text{yes}\hspace{3em}\text{no}$")
    assert "<mspace>" in formatted(r"so $\text{yes}\hspace{-3em}\text{no}$")


def test_prices_are_no_formulas():
    assert "math" not in formatted("*from* $5 to $10, or $ 7$")


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("a\u202eb", ["U+202E"]),
        ("\u2066a\u2069", ["U+2066", "U+2069"]),
        ("a" + "\u200b" * 3 + "b", ["U+200B ×3"]),
        ("x\u200dy", ["U+200D"]),
        ("\0\x07", ["U+0000", "U+0007"]),
        ("z" + "\u0301" * 20, ["+12"]),
        ("x\U000e0041\U000e0042", ["U+E0041", "U+E0042"]),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", []),  # Persian needs it
        ("\U0001f469\u200d\U0001f467 \u2764\ufe0f", []),  # emoji too
        ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", []),  # the flag of England
        ("Vie\u0323\u0302t, \u05e9\u05c1\u05b8", []),
    ],
)
def test_what_cannot_be_seen_is_marked_and_kept(text, marks):
    for html in (typeset(text).raw, formatted(f"{text} *x*") if "\0" not in text else ""):
        found = [part.partition('"')[0] for part in html.split('data-mark="')[1:]]
        assert found == (marks if html else [])
    assert see(typeset(text).raw).text == text


def test_what_is_kept_is_bounded_by_its_bytes():
    made = []

    def make(text: str) -> Typeset:
        made.append(text[:1])
        return typeset_anew(text)

    cache = WeighedCache(2**20, make, weight_of)
    texts = {
        name: name + "\U0001f600" * 3000 for name in "abcdefghijklmnopqrstuvwxyz"
    }  # 12 kB each, 24 kB with the raw
    for text in texts.values():
        assert cache(text) == typeset_anew(text)
    kept = [text for text in texts.values() if text in cache.kept]
    assert cache.bytes == sum(weight_of(text, typeset_anew(text)) for text in kept) <= 2**20
    assert len(kept) == len(texts), "26 times 24 kB fit"
    for number in range(30):
        cache(f"{number} " + texts["a"])
    assert 2**20 - 2**16 < cache.bytes <= 2**20
    assert len(cache.kept) == (2**20) // weight_of(texts["b"], typeset_anew(texts["b"])) == 43
    del made[:]
    cache("29 " + texts["a"])
    assert made == [], "the last one is kept"
    cache(texts["b"])
    assert made == ["b"], "and the oldest went"
    heavy = "\u202ea" * 500  # a mark a character: 500 times about a hundred characters of two bytes
    cache(heavy)
    assert heavy not in cache.kept
    assert cache.bytes <= 2**20


def test_texts_that_weigh_most_do_not_add_up():
    for number in range(40):
        typeset(f"{number} " + "\u202e\U0001f600" * 4000)
    assert kept.bytes <= KEPT_BYTES
    assert sum(weight_of(text, made) for text, (made, _) in kept.kept.items()) == kept.bytes
