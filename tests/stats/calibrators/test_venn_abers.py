import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from demur.stats.calibrators.venn_abers import venn_abers_of
from tests.stats.calibrators.golden import BINARY, EVENT_N, GRID, SCORE_N, near

rows = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=30)


def by_definition(p_N, event_N, score, added):
    """Isotonic value at `score` once a row with label `added` stands there."""
    x = np.append(p_N, score)
    y = np.append(event_N.astype(float), added)
    value_G, group_N, rows_G = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(group_N, weights=y) / rows_G
    return isotonic_regression(means, weights=rows_G.astype(float)).x[
        np.flatnonzero(value_G == score)[0]
    ]


def test_it_equals_the_reference():
    found, expected = venn_abers_of(SCORE_N, EVENT_N), BINARY["mapie_venn_abers"]
    p0_G, p1_G = found.interval(GRID)
    near(p0_G, expected["p0"], 1e-6)
    near(p1_G, expected["p1"], 1e-6)
    near(found.at(GRID), expected["p"], 1e-6)


@given(rows)
def test_both_ends_are_the_isotonic_fits_of_the_definition(labelled):
    p_N, event_N = np.array([p / 10 for p, _ in labelled]), np.array([e for _, e in labelled])
    found = venn_abers_of(p_N, event_N)
    at = np.arange(-1, 22) / 20  # on the scores, between them, and outside
    p0, p1 = found.interval(at)
    near(p0, [by_definition(p_N, event_N, s, 0.0) for s in at], 1e-12)
    near(p1, [by_definition(p_N, event_N, s, 1.0) for s in at], 1e-12)
    assert (p0 <= p1).all()
    assert ((p0 <= found.at(at)) & (found.at(at) <= p1)).all()


def test_the_interval_holds_its_word_on_new_rows():
    """On average over draws, the event rate lies between the mean ends: the finite-sample promise,
    n = 50 each.
    """
    rng = np.random.default_rng(8)
    low, high, hits = [], [], []
    for _ in range(400):
        p_N = rng.random(51)
        event_N = rng.random(51) < p_N**2
        p0, p1 = venn_abers_of(p_N[:50], event_N[:50]).interval(p_N[50:])
        low.append(p0[0])
        high.append(p1[0])
        hits.append(event_N[50])
    slack = 3 * np.std(hits) / np.sqrt(len(hits))
    assert np.mean(low) - slack <= np.mean(hits) <= np.mean(high) + slack
