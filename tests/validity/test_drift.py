"""While nothing changes, alarms are as rare as promised, however often one looks. 2,000 seeded draws each.

Every draw is a whole life of a monitor: the alarm counts if it was ever on.
"""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from demur.core.errors import Undefined
from demur.core.rates import Rate
from demur.stats.drift import audit, martingale
from demur.stats.drift.compare import adjust, compare_rates, compare_scores, stability
from tests.validity.test_false_refusal import to_bfloat16

DRAWS = 2000
ALPHA = 0.05
MOST = binom.ppf(0.999, DRAWS, ALPHA)  # alpha plus the slack of counting 2,000 draws


@pytest.mark.parametrize("rounding", [np.asarray, to_bfloat16], ids=["float", "bfloat16"])
def test_a_martingale_seldom_cries_wolf_over_a_whole_life(rounding):
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(DRAWS):
        score_N = rounding(rng.normal(-2, 2, 100 + 400))
        state = martingale.begin("total", score_N[:100])
        alarms += martingale.update(state, score_N[100:], rng.random(400)).highest_log_e >= np.log(1 / ALPHA)
    assert alarms <= MOST


def test_a_frozen_reference_of_ten_times_the_horizon_keeps_to_alpha_too():
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(DRAWS):
        state = martingale.begin("total", rng.normal(size=2000), learns=False)
        alarms += martingale.update(state, rng.normal(size=200), rng.random(200)).highest_log_e >= np.log(1 / ALPHA)
    assert alarms <= MOST


@pytest.mark.parametrize("level", [0.02, 0.05, 0.2])
def test_an_audit_seldom_cries_wolf_at_the_level_itself(level):
    error_DT = np.random.default_rng(3).random((DRAWS, 1000)) < level
    of_T = np.arange(1, 1001)
    log_e_DT = audit.log_evidence(error_DT.cumsum(axis=1), np.broadcast_to(of_T, error_DT.shape), level)
    assert (log_e_DT.max(axis=1) >= np.log(1 / ALPHA)).sum() <= MOST


def test_an_audit_finds_a_broken_promise():
    """0.08 against 0.05 is found after a median of about 635 labels, as measured for the specification."""
    error_DT = np.random.default_rng(4).random((400, 3000)) < 0.08
    log_e_DT = audit.log_evidence(error_DT.cumsum(axis=1), np.broadcast_to(np.arange(1, 3001), error_DT.shape), 0.05)
    found_DT = log_e_DT >= np.log(20)
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
        alarms += any(shift.significant(ALPHA) for shift in adjust(shifts))
    assert alarms <= MOST


def test_the_stability_p_value_is_uniform_without_drift_where_the_customary_limit_is_not():
    rng = np.random.default_rng(6)
    found = [stability(rng.normal(size=1000), rng.normal(size=200)) for _ in range(DRAWS)]
    assert kstest([s.p_value.value for s in found], "uniform").statistic < 0.05
    assert np.mean([s.index > 0.1 for s in found]) > ALPHA / 2  # "PSI > 0.1" cries wolf on windows of 200
