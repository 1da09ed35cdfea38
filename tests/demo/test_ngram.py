import numpy as np
import pytest

from demo.ngram import KneserNey, pack


def test_ngrams_are_packed_with_their_first_token_highest():
    assert pack(np.array([1, 2, 3], dtype=np.uint16), 2, bits=4).tolist() == [0x12, 0x23]


def test_a_bigram_by_hand():
    # a b a b a c: pairs ab 2, ba 2, ac 1. Discount of pairs: one seen once, two seen twice: 1 / (1 + 2 * 2) = 0.2.
    # Left contexts: a after b, b after a, c after a: 1 each, of 3. All three were counted once: discount 3 / 3 = 1.
    # So the lowest order gives its whole mass to the uniform third: 1 / 3 each.
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), order=2, vocab_size=3)
    found = model.probabilities(np.array([0, 1, 0, 2]))
    b_after_a = (2 - 0.2) / 3 + 0.2 * 2 / 3 / 3
    a_after_b = (2 - 0.2) / 2 + 0.2 * 1 / 2 / 3
    c_after_a = (1 - 0.2) / 3 + 0.2 * 2 / 3 / 3
    assert found == pytest.approx([b_after_a, a_after_b, c_after_a])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_probabilities_after_any_context_sum_to_one(order):
    tokens = np.random.default_rng(0).integers(0, 6, 400)
    model = KneserNey(tokens, order, vocab_size=7)  # token 6 never came
    for context in ([0, 1, 2, 3, 4], [5, 5, 5, 5, 5], [6, 6, 6, 6, 6]):
        found = [model.probabilities(np.array([*context, token]))[-1] for token in range(7)]
        assert sum(found) == pytest.approx(1.0)
        assert min(found) > 0


def test_longer_context_helps_where_there_is_some():
    tokens = np.tile([0, 1, 2, 1, 0, 3], 60)
    costs = [KneserNey(tokens[:300], order, 4).bits_per_character(tokens[300:], 60) for order in (1, 2, 3)]
    assert costs[0] > costs[1] > costs[2]


def test_too_many_bits_are_refused():
    with pytest.raises(ValueError, match="63 bits"):
        KneserNey(np.arange(9), order=5, vocab_size=8192)
