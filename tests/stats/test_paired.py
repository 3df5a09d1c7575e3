from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, false_discovery_control

from demur.base.errors import DataError, Undefined
from demur.core.rates import lower_bound, upper_bound
from demur.stats import paired
from demur.stats.paired import compare_paired, holm, mcnemar_p, most_lost
from demur.stats.points import Resampling

HOW = Resampling(seed=0, draws=2000)
COUNTS = st.integers(0, 60)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def items(both, gained, lost, neither):
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return before, after, [str(n) for n in range(len(before))]


def test_figures_are_the_counts_of_a_small_table():
    found = compare_paired(*items(40, 4, 12, 44), HOW)
    assert (found.before.hits, found.after.hits, found.before.of, found.groups) == (
        52,
        44,
        100,
        100,
    )
    assert (found.gained, found.lost, found.difference) == (4, 12, pytest.approx(-0.08))
    # 2 * P(Bin(16, 1/2) <= 4) = 2 * 2517 / 65536
    assert found.p == pytest.approx(0.0768127, abs=1e-7)
    low, high = found.interval
    assert low < -0.08 < high
    assert found.most_lost > 0.08


@given(gained=COUNTS, lost=COUNTS)
def test_mcnemar_agrees_with_scipys_binomial_test(gained, lost):
    theirs = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_p(gained, lost) == pytest.approx(theirs, rel=1e-9)


def test_holms_adjustment_on_a_table_worked_by_hand():
    # sorted 0.005 0.01 0.03 0.04, times 4 3 2 1 = 0.02 0.03 0.06 0.04, then never decreasing
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(P_VALUES)
def test_holm_lies_between_benjamini_hochberg_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, h in zip(p_values, adjusted, strict=True):
        assert p <= h <= min(1.0, len(p_values) * p) + 1e-12
    assert all(
        h >= b - 1e-9 for h, b in zip(adjusted, false_discovery_control(p_values), strict=True)
    )
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_no_change_is_no_proof_of_no_loss():
    found = compare_paired(*items(9, 0, 0, 1), HOW)
    assert found.p == 1.0
    assert found.interval[0] < -0.25
    assert found.interval[1] > 0.25
    assert found.most_lost > 0.25  # ten items say little, however alike
    assert compare_paired(*items(900, 0, 0, 100), HOW).most_lost < 0.004


@settings(max_examples=30, deadline=None)
@given(COUNTS, COUNTS, COUNTS)
def test_more_lost_items_raise_the_bound_and_more_gained_ones_lower_it(gained, lost, same):
    n = gained + lost + same + 1
    assert most_lost(gained, lost + 1, n, 0.05) >= most_lost(gained, lost, n, 0.05)
    assert most_lost(gained + 1, lost, n, 0.05) <= most_lost(gained, lost, n, 0.05)
    assert most_lost(gained, lost, n, 0.05) >= (lost - gained) / n


@pytest.mark.parametrize(
    ("n", "gain", "loss"),
    [(10, 0.1, 0.3), (30, 0.0, 0.1), (50, 0.02, 0.04), (50, 0.3, 0.3), (300, 0.05, 0.05)],
)
def test_the_bound_of_the_loss_holds_as_often_as_it_says_and_is_sharper_than_two_bounds(
    n, gain, loss
):
    rng = np.random.default_rng(7)
    seen, times = np.unique(
        rng.multinomial(n, [gain, loss, 1 - gain - loss], size=2000), axis=0, return_counts=True
    )
    common = np.argsort(-times)[:120]  # of outcomes: each bound is worked out once
    bounds = np.array([most_lost(int(g), int(b), n, 0.05) for g, b, _ in seen[common]])
    missed = int(times[common][bounds < loss - gain].sum())
    unseen = 2000 - int(times[common].sum())
    assert missed <= binom.ppf(0.999, 2000 - unseen, 0.05)
    apart = [
        upper_bound(int(b), n, 0.025) - lower_bound(int(g), n, 0.025) for g, b, _ in seen[common]
    ]
    assert (bounds < np.array(apart)).all()


def test_zero_changes_spend_the_whole_delta():
    assert most_lost(0, 0, 100, 0.05) == pytest.approx(upper_bound(0, 100, 0.05), abs=2e-4)


def test_groups_that_change_together_are_bounded_by_their_groups(monkeypatch):
    monkeypatch.setattr(paired, "most_lost", cache(paired.most_lost))
    rng, missed = np.random.default_rng(3), 0
    for seed in range(100):
        shift_G = rng.choice([-1, 0, 1], p=[0.25, 0.6, 0.15], size=60)
        before, after = np.repeat(shift_G == -1, 5), np.repeat(shift_G == 1, 5)
        groups = [str(g) for g in np.repeat(np.arange(60), 5)]
        how = Resampling(seed=seed, draws=10)
        found = compare_paired(before.tolist(), after.tolist(), groups, how)
        missed += found.most_lost < 0.1
    assert missed <= binom.ppf(0.999, 100, 0.05)


def test_runs_that_do_not_pair_up_are_refused():
    with pytest.raises(DataError, match="2 items before, 1 after"):
        compare_paired([True, False], [True], ["a", "b"], HOW)
    with pytest.raises(DataError, match="0 items before"):
        compare_paired([], [], [], HOW)
    with pytest.raises(Undefined):
        most_lost(0, 0, 0, 0.05)
