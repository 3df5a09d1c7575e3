"""While nothing changes, alarms are as rare as promised, however often one looks. 2,000 seeded
draws each.

Every draw is a whole life of a monitor: the alarm counts if it was ever on.
"""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from demur.core.rates import Rate
from demur.stats.drift import audit, martingale
from demur.stats.drift.compare import adjust, compare_rates, compare_scores, stability
from tests.validity.population import to_bfloat16

DRAWS = 2000
ALPHA = 0.05
BAR = np.log(1 / ALPHA)
MOST = binom.ppf(0.999, DRAWS, ALPHA)  # alpha plus the slack of counting 2,000 draws


def significant(shift, alpha):
    """Whether it is among the discoveries at false-discovery rate alpha."""
    return shift.adjusted.number is not None and shift.adjusted.number <= alpha


def highest_evidence(score_DT, reference, learns=True):
    """Highest log evidence of many lives at once, by the functions that `martingale.update` is made
    of.
    """
    draws, steps = score_DT.shape
    cell_DT = martingale.grid_cells(score_DT).astype(np.uint8)
    shares, log_e_D, highest_D = (np.full(draws, 1 / 3),) * 3, np.zeros(draws), np.zeros(draws)
    u_DT = np.random.default_rng(0).random((draws, steps))
    for t in range(reference, steps):
        seen_DI, now_D1 = cell_DT[:, : t if learns else reference], cell_DT[:, t : t + 1]
        above_D, equal_D = (seen_DI > now_D1).sum(axis=1), (seen_DI == now_D1).sum(axis=1)
        p_D = martingale.smoothed_rank(above_D, equal_D, seen_DI.shape[1], u_DT[:, t])
        shares, growth_D = martingale.bet(shares, p_D)
        log_e_D = log_e_D + np.log(growth_D)
        highest_D = np.maximum(highest_D, log_e_D)
    for d in range(3):
        state = martingale.start_martingale("total", score_DT[d, :reference], learns=learns)
        state = martingale.update_martingale(state, score_DT[d, reference:], u_DT[d, reference:])
        assert state.highest_log_e == pytest.approx(highest_D[d])
    return highest_D


@pytest.mark.parametrize("rounding", [np.asarray, to_bfloat16], ids=["float", "bfloat16"])
def test_a_martingale_seldom_cries_wolf_over_a_whole_life(rounding):
    score_DT = rounding(np.random.default_rng(1).normal(-2, 2, (DRAWS, 100 + 500)))
    assert (highest_evidence(score_DT, 100) >= BAR).sum() <= MOST


def test_a_frozen_reference_of_ten_times_the_horizon_keeps_to_alpha_too():
    score_DT = np.random.default_rng(2).normal(size=(DRAWS, 2000 + 200))
    assert (highest_evidence(score_DT, 2000, learns=False) >= BAR).sum() <= MOST


def test_a_martingale_finds_a_shift_of_one_standard_deviation():
    score_DT = np.random.default_rng(7).normal(size=(200, 300 + 200))
    score_DT[:, 300:] += 1.0
    assert (highest_evidence(score_DT, 300) >= BAR).mean() > 0.99


def evidence(error_DT, level):
    """Log evidence after every label; each pair of counts is evaluated once."""
    of_DT = np.broadcast_to(np.arange(1, error_DT.shape[1] + 1), error_DT.shape)
    pairs, at = np.unique(error_DT.cumsum(axis=1) * 10_000 + of_DT, return_inverse=True)
    return audit.log_evidence(pairs // 10_000, pairs % 10_000, level)[at].reshape(error_DT.shape)


@pytest.mark.parametrize("level", [0.02, 0.05, 0.2])
def test_an_audit_seldom_cries_wolf_at_the_level_itself(level):
    error_DT = np.random.default_rng(3).random((DRAWS, 1000)) < level
    assert (evidence(error_DT, level).max(axis=1) >= BAR).sum() <= MOST


def test_an_audit_finds_a_broken_promise():
    """0.08 against 0.05 is found after a median of about 635 labels, as measured for the
    specification.
    """
    error_DT = np.random.default_rng(4).random((400, 3000)) < 0.08
    found_DT = evidence(error_DT, 0.05) >= BAR
    assert found_DT.any(axis=1).mean() > 0.95
    assert 500 < np.median(found_DT.argmax(axis=1)) < 800


def test_one_look_finds_drift_that_is_not_there_at_most_alpha_often():
    """All tests of three series together, adjusted: the chance of any discovery."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(DRAWS):
        reference, live = rng.normal(size=(200, 3)), rng.normal(size=(150, 3))
        shifts = []
        for s in range(3):
            shifts += compare_scores(str(s), reference[:, s], live[:, s])
            rates = [Rate(hits=int((x[:, s] > 1.5).sum()), of=len(x)) for x in (reference, live)]
            shifts.append(compare_rates(str(s), *rates))
        alarms += any(significant(shift, ALPHA) for shift in adjust(shifts))
    assert alarms <= MOST


def test_the_stability_p_value_is_uniform_without_drift_where_the_customary_limit_is_not():
    rng = np.random.default_rng(6)
    found = [stability(rng.normal(size=1000), rng.normal(size=200)) for _ in range(DRAWS)]
    assert kstest([s.p_value.value for s in found], "uniform").statistic < 0.05
    # "PSI > 0.1" cries wolf on windows of 200
    assert np.mean([s.index > 0.1 for s in found]) > ALPHA / 2
