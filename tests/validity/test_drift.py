"""While nothing changes, alarms are as rare as promised, however often one looks. 2,000 seeded
draws each.

Every draw is a whole life of a monitor: the alarm counts if it was ever on.
"""

import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from demur.core.rates import Rate
from demur.stats.drift import audit, martingale
from demur.stats.drift.compare import adjust, compare, compare_rates, compare_scores, stability
from demur.stats.drift.sessions import LiveRows, gather, shares_of
from demur.stats.drift.wealth import play
from demur.stats.units import RowUnits
from tests.builders import log_softmax, policy
from tests.validity.population import to_bfloat16

DRAWS, LIVES = 2000, 500  # the latter of 50,000 looks each
ALPHA = 0.05
BAR = np.log(1 / ALPHA)
MOST = binom.ppf(0.999, DRAWS, ALPHA)  # alpha plus the slack of counting 2,000 draws


def significant(shift, alpha):
    """Whether it is among the discoveries at false-discovery rate alpha."""
    return shift.adjusted.number is not None and shift.adjusted.number <= alpha


def highest_evidence(score_DT, reference, learns=True):
    """Highest log evidence of many lives at once, by the functions that `update_martingale` is made
    of.
    """
    draws, steps = score_DT.shape
    cell_DT = martingale.grid_cells(score_DT).astype(np.uint8)
    u_DT = np.random.default_rng(0).random((draws, steps))
    p_DT = np.empty((draws, steps - reference))
    for t in range(reference, steps):
        seen_DI, now_D1 = cell_DT[:, : t if learns else reference], cell_DT[:, t : t + 1]
        above_D, equal_D = (seen_DI > now_D1).sum(axis=1), (seen_DI == now_D1).sum(axis=1)
        ranks_D = martingale.smoothed_rank(above_D, equal_D, seen_DI.shape[1], u_DT[:, t])
        p_DT[:, t - reference] = ranks_D
    highest_D = np.array(
        [play(martingale.START, martingale.log_factors(p_T))[1].max() for p_T in p_DT]
    ).clip(0)
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


def evidence(share_DU, level):
    """Log evidence of audits after every unit."""
    shares = np.asarray(share_DU, dtype=np.float64)
    return np.stack([play(audit.START, audit.log_factors(x_U, level))[1] for x_U in shares])


@pytest.mark.parametrize("level", [0.02, 0.05, 0.2])
def test_an_audit_seldom_cries_wolf_at_the_level_itself(level):
    error_DT = np.random.default_rng(3).random((DRAWS, 1000)) < level
    assert (evidence(error_DT, level).max(axis=1) >= BAR).sum() <= MOST


def test_an_audit_finds_a_broken_promise():
    error_DT = np.random.default_rng(4).random((400, 3000)) < 0.08
    found_DT = evidence(error_DT, 0.05) >= BAR
    assert found_DT.any(axis=1).mean() > 0.95
    assert np.median(found_DT.argmax(axis=1)) < 500  # 635 before it began anew


def found_after(log_e_T, quiet):
    """Steps after the change until the evidence is enough for one of eight tests."""
    return np.argmax(log_e_T[quiet:] >= np.log(8 / ALPHA)) + 1


def test_an_audit_finds_a_broken_promise_soon_after_many_good_labels():
    """One that begins once needs about 2,400 labels here (docs/watch.md)."""
    rng = np.random.default_rng(8)
    rate_T = np.repeat([0.03, 0.126], [5000, 3000])
    found = [found_after(e_T, 5000) for e_T in evidence(rng.random((100, 8000)) < rate_T, 0.05)]
    assert np.median(found) < 450
    assert np.quantile(found, 0.9) < 700


def test_a_change_is_found_soon_after_100_000_quiet_requests():
    """False refusals go from .05 to .126: a shift of half a deviation of the four fifths of the
    traffic that are to be answered.
    """
    rng = np.random.default_rng(9)
    found = []
    for _ in range(20):
        answerable_T = rng.random(103_000) < 0.8
        score_T = np.where(answerable_T, rng.normal(-2, 1, 103_000), 2.0)
        score_T[100_000:][answerable_T[100_000:]] += norm.isf(0.05) - norm.isf(0.126)
        # ranks among all scores of the quiet past: later ones change them little
        past = np.sort(score_T[:100_000])
        above_T = 100_000 - np.searchsorted(past, score_T, side="right")
        equal_T = 100_000 - above_T - np.searchsorted(past, score_T, side="left")
        p_T = martingale.smoothed_rank(above_T, equal_T, 100_000, rng.random(103_000))
        _, log_e_T = play(martingale.START, martingale.log_factors(p_T))
        assert log_e_T[:100_000].max() < np.log(8 / ALPHA)
        found.append(found_after(log_e_T, 100_000))
    assert np.median(found) < 500
    assert max(found) < 900


@pytest.mark.slow
@pytest.mark.parametrize("test", ["drift", "audit"])
def test_50_000_looks_at_a_quiet_life_keep_to_alpha(test):
    """Scores are ranked exactly, so that their p-values are uniform: drawn here as such."""
    rng, alarms = np.random.default_rng(10), 0
    for _ in range(LIVES):
        if test == "drift":
            log_e_T = play(martingale.START, martingale.log_factors(rng.random(50_000)))[1]
        else:
            (log_e_T,) = evidence(rng.random((1, 50_000)) < 0.05, 0.05)
        alarms += log_e_T.max() >= BAR
    assert alarms <= binom.ppf(0.999, LIVES, ALPHA)


# sessions


def session_rows(rng, sessions, most=3):
    """Normal log-odds of requests in sessions of `most`, each after the other; a session's own mean
    makes up nine tenths of the variance.
    """
    mean_N = np.repeat(rng.normal(-2, 2 * 0.9**0.5, sessions), most)
    score_N = mean_N + rng.normal(0, 2 * 0.1**0.5, sessions * most)
    return score_N, np.arange(sessions * most) // most


def traffic_of(score_N, session_N):
    logp_NC = -np.logaddexp(0.0, np.stack([score_N, -score_N], axis=1))
    return LiveRows(
        logp_TC=logp_NC.astype(np.float32),
        error_TA=np.zeros((len(score_N), 0), dtype=bool),
        session_T=[None] * len(score_N) if session_N is None else list(map(str, session_N)),
        at_T=np.zeros(len(score_N)),
        draw_T=np.random.default_rng(11).random(len(score_N)),
    )


def test_sessions_of_three_raise_no_alarm_if_they_are_told_apart_and_do_if_not():
    rng, alarms = np.random.default_rng(12), {"sessions": 0, "requests": 0}
    for _ in range(DRAWS):
        reference, (score_N, session_N) = rng.normal(-2, 2, 100), session_rows(rng, 150)
        for name, own_N in (("sessions", session_N), ("requests", None)):
            units, left = gather((), traffic_of(score_N, own_N), ended=True)
            assert not left
            start = martingale.start_martingale("total", reference)
            logit_U = (units.logp_UC[:, 1] - units.logp_UC[:, 0]).astype(np.float64)
            found = martingale.update_martingale(start, logit_U, rng.random(len(logit_U)))
            alarms[name] += found.highest_log_e >= BAR
    assert alarms["sessions"] <= MOST
    assert alarms["requests"] > 2 * MOST


def test_an_audit_of_sessions_keeps_to_alpha_where_one_of_requests_does_not():
    rng, alarms = np.random.default_rng(13), {"sessions": 0, "requests": 0}
    for _ in range(DRAWS):
        # in nine sessions of ten all requests err alike
        alike_N1, error_N3 = rng.random((300, 1)) < 0.9, rng.random((300, 3)) < 0.05
        error_N3 = np.where(alike_N1, error_N3[:, :1], error_N3)
        session_N = [str(n) for n in range(300) for _ in range(3)]
        for name, own_N in (("sessions", session_N), ("requests", [None] * 900)):
            share_U = shares_of(error_N3.ravel(), own_N)
            alarms[name] += evidence(share_U[None], 0.05).max() >= BAR
    assert alarms["sessions"] <= MOST
    assert alarms["requests"] > 2 * MOST


def logp_of(score_NS):
    """Log-probabilities of respond and two categories, from log-odds against respond."""
    logits_NC = np.concatenate([np.zeros((len(score_NS), 1)), score_NS], axis=1)
    return log_softmax(logits_NC)


def grouped_rows(rng, units, most):
    """Scores of rows in units of `most`; a unit's own mean makes up nine tenths of the variance."""
    mean_NS = np.repeat(rng.normal(-2, 2 * 0.9**0.5, (units, 2)), most, axis=0)
    score_NS = mean_NS + rng.normal(0, 2 * 0.1**0.5, mean_NS.shape)
    return logp_of(score_NS), RowUnits.of(len(score_NS), group_N=np.arange(len(score_NS)) // most)


def popular_rows(rng, requests):
    """Requests among 400 prompts of which three are asked for by 12 %, a row a prompt."""
    share_P = np.concatenate([np.full(3, 0.04), np.full(397, 0.88 / 397)])
    count_P = rng.multinomial(requests, share_P)
    asked_P = count_P > 0
    units = RowUnits.of(int(asked_P.sum()), count_N=count_P[asked_P])
    return PROMPTS[asked_P], units


PROMPTS = logp_of(np.random.default_rng(3).normal(-2, 2, (400, 2)))
SIDES = {
    "sessions of 5": (lambda rng: grouped_rows(rng, 150, 1), lambda rng: grouped_rows(rng, 40, 5)),
    "sessions of 20": (
        lambda rng: grouped_rows(rng, 150, 1),
        lambda rng: grouped_rows(rng, 15, 20),
    ),
    "groups on both sides": (
        lambda rng: grouped_rows(rng, 60, 5),
        lambda rng: grouped_rows(rng, 40, 5),
    ),
    "popular prompts": (lambda rng: popular_rows(rng, 500), lambda rng: popular_rows(rng, 300)),
}


def false_alarms(name, draws, *, told=True):
    """Looks in which some test finds drift that is not there."""
    rng, alarms, at = np.random.default_rng(14), 0, policy(2, thresholds=[0.5, 0.5])
    for _ in range(draws):
        (reference, own), (live, units) = (side(rng) for side in SIDES[name])
        shifts = compare(at, reference, live, (own, units) if told else None)
        alarms += any(significant(shift, ALPHA) for shift in shifts)
    return alarms


@pytest.mark.parametrize("name", SIDES)
def test_one_look_at_rows_that_err_together_keeps_to_alpha(name):
    draws = 40
    assert false_alarms(name, draws) <= binom.ppf(0.999, draws, ALPHA)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIDES)
def test_so_do_2_000_looks_and_rows_counted_one_by_one_do_not(name):
    assert false_alarms(name, DRAWS) <= MOST
    if name != "popular prompts":
        assert false_alarms(name, DRAWS, told=False) > 2 * MOST


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
