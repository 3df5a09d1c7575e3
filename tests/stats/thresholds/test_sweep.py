from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.decision import compared_scores, decide_many
from demur.core.threshold import NEVER
from demur.stats.thresholds.curve import category_sweeps, pooled_sweep
from demur.stats.thresholds.sweep import sweep_of
from tests.builders import THRESHOLDS, policy, rows, simulated_rows, with_category


def brute(policy, rows, column=None):
    """(refused, false, caught, own) of one policy by decide_many; of one column if given."""
    choice_N = decide_many(policy, rows.table.logp_NC).choice_N
    hit_N = choice_N > 0 if column is None else choice_N == column
    label_N = rows.label_N
    return [
        int((hit_N & of_N).sum()) for of_N in (True, label_N == 0, label_N != 0, label_N == column)
    ]


def listed(counts, at):
    return [int(field[at]) for field in (counts.refused, counts.false, counts.caught, counts.own)]


@settings(max_examples=200)
@given(rows=rows(3, max_rows=40), rule=st.sampled_from(("heaviest", "sum", "any")))
def test_a_pooled_sweep_equals_deciding_again_at_every_cut_and_at_any_threshold(rows, rule):
    sweep = pooled_sweep(policy(3, rule), rows)
    for at, threshold in enumerate(sweep.threshold_J):
        assert (
            listed(sweep.at_cuts, at)[:3]
            == brute(policy(3, rule, [float(threshold)] * 3), rows)[:3]
        )
    anywhere = sweep.at_thresholds(np.array(THRESHOLDS))
    for at, threshold in enumerate(THRESHOLDS):
        assert listed(anywhere, at)[:3] == brute(policy(3, rule, [threshold] * 3), rows)[:3]


@settings(max_examples=200)
@given(rows=rows(3, max_rows=40), inactive=st.integers(-1, 2))
def test_category_sweeps_equal_deciding_again_at_every_cut_of_every_category(rows, inactive):
    base = policy(3, thresholds=[0.3, 0.3, 0.3])
    if inactive >= 0:
        base = with_category(base, inactive, active=False)
    sweeps = category_sweeps(base, rows)
    assert len(sweeps) == 3 - (inactive >= 0)
    for name, sweep in sweeps.items():
        for at, threshold in enumerate(sweep.threshold_J):
            moved = base.with_thresholds({name: float(threshold)})
            assert listed(sweep.at_cuts, at) == brute(moved, rows, base.taxonomy.column(name))


@given(rows=rows(3, max_rows=40))
def test_no_reachable_count_is_missing_from_the_cuts(rows):
    compared_N = compared_scores(policy(3), rows.table.logp_NC).astype(np.float64)
    reachable = {0} | {int((compared_N >= v).sum()) for v in compared_N}
    assert set(pooled_sweep(policy(3), rows).cut_J.tolist()) == reachable


def test_cuts_run_from_strict_to_lenient():
    sweep = pooled_sweep(policy(3), simulated_rows(300, 3, seed=1))
    assert sweep.threshold_J[0] == NEVER
    assert all(a > b for a, b in pairwise(sweep.threshold_J.tolist()))
    assert all(a < b for a, b in pairwise(sweep.cut_J.tolist()))


def test_scores_that_no_probability_tells_apart_share_a_cut():
    near_one = np.array([-1e-17, -2e-17, -3e-17, -1e-3], dtype=np.float32)
    assert sweep_of(near_one, np.array([1, 0, 1, 0])).cut_J.tolist() == [0, 3, 4]
    near_zero = np.array([-1.0, -800.0, -900.0], dtype=np.float32)
    assert sweep_of(near_zero, np.array([1, 0, 1])).cut_J.tolist() == [0, 1, 3]


def test_rows_that_can_never_be_refused_are_in_no_sweep():
    suppressed = policy(2, override="suppress")
    rows = simulated_rows(20, 2, seed=0)
    assert category_sweeps(suppressed, rows) == {}
    assert pooled_sweep(suppressed, rows).cut_J.tolist() == [0]


def test_moving_one_threshold_over_its_whole_range_changes_no_other_category():
    rows = simulated_rows(500, 4, seed=3)
    base = policy(4, thresholds=[0.3, 0.4, 0.35, 0.25])
    before_N = decide_many(base, rows.table.logp_NC).choice_N
    for column, name in enumerate(base.taxonomy.names, start=1):
        seen = set()
        for threshold in np.linspace(0, 1, 41):
            after_N = decide_many(
                base.with_thresholds({name: float(threshold)}), rows.table.logp_NC
            ).choice_N
            changed_N = before_N != after_N
            assert (
                np.isin(before_N[changed_N], (0, column)) & np.isin(after_N[changed_N], (0, column))
            ).all()
            seen.add(int((after_N == column).sum()))
        assert len(seen) > 10
