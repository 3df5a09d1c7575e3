"""Target rates on unlabelled traffic: over many draws few promised rates are exceeded, and delta is
not hoarded.
"""

import numpy as np
import pytest
from scipy.stats import binom

from demur.base.errors import GoalInfeasible
from demur.core.goals.parse import parse_goals
from demur.core.score import ScoreTable
from demur.stats.labelled import unlabelled_rows
from demur.stats.thresholds.traffic import solve_on_traffic
from tests.validity.population import DELTA, coarse, plain, population, to_bfloat16

DRAWS = 2000
ROWS = 400
TOTAL = "refusal_rate <= 0.2"
OWN = "refusal_rate[safety] <= 0.15; refusal_rate[incomplete] <= 0.05"


def exceeded(goals, rounding, delta=DELTA, session=1):
    """(draws that were granted thresholds, of these with a true rate above its level). session:
    requests of each, nine in ten of them alike.
    """
    people, rng = population(rounding), np.random.default_rng(11)
    asked, ids, granted, broken = parse_goals(goals), tuple(map(str, range(ROWS))), 0, 0
    units = [f"session {n // session}" for n in range(ROWS)] if session > 1 else None
    for _ in range(DRAWS):
        at_N = rng.integers(len(people.label_N), size=ROWS)
        if session > 1:
            first_N = np.repeat(at_N[::session], session)
            at_N = np.where(rng.random(ROWS) < 0.9, first_N, at_N)
        traffic = ScoreTable(ids=ids, logp_NC=people.logp_NC[at_N])
        try:
            met = solve_on_traffic(
                asked,
                people.template,
                unlabelled_rows(traffic, units),
                confidence=1 - delta,
                data_digest="",
            )
        except GoalInfeasible:
            continue
        granted += 1
        broken += any(
            people.rate(goal, [c.threshold for c in met.categories]) > goal.level for goal in asked
        )
    return granted, broken


@pytest.mark.parametrize(
    ("goals", "rounding"),
    [(TOTAL, plain), (TOTAL, coarse), (OWN, plain), (OWN, to_bfloat16)],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_promised_rates_of_traffic_are_exceeded_in_at_most_delta_of_the_draws(goals, rounding):
    granted, broken = exceeded(goals, rounding)
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


@pytest.mark.parametrize("session", [5, 20])
def test_promised_rates_hold_where_requests_come_in_sessions(session):
    granted, broken = exceeded(TOTAL, plain, session=session)
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert granted > DRAWS / 2


def test_a_procedure_that_spends_more_than_delta_would_show():
    assert exceeded(TOTAL, plain, delta=2.5 * DELTA)[1] > binom.ppf(0.999, DRAWS, DELTA)
