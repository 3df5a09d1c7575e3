from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from demur.core.goals.goal import Promise
from demur.core.goals.parse import parse_goal
from demur.core.score import ScoreTable
from demur.stats.labelled import FacetColumn, Traits
from demur.stats.mixes import _keeping, slice_bounds
from tests.builders import policy, simulated_rows


def promise(text):
    goal = parse_goal(text)
    return Promise(
        goal=goal, confidence=0.95, status="certified", rate=None, data_digest="d", method="m"
    )


def traits(source_N, label_N):
    def column(value_N):
        names, code_N = np.unique(value_N, return_inverse=True)
        return FacetColumn(names=tuple(names.tolist()), code_N=code_N)

    kind_N = np.where(label_N == 0, "benign", "refusal")
    columns = {"kind": column(kind_N), "source": column(source_N)}
    return Traits(rows=len(label_N), columns=columns)


def rows_of(n, seed):
    rows = simulated_rows(n, 2, seed=seed)
    return replace(rows, traits=traits(np.where(np.arange(n) % 3 == 0, "a", "b"), rows.label_N))


def drawn(whole, at):
    ids = tuple(map(str, range(len(at))))
    return replace(
        whole,
        table=ScoreTable(ids=ids, logp_NC=whole.table.logp_NC[at]),
        label_N=whole.label_N[at],
        traits=traits(whole.traits.of("source")[at], whole.label_N[at]),
    )


@given(
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=5),
    st.integers(0, 10**6),
    st.floats(0.01, 0.99),
)
def test_shares_within_the_range_keep_the_level_and_others_do_not(upper, seed, level):
    requests = np.random.default_rng(seed).integers(1, 50, len(upper)).tolist()
    for at in range(len(upper)):
        found = _keeping(at, upper, requests, level)
        others = [s for s in range(len(upper)) if s != at]
        rest = np.average([upper[s] for s in others], weights=[requests[s] for s in others])
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            rate = share * upper[at] + (1 - share) * rest
            inside = found is not None and found[0] - 1e-9 <= share <= found[1] + 1e-9
            assert inside == (rate <= level) or abs(rate - level) < 1e-9


def test_bounds_of_all_slices_hold_together():
    asked, broken, draws = promise("false_refusal <= 0.2"), 0, 400
    whole = rows_of(60_000, 5)
    own = policy(2, thresholds=[0.5, 0.6])
    true = {b.name: b.rate.value for b in slice_bounds(asked, own, whole, "source", 0.9)}
    for n in range(draws):
        rows = drawn(whole, np.random.default_rng(n).integers(60_000, size=300))
        found = slice_bounds(asked, own, rows, "source", 0.9)
        broken += any(b.upper < true[b.name] for b in found)
    assert broken <= binom.ppf(0.999, draws, 0.1)


def test_shares_sum_to_one_and_a_slice_alone_is_the_whole():
    found = slice_bounds(
        promise("false_refusal <= 0.2"), policy(2), rows_of(300, 1), "source", 0.95
    )
    assert sum(b.share for b in found) == pytest.approx(1.0)
    (alone,) = slice_bounds(
        promise("false_refusal <= 0.99"), policy(2), rows_of(300, 1), "kind", 0.95
    )
    assert alone.keeps in ((0.0, 1.0), None)
