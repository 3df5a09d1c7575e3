from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from demur.core.rows.similarity import components, near_copies

texts = st.lists(
    st.lists(st.sampled_from("abcdefghij"), min_size=0, max_size=9).map(" ".join), max_size=12
)


def alike(a, b):
    a, b = set(a.split()), set(b.split())
    return len(a) >= 4 and len(b) >= 4 and len(a & b) / len(a | b) >= 0.8


@given(texts)
def test_near_copies_connect_exactly_what_brute_force_connects(some):
    brute = [(i, j) for i, j in combinations(range(len(some)), 2) if alike(some[i], some[j])]
    assert components(len(some), near_copies(some)) == components(len(some), brute)


@given(texts)
def test_every_pair_is_alike(some):
    assert all(alike(some[a], some[b]) for a, b in near_copies(some))


def test_short_and_long_texts_are_like_nothing():
    short = "what is this"
    long = " ".join(f"w{n}" for n in range(61))
    assert list(near_copies([short, short, long, long])) == []


def test_the_likeness_of_exactly_four_fifths_counts():
    assert list(near_copies(["a b c d", "a b c d e"])) == [(0, 1)]
    assert list(near_copies(["a b c d x", "a b c d y"])) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_components_name_the_smallest_connected_index(links):
    roots = components(10, links)
    assert all(roots[a] == roots[b] for a, b in links)
    assert all(roots[root] == root <= n for n, root in enumerate(roots))
    assert len(set(roots)) >= 10 - len(links)
