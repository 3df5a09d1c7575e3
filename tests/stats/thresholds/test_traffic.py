import numpy as np
import pytest

from demur.base.errors import GoalError, GoalInfeasible
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.core.rates import Rate
from demur.stats.labelled import unlabelled_rows
from demur.stats.thresholds.traffic import solve_on_traffic
from tests.builders import policy, simulated_rows, table

TRAFFIC = simulated_rows(2000, 3, seed=1).table


def met(texts, template, traffic=TRAFFIC, units=None, counts=None):
    return solve_on_traffic(
        parse_goals(texts),
        template,
        unlabelled_rows(traffic, units, counts),
        confidence=0.95,
        data_digest="traffic",
    )


@pytest.mark.parametrize("rule", ["heaviest", "sum", "any"])
def test_a_total_rate_is_met_without_labels(rule):
    done = met("refusal_rate = 20%", policy(3, rule))
    assert done.promises[0].rate == Rate(hits=400, of=2000)
    assert (done.promises[0].status, done.promises[0].confidence) == ("measured", None)
    assert decide_many(done, TRAFFIC.logp_NC).refuses_N.sum() == 400


def test_a_rate_with_a_guarantee_leaves_room_for_chance():
    done = met("refusal_rate <= 20%", policy(3))
    promise = done.promises[0]
    assert (promise.status, promise.confidence) == ("certified", 0.95)
    assert promise.rate.hits == decide_many(done, TRAFFIC.logp_NC).refuses_N.sum() < 400
    assert promise.rate.interval(0.9)[1] <= 0.2


def test_categories_have_rates_of_their_own():
    done = met(
        ["refusal_rate[safety] <= 10%", "refusal_rate[humanizing] = 3%"],
        policy(3, thresholds=[0.5, 0.5, 0.9]),
    )
    choice_N = decide_many(done, TRAFFIC.logp_NC).choice_N
    assert [p.rate.hits for p in done.promises] == [(choice_N == c).sum() for c in (1, 2)]
    assert (choice_N == 2).sum() == 60
    assert done.categories[2].threshold == 0.9


@pytest.mark.parametrize(
    ("texts", "rule", "message"),
    [
        (["false_refusal <= 0.1"], "heaviest", "needs labels"),
        (["refusal_rate[safety + humanizing] <= 0.1"], "heaviest", "needs labels"),
        (["refusal_rate[nope] <= 0.1"], "heaviest", "unknown category 'nope'"),
        (["refusal_rate <= 0.3", "refusal_rate[safety] <= 0.1"], "heaviest", "a total rate beside"),
        (["refusal_rate[safety] <= 0.1"], "sum", "has no threshold"),
        (["refusal_rate <= 0.1"], "released", "has no threshold"),
    ],
)
def test_goals_that_traffic_alone_cannot_meet_are_refused(texts, rule, message):
    with pytest.raises(GoalError, match=message):
        met(texts, policy(3, rule))


def test_too_little_traffic_or_ties_are_infeasible():
    few = table(TRAFFIC.logp_NC[:40])
    with pytest.raises(GoalInfeasible, match=r"at delta 0\.05"):
        met("refusal_rate <= 5%", policy(3), few)
    saturated = table(np.tile(np.array([[-90.0, 0.0]], dtype=np.float32), (200, 1)))
    for text in ("refusal_rate <= 5%", "refusal_rate = 5%"):
        with pytest.raises(GoalInfeasible):
            met(text, policy(1), saturated)


def test_what_is_assumed_of_sessions_stands_in_the_promise():
    alone = met("refusal_rate <= 20%", policy(3)).promises[0]
    assert "each request counts as drawn by itself" in alone.method
    units = [f"s{n // 10}" for n in range(2000)]
    together = met("refusal_rate <= 20%", policy(3), units=units).promises[0]
    assert "2000 requests in 200 sessions or alone" in together.method
    assert together.rate.hits < alone.rate.hits


def test_too_few_sessions_are_named():
    units = [f"s{n // 200}" for n in range(2000)]
    with pytest.raises(GoalInfeasible, match="10 sessions or rows alone allow no threshold"):
        met("refusal_rate <= 5%", policy(3), units=units)


@pytest.mark.parametrize("goal", ["refusal_rate <= 20%", "refusal_rate = 20%"])
def test_a_rate_is_of_requests_where_rows_stand_for_several(goal):
    logp_N = TRAFFIC.logp_NC[:, 0]
    counts = np.where(logp_N < np.median(logp_N), 4, 1)  # those likely to be refused come often
    plain, counted = (met(goal, policy(3)), met(goal, policy(3), counts=counts.tolist()))
    assert plain.promises[0].rate.of == 2000
    rate = counted.promises[0].rate
    refused_N = decide_many(counted, TRAFFIC.logp_NC).refuses_N
    assert (rate.hits, rate.of) == (counts[refused_N].sum(), 5000)
    assert 0.15 < rate.value <= 0.2
