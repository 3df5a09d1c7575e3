import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from demur.core.cascade.ngrams import (
    STRETCH,
    counts_of,
    overlapping_stretches,
    tfidf_features,
    word_key,
    words_of,
)

WORDS = st.lists(st.sampled_from(["so", "then", "harm", "x9"]), max_size=80)


@given(words=WORDS)
def test_any_five_words_in_a_row_lie_within_one_stretch(words):
    numbered = [f"{n}" for n in range(len(words))]
    found = overlapping_stretches(numbered) or [numbered]
    assert all(len(some) <= STRETCH for some in found)
    for at in range(max(0, len(words) - 4)):
        five = set(numbered[at : at + 5])
        assert any(five <= set(some) for some in found)


@given(words=WORDS)
def test_features_have_length_one_for_each_kind_that_is_known(words):
    counts = counts_of(words)
    place = {key: at for at, key in enumerate(dict.fromkeys(k for c in counts for k in c))}
    at_K, value_K = tfidf_features(counts, place, np.ones(len(place)))
    assert len(at_K) == len(set(at_K.tolist())) == len(place)
    assert np.isclose(value_K @ value_K, 2.0 if words else 0.0)


def test_digests_are_the_same_in_every_process():
    assert word_key("river") == 0xB2431DFB
    assert words_of("Name a RIVER, née x_9!") == ["name", "a", "river", "née", "x_9"]


def test_unknown_terms_take_no_part():
    at_K, value_K = tfidf_features(counts_of(["river"]), {}, np.zeros(0))
    assert len(at_K) == len(value_K) == 0
