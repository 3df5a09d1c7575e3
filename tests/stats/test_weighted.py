from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from demur.base.errors import DataError
from demur.core.goals.parse import parse_goals
from demur.core.rates import TrafficMix
from demur.stats.thresholds.certify import CertifyOptions, certify
from demur.stats.thresholds.results import Uncertified
from demur.stats.units import count_rows
from demur.stats.weighted import mix_among, weighted
from tests.validity.population import population

DRAWS, DELTA = 2000, 0.1


def mix_of(slice_N, share):
    names = tuple(f"s{n}" for n in range(len(share)))
    return TrafficMix(facet="source", names=names, slice_N=slice_N, share_S=np.array(share))


def rows_of(sizes, share, group_N=None):
    slice_N = np.repeat(np.arange(len(sizes)), sizes)
    counted = count_rows(np.ones(len(slice_N), dtype=bool), group_N, None, seed=0)
    return slice_N, weighted(counted, mix_of(slice_N, share))


def test_weights_are_the_shares_over_the_parts_of_the_rows():
    slice_N, rows = rows_of((100, 300), (0.5, 0.5))
    assert rows.weight_M[slice_N == 0] == pytest.approx(2.0)
    assert rows.weight_M[slice_N == 1] == pytest.approx(2 / 3)
    error_N = slice_N == 0
    assert rows.mean(error_N) == pytest.approx(0.5)


def test_shares_of_kinds_that_a_goal_cannot_speak_of_are_scaled_away():
    mix = replace(mix_of(np.array([0, 0, 1, 2]), [0.2, 0.2, 0.6]), facet="kind")
    among = mix_among(mix, np.array([True, True, True, False]), "false_refusal <= 0.1")
    assert among.share_S == pytest.approx([0.5, 0.5, 0.0])
    only = replace(mix, share_S=np.array([0.5, 0.5, 0.0]))
    with pytest.raises(DataError, match="no share for the 1 rows"):
        mix_among(only, np.array([False, False, False, True]), "missed_refusal <= 0.1")


def test_a_slice_with_a_share_needs_rows_that_the_goal_speaks_of():
    mix = mix_of(np.array([0, 0, 1]), [0.5, 0.5])
    with pytest.raises(DataError, match="of source 's1': nothing is known"):
        mix_among(mix, np.array([True, True, False]), "missed_refusal <= 0.1")


def test_a_slice_that_no_tested_row_shows_leaves_nothing_to_promise():
    counted = count_rows(np.arange(500) < 400, None, None, seed=0)
    rows = weighted(counted, mix_of(np.repeat([0, 1], [400, 100]), [0.7, 0.3]))
    nothing_N = np.zeros(500, dtype=bool)
    assert rows.test(0.2, DELTA) is None
    assert rows.p_value(nothing_N, 0.2, DELTA) == rows.upper(nothing_N, DELTA) == 1.0


@pytest.mark.parametrize("units", [(20, 200), (40, 100), (30, 300)])
def test_slices_of_large_units_keep_their_share(units):
    # a slice of units of ten rows that err all alike, beside one of rows alone that never err
    group_N = np.concatenate([np.repeat(np.arange(units[0]), 10), units[0] + np.arange(units[1])])
    slice_N = (group_N >= units[0]).astype(np.int64)
    counted = count_rows(np.ones(len(group_N), dtype=bool), group_N, None, seed=0)
    test = weighted(counted, mix_of(slice_N, [0.5, 0.5])).test(0.1, DELTA)
    rng, passed = np.random.default_rng(3), 0
    for _ in range(DRAWS):
        unit_U = np.append(rng.random(units[0]) < 0.21, np.zeros(units[1], dtype=bool))
        passed += test.passes(unit_U[group_N])  # the rate of the mix is .105
    assert passed <= binom.ppf(0.999, DRAWS, DELTA)


@pytest.mark.parametrize(
    ("sizes", "share", "rate"),
    [
        ((400, 400), (0.5, 0.5), (0.1, 0.1)),
        ((700, 100), (0.3, 0.7), (0.04, 0.1257)),
        ((500, 300), (0.9, 0.1), (0.05, 0.55)),
        ((300, 300, 200), (0.2, 0.2, 0.6), (0.3, 0.05, 0.05)),
    ],
)
def test_the_bound_under_a_mix_lies_below_the_rate_in_at_most_delta_of_the_draws(
    sizes, share, rate
):
    slice_N, rows = rows_of(sizes, share)
    true = float(np.dot(share, rate))
    rng, passed = np.random.default_rng(1), 0
    test = rows.test(true, DELTA)
    half = rows.test(2 * true, DELTA)
    granted = 0
    for _ in range(DRAWS):
        error_N = rng.random(len(slice_N)) < np.array(rate)[slice_N]
        passed += test.passes(error_N)
        granted += half.passes(error_N)
    assert passed <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > 0.9 * DRAWS  # a level of twice the rate is certified nearly always


def test_a_rate_of_the_rows_would_break_a_promise_for_the_mix():
    # four in five rows are easy; traffic is not: the rows' own rate is .04, the mix's .12
    rows = rows_of((800, 200), (0.2, 0.8))[1]
    error_N = np.zeros(1000, dtype=bool)
    error_N[800:830] = True
    assert error_N.mean() == pytest.approx(0.03)
    assert rows.mean(error_N) == pytest.approx(0.12)
    assert rows.test(0.05, DELTA).passes(error_N) is False
    assert rows.upper(error_N, DELTA) > 0.12
    assert rows.p_value(error_N, 0.12, DELTA) > DELTA


def test_families_count_once_under_a_mix_too():
    group_N = np.repeat(np.arange(200), 5)
    slice_N = np.repeat([0, 1], 500)
    mix = mix_of(slice_N, [0.3, 0.7])
    everyone_N = np.ones(1000, dtype=bool)
    linked = weighted(count_rows(everyone_N, group_N, None, seed=0), mix)
    alone = weighted(count_rows(everyone_N, None, None, seed=0), mix)
    error_N = np.zeros(1000, dtype=bool)
    error_N[:25] = error_N[500:525] = True
    assert linked.upper(error_N, DELTA) > alone.upper(error_N, DELTA)
    assert linked.needed(0.05, DELTA) >= 1


def test_no_binomial_plan_is_made_for_weighted_rows():
    people, rng = population(), np.random.default_rng(0)
    rows = people.draw(rng, (60, 20, 20, 20))
    slice_N = (np.arange(120) < 5).astype(np.int64)
    rows = replace(rows, traffic=mix_of(slice_N, [0.2, 0.8]))
    goals = parse_goals("false_refusal <= 0.02")
    found = certify(goals, people.template, rows, CertifyOptions(method="shared"))
    assert isinstance(found, Uncertified)
    assert found.outlook is None
    assert found.rows_needed > found.rows
