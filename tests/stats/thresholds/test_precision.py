from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import GoalError
from demur.core.decision import decide_many
from demur.core.goals.counts import Counts
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.goals.promised import promised
from demur.core.rates import Rate, TrafficMix, binomial_cdf, rows_needed
from demur.stages import plan_labels
from demur.stats.drift.audit import Audit
from demur.stats.evidence import recount
from demur.stats.thresholds.certify import CertifyOptions, certify
from demur.stats.thresholds.losses import grouped_scores, losses_of, rate_under
from demur.stats.thresholds.procedures.search import split_rows
from demur.stats.thresholds.results import Uncertified
from demur.stats.thresholds.solve import solve
from tests.builders import policy, simulated_rows


def solved(goals, n=3000, **options):
    how = CertifyOptions(**options)
    return solve(parse_goals(goals), policy(3), simulated_rows(n, 3, 0, 4.0), how, data_digest="d")


@pytest.mark.parametrize("category", [None, "safety"])
def test_the_rate_counts_what_is_refused_and_ought_not_to_be(category):
    rows, at = simulated_rows(900, 3, 0, 3.0), policy(3, thresholds=[0.3, 0.4, 0.5])
    part = f"[{category}]" if category else ""
    goal = parse_goal(f"precision{part} >= 0.9")
    choice_N = decide_many(at, rows.table.logp_NC).choice_N
    refused_N = choice_N == 1 if category else choice_N > 0
    right_N = rows.label_N == 1 if category else rows.label_N > 0
    rate, _ = rate_under(at, goal, rows, 0)
    assert rate == Rate(hits=int((refused_N & ~right_N).sum()), of=int(refused_N.sum()))
    # counts of decisions say the same
    rows_LC = np.zeros((4, 4), dtype=np.int64)
    np.add.at(rows_LC, (rows.label_N, choice_N), 1)
    assert goal.figure(Counts(rows_LC=rows_LC, names=at.taxonomy.names)) == rate


def test_one_precision_alone_is_never_certified_by_a_shared_threshold_in_closed_form():
    made = solved("precision >= 0.9")
    (promise,) = made.promises
    assert promise.status == "certified"
    assert promise.method.startswith("learned order")
    assert promise.rate.value < 0.1
    again = recount(made, promise, simulated_rows(3000, 3, 0, 4.0), [0])
    assert again.rate == promise.rate
    assert again.upper <= 0.1


@pytest.mark.parametrize("method", ["shared", "even", "path", "vectors", "budgets", "graphical"])
def test_procedures_for_monotone_rates_refuse_it(method):
    with pytest.raises(GoalError, match="may rise or fall"):
        certify(
            parse_goals("precision >= 0.9"),
            policy(3),
            simulated_rows(300, 3, 0, 4.0),
            CertifyOptions(method=method),
        )


def test_nothing_refused_is_no_promise_and_the_rows_that_would_do_are_named():
    rows = simulated_rows(60, 3, 0, 0.0)
    found = certify(parse_goals("precision >= 0.99"), policy(3), rows, CertifyOptions())
    assert isinstance(found, Uncertified)
    few = certify(
        parse_goals("precision >= 0.9"), policy(3), simulated_rows(100, 3, 0, 4.0), CertifyOptions()
    )
    assert isinstance(few, Uncertified)
    assert few.outlook is None or few.outlook.wanted[0].needed > few.rows == 100


def test_a_promise_beside_missed_refusals_holds_both():
    made = solved("precision >= 0.8; missed_refusal <= 0.3")
    assert [p.status for p in made.promises] == ["certified"] * 2
    assert all(p.rate.value <= p.level for p in made.promises)


def test_an_audit_of_it_waits_for_labels():
    assert not Audit(goal=promised(parse_goal("precision >= 0.9"))).of_traffic
    assert Audit(goal=promised(parse_goal("refusal_rate <= 0.9"))).of_traffic


def test_a_plan_of_labels_counts_requests_that_are_refused():
    config = plan_labels.Config(goals=("precision >= 0.9",), have={"respond": 400, "safety": 60})
    (unknown,) = plan_labels.run(config)
    assert (unknown.have, unknown.labels) == (None, "that are refused")
    # three fifths of the rows are tested
    assert unknown.needed > rows_needed(0.1, 0.05) / 0.6
    told = replace(config, have={"precision": 400, "respond": 400}, errors={"precision": 10})
    (seen,) = plan_labels.run(told)
    assert (seen.have, seen.rate) == (400, pytest.approx(10.5 / 401, abs=1e-3))
    (own,) = plan_labels.run(replace(config, goals=("precision[safety] >= 0.9",)))
    assert own.labels == "that are refused with safety"
    every = replace(told, goals=("precision >= 0.9 in every tenant",))
    assert plan_labels.run(every)[0].have is None


@pytest.mark.parametrize(
    ("goals", "method", "message"),
    [
        (("precision >= 0.9",), "path", "method 'path' beside 'precision >= 0.9'"),
        (("false_refusal <= 0.1", "deferral <= 0.1"), "anytime", "beside 'deferral <= 0.1'"),
        (("false_stop <= 0.1",), "anytime", "answers are followed in one look"),
    ],
)
def test_a_plan_refuses_a_method_that_cannot_certify_its_goals(goals, method, message):
    with pytest.raises(GoalError, match=message):
        plan_labels.run(plan_labels.Config(goals=goals, method=method))


def test_it_is_kept_for_scores_that_another_engine_may_give():
    """Errors just below a threshold, and right refusals just above it, count as they may be."""
    rows, delta = simulated_rows(3000, 3, 0, 4.0), 0.05
    how = CertifyOptions(confidence=1 - delta)
    found = certify(parse_goals("precision >= 0.9"), policy(3), rows, how)
    at = policy(3, thresholds=list(found.certified.thresholds))
    grouped = grouped_scores(policy(3), rows, shared=False)
    (loss,) = losses_of(found.kept, policy(3), grouped, 0)
    test_N = split_rows(grouped, 0.4, 0, [loss]).test_N
    other_NC = rows.table.logp_NC.astype(np.float64)
    sign_N = np.where(rows.label_N == 0, 1.0, -1.0)
    other_NC[:, 1:] += 9e-5 * sign_N[:, None]
    refused_N = decide_many(at, np.minimum(other_NC, 0.0).astype(np.float32)).refuses_N & test_N
    wrong = int((refused_N & (rows.label_N == 0)).sum())
    assert binomial_cdf(wrong, int(refused_N.sum()), 0.1) <= delta


def test_beside_a_stated_mix_it_is_of_that_traffic():
    """Rows to be refused are rarer in traffic than in the rows, so that a refusal is right less
    often.
    """
    rows = simulated_rows(3000, 3, 0, 4.0)
    slice_N = (rows.label_N != 0).astype(np.int64)
    mix = TrafficMix(
        facet="tenant", names=("a", "b"), slice_N=slice_N, share_S=np.array([0.9, 0.1])
    )
    promise = solve(
        parse_goals("precision >= 0.7"),
        policy(3),
        replace(rows, traffic=mix),
        CertifyOptions(),
        data_digest="d",
    ).promises[0]
    assert promise.status == "certified"
    assert "for traffic of 90% tenant a, 10% tenant b" in promise.method
    assert promise.rate.value < 0.3
