import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from demur.base.errors import DataError, GoalError, GoalInfeasible, PolicyError
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.rates import Rate
from demur.core.threshold import NEVER
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.losses import STEERABLE
from demur.stats.thresholds.solve import solve
from tests.builders import (
    binary_rows,
    labelled,
    log_softmax,
    policy,
    rows,
    simulated_rows,
    with_category,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "thresholds.json").read_text())[
    "one_score"
]
OPTIMA = ("f1 max", "f0.5 max", "youden max", "cost: false=1 missed=0.3", "cost: false=1 missed=5")


def chosen(text, template, rows, confidence=0.95):
    return solve(
        [parse_goal(text)],
        template,
        rows,
        CertifyOptions(confidence=confidence, method="shared"),
        data_digest="digest",
    )


def errors(policy, rows):
    refuses_N = decide_many(policy, rows.table.logp_NC).refuses_N
    return int((refuses_N & (rows.label_N != 0)).sum()), int(
        (refuses_N & (rows.label_N == 0)).sum()
    )


def worth(text, policy, rows):
    """How good a policy is for a goal, by the goal's own definition and decide_many."""
    caught, false = errors(policy, rows)
    if text.startswith("f"):
        b2 = float(text[1:].split()[0]) ** 2
        return (1 + b2) * caught / (b2 * rows.to_refuse + caught + false)
    if text == "youden max":
        return caught / rows.to_refuse - false / rows.to_answer
    goal = parse_goal(text)
    return -goal.missed * (rows.to_refuse - caught) - goal.false * false


@settings(max_examples=100, deadline=None)
@given(data=st.data(), text=st.sampled_from(OPTIMA), rule=st.sampled_from(STEERABLE))
def test_no_thresholds_do_better_than_the_chosen_ones(data, text, rule):
    labelled_rows = data.draw(rows(2, min_rows=3))
    assume(set(labelled_rows.label_N.tolist()) == {0, 1, 2})
    best = chosen(text, policy(2, rule), labelled_rows)
    observed = sorted(
        {
            float(t)
            for t in np.exp(labelled_rows.table.logp_NC[:, 1:].astype(np.float64)).ravel() - 1e-6
        }
    )
    if rule == "sum":
        observed += sorted(
            {float(t) for t in np.exp(labelled_rows.table.logp_NC[:, 1:]).sum(axis=1) - 1e-6}
        )
    separate = [(a, b) for a in (*observed, NEVER) for b in (*observed, NEVER)]
    vectors = separate if rule == "heaviest" else [(a, a) for a in (*observed, NEVER)]
    most = max(
        worth(text, policy(2, rule, [max(t, 0.0) for t in v]), labelled_rows) for v in vectors
    )
    assert worth(text, best, labelled_rows) == pytest.approx(most, abs=1e-12)


@pytest.mark.parametrize("rule", STEERABLE)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.29, 0.5, 1.0])
def test_a_refusal_rate_is_met_to_within_a_row_and_never_exceeded(rule, rate):
    rows = simulated_rows(1000, 3, seed=2)
    done = chosen(f"refusal_rate = {rate}", policy(3, rule), rows)
    assert done.promises[0].rate == Rate(hits=round(rate * 1000), of=1000)
    assert len({c.threshold for c in done.categories}) == 1
    assert sum(errors(done, rows)) == round(rate * 1000)


@pytest.mark.parametrize("expected", GOLDEN["refusal_rate"])
def test_refusal_rates_equal_the_golden_ones(expected):
    rows = binary_rows(np.log(np.array(GOLDEN["score_per_mille"]) / 1000), GOLDEN["to_refuse"])
    done = chosen(f"refusal_rate = {expected['target']}", policy(1), rows)
    rate = done.promises[0].rate
    assert done.categories[0].threshold == pytest.approx(
        expected["threshold_refuse_iff_at_least"], rel=1e-6
    )
    assert rate.value == pytest.approx(expected["achieved"], abs=1e-12)
    assert rate.interval() == pytest.approx(expected["ci95"], abs=1e-9)


def test_the_refusal_rate_of_one_category_moves_that_threshold_only():
    rows = simulated_rows(1000, 3, seed=4)
    template = policy(3, thresholds=[0.5, 0.6, 0.7])
    done = chosen("refusal_rate[humanizing] = 5%", template, rows)
    assert [done.categories[at].threshold for at in (0, 2)] == [0.5, 0.7]
    assert done.promises[0].rate == Rate(hits=50, of=1000)
    assert done.promises[0].risk == "refusal_rate[humanizing]"
    assert (decide_many(done, rows.table.logp_NC).choice_N == 2).sum() == 50


def test_a_refusal_rate_that_ties_forbid_is_infeasible_and_not_an_extreme_threshold():
    tied = binary_rows(np.log([0.9] * 50 + [0.1] * 50), [1] * 50 + [0] * 50)
    with pytest.raises(
        GoalInfeasible, match="10 of 100 rows may be refused, the strictest threshold refuses 50"
    ):
        chosen("refusal_rate = 0.1", policy(1), tied)
    with pytest.raises(GoalInfeasible, match=r"0 of 100 rows(.|\n)*at least 1000 rows"):
        chosen("refusal_rate = 0.001", policy(1), tied)
    with pytest.raises(GoalInfeasible, match="none can be"):
        chosen("refusal_rate[humanizing] = 0.5", policy(2), labelled(log_softmax([[0, 1, 0]]), [1]))


def test_a_rate_above_what_a_category_can_refuse_is_infeasible_and_names_the_highest_in_reach():
    rows = simulated_rows(1000, 3, seed=4)
    # rows that humanizing is the heaviest of
    reach = int((rows.table.logp_NC[:, 1:].argmax(axis=1) == 1).sum())
    with pytest.raises(
        GoalInfeasible, match=rf"asks for 900 of 1000 rows(.|\n)*{reach} are refused"
    ) as raised:
        chosen("refusal_rate[humanizing] = 90%", policy(3), rows)
    assert f"{reach / 10:g}%" in raised.value.hint
    assert (
        chosen(f"refusal_rate[humanizing] = {reach / 1000}", policy(3), rows).promises[0].rate.hits
        == reach
    )
    both = ["refusal_rate[humanizing] = 90%", "f1 max"]
    with pytest.raises(GoalInfeasible, match=f"{reach} are refused"):
        solve(parse_goals(both), policy(3), rows, CertifyOptions(), data_digest="")


@pytest.mark.parametrize("rule", STEERABLE)
def test_a_certified_policy_says_what_it_promises_and_keeps_its_count(rule):
    rows = simulated_rows(1000, 3, seed=5)
    done = chosen("false_refusal <= 5%", policy(3, rule), rows, confidence=0.9)
    promise = done.promises[0]
    assert (promise.risk, promise.level, promise.confidence, promise.status) == (
        "false_refusal",
        0.05,
        0.9,
        "certified",
    )
    assert (promise.rate.hits, promise.rate.of) == (errors(done, rows)[1], rows.to_answer)
    # one side of the interval at 80 % is the bound at 90 %
    assert promise.rate.interval(0.8)[1] <= 0.05
    assert promise.data_digest == "digest"
    assert "2110.01052" in promise.method


def test_a_promise_that_the_rows_cannot_carry_names_the_number_that_would_do():
    with pytest.raises(
        GoalInfeasible, match=r"58 rows(.|\n)*59 could(.|\n)*about 124 rows to be answered"
    ) as raised:
        chosen("false_refusal <= 0.05", policy(1), binary_rows(np.log([0.5] * 58), [0] * 58))
    assert raised.value.exit_code == 3


def test_the_natural_goal_follows_the_model_and_promises_nothing():
    rows = simulated_rows(200, 2, seed=6)
    done = chosen("natural", policy(2, thresholds=[0.1, 0.9]), rows)
    promise = done.promises[0]
    assert done.rule == "natural"
    assert (promise.status, promise.level, promise.confidence) == ("measured", None, None)
    assert promise.rate.hits == int((rows.table.logp_NC.argmax(axis=1) > 0).sum())


@pytest.mark.parametrize("text", ["f1 max", "youden max", "cost: false=1 missed=2"])
def test_optima_are_measured_and_carry_no_rate(text):
    promise = chosen(text, policy(2), simulated_rows(300, 2, seed=7)).promises[0]
    assert (promise.status, promise.rate, promise.confidence) == ("measured", None, None)
    assert "on these" in promise.method


def test_the_template_keeps_everything_but_thresholds_curves_and_promises():
    template = with_category(policy(2), 0, locked=True, on_refuse="No.", limits=(0.0, NEVER))
    done = chosen("f1 max", template, simulated_rows(300, 2, seed=8))
    bare = replace(
        done,
        promises=(),
        categories=tuple(replace(c, threshold=NEVER, curve=()) for c in done.categories),
    )
    assert bare == template


def test_a_threshold_outside_the_limits_of_its_category_is_refused():
    template = with_category(policy(1, thresholds=[1.0]), 0, limits=(0.999, 1.0))
    with pytest.raises(PolicyError, match="outside its limits"):
        chosen("refusal_rate = 0.9", template, simulated_rows(300, 1, seed=9))


@pytest.mark.parametrize("text", OPTIMA)
@pytest.mark.parametrize(("label", "kind"), [(0, "refused"), (1, "answered")])
def test_labels_all_of_one_kind_cannot_weigh_errors(text, label, kind):
    with pytest.raises(DataError, match=f"none of the 3 rows is to be {kind}"):
        chosen(text, policy(1), binary_rows(np.log([0.1, 0.2, 0.3]), [label] * 3))


@pytest.mark.parametrize("text", OPTIMA)
def test_a_category_without_a_row_is_named_unless_it_is_inactive(text):
    rows = labelled(log_softmax([[0, 1, 2], [2, 1, 0], [0, 3, 1]]), [0, 0, 1])
    with pytest.raises(DataError, match="'humanizing'"):
        chosen(text, policy(2), rows)
    assert (
        chosen(text, with_category(policy(2), 1, active=False), rows).categories[1].threshold
        == NEVER
    )
    assert chosen(text, policy(2, "any"), rows).promises


def test_a_promise_about_false_refusals_needs_rows_to_be_answered():
    with pytest.raises(DataError, match="none of the 1 rows is to be answered"):
        chosen("false_refusal <= 0.1", policy(1), binary_rows([-1.0], [1]))


@pytest.mark.parametrize(
    ("text", "template", "message"),
    [
        (
            "refusal_rate[safty] = 0.1",
            policy(2),
            r"unknown category 'safty'(.|\n)*did you mean 'safety'",
        ),
        ("refusal_rate[safety] = 0.1", policy(2, "any"), "needs rule 'heaviest'"),
        (
            "refusal_rate[safety] = 0.1",
            with_category(policy(2), 0, active=False),
            "'safety' is not active",
        ),
        ("f1 max", policy(2, "released"), "cannot steer rule 'released'"),
        ("f1 max", policy(2, "bias"), "cannot steer rule 'bias'"),
        ("f1 max", policy(2, active=False), "no category is active"),
        ("f1 max", with_category(policy(2), 1, override="force"), "'humanizing' is forced"),
    ],
)
def test_a_goal_that_does_not_fit_the_template_says_why(text, template, message):
    with pytest.raises(GoalError, match=message):
        chosen(text, template, simulated_rows(50, 2, seed=1))


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_a_confidence_outside_zero_to_one_is_refused(confidence):
    with pytest.raises(GoalError, match="not in"):
        chosen(
            "false_refusal <= 0.1", policy(1), simulated_rows(50, 1, seed=1), confidence=confidence
        )


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_each_tokens_own_f_is_best_for_that_category_and_moves_no_other(beta):
    rows, template = simulated_rows(600, 3, seed=10), policy(3, thresholds=[0.4, 0.5, 0.6])
    one, every = (
        chosen(t, template, rows) for t in (f"f{beta}[humanizing] max", f"macro_f{beta} max")
    )
    assert [one.categories[at].threshold for at in (0, 2)] == [0.4, 0.6]
    assert one.categories[1].threshold == every.categories[1].threshold
    assert one.promises[0].risk == f"f{beta:g}[humanizing]"

    def own_f(threshold):
        choice_N = decide_many(
            template.with_thresholds({"humanizing": threshold}), rows.table.logp_NC
        ).choice_N
        hits = int(((choice_N == 2) & (rows.label_N == 2)).sum())
        return (1 + beta**2) * hits / (beta**2 * (rows.label_N == 2).sum() + (choice_N == 2).sum())

    tried = max(own_f(t) for t in np.linspace(0.0, 1.0, 301))
    assert own_f(one.categories[1].threshold) >= tried


def test_micro_f_needs_a_threshold_per_category():
    rows = simulated_rows(300, 2, seed=11)
    assert chosen("micro_f1 max", policy(2), rows).promises[0].risk == "micro_f1"
    with pytest.raises(GoalError, match="needs rule 'heaviest'"):
        chosen("micro_f1 max", policy(2, "sum"), rows)


@pytest.mark.parametrize("rule", STEERABLE)
def test_costs_by_category_are_least_over_all_cuts(rule):
    rows = simulated_rows(300, 2, seed=12)
    done = chosen("cost: false=1 missed[safety]=20 missed=0.5", policy(2, rule), rows)
    cheap = chosen("cost: false=1 missed[safety]=0.5 missed=20", policy(2, rule), rows)

    def cost(policy, safety, other):
        refused_N = decide_many(policy, rows.table.logp_NC).refuses_N
        missed = [(~refused_N & (rows.label_N == c)).sum() for c in (1, 2)]
        return (refused_N & (rows.label_N == 0)).sum() + safety * missed[0] + other * missed[1]

    assert cost(done, 20, 0.5) <= cost(cheap, 20, 0.5)
    assert cost(cheap, 0.5, 20) <= cost(done, 0.5, 20)


@pytest.mark.parametrize(
    "text", ["missed_refusal <= 20%", "wrong_category <= 20%", "refusal_rate <= 30%"]
)
def test_every_promise_is_certified_with_one_shared_threshold(text):
    rows = simulated_rows(1000, 3, seed=13, signal=4.0)
    done = chosen(text, policy(3), rows)
    promise = done.promises[0]
    assert (promise.status, promise.level) == ("certified", parse_goal(text).level)
    assert promise.rate.interval(0.9)[1] <= promise.level
    assert len({c.threshold for c in done.categories}) == 1


@pytest.mark.parametrize(
    "text", ["f1 max", "youden max", "cost: false=1 missed=5", "refusal_rate = 20%", "macro_f1 max"]
)
def test_a_row_with_a_count_weighs_as_so_many_rows(text):
    rows = simulated_rows(200, 3, seed=5)
    count_N = np.random.default_rng(1).integers(1, 6, 200)
    counted = chosen(text, policy(3), replace(rows, count_N=count_N))
    at = np.repeat(np.arange(200), count_N)
    repeated = chosen(text, policy(3), labelled(rows.table.logp_NC[at], rows.label_N[at]))
    assert counted.promises[0].rate == repeated.promises[0].rate
    for own, theirs in zip(counted.categories, repeated.categories, strict=True):
        assert own.threshold == theirs.threshold
        assert {p.threshold: p for p in own.curve}.items() & {
            p.threshold: p for p in theirs.curve
        }.items()
