"""Every solver counts doubtful rows and locked categories as decide_many serves them."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import DemurError, GoalError, GoalInfeasible
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.policy import DoubtRule
from demur.core.rates import most_errors
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.labelled import unlabelled_rows
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.curve import category_sweeps, pooled_sweep, with_curves
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.objective import best_within, objective_of
from demur.stats.thresholds.procedures.budgets import certify_budgets, certify_graphical
from demur.stats.thresholds.procedures.search import lenient_path, split_rows
from demur.stats.thresholds.procedures.sequences import certify_path, certify_vectors
from demur.stats.thresholds.procedures.shared import certify_shared
from demur.stats.thresholds.procedures.task import CertifyTask
from demur.stats.thresholds.results import Certified
from demur.stats.thresholds.solve import solve
from demur.stats.thresholds.traffic import solve_on_traffic
from tests.builders import (
    THRESHOLDS,
    labelled,
    leaking,
    log_softmax,
    policy,
    simulated_rows,
    with_category,
)

EVERY = (certify_path, certify_vectors, certify_shared, certify_budgets, certify_graphical)
LOCKS = st.lists(st.booleans(), min_size=3, max_size=3)


def template_of(data, rule="heaviest"):
    """Three categories, any of them locked or inactive, with a bound that some rows of `leaking`
    are above.
    """
    found = replace(
        policy(3, rule), doubt=DoubtRule(most_leftover=data.draw(st.sampled_from((0.1, 0.5, 1.0))))
    )
    for at, lock in enumerate(data.draw(LOCKS)):
        found = with_category(found, at, locked=lock)
    return with_category(found, 1, active=data.draw(st.booleans()))


def rows_of(data):
    logp_NC = data.draw(leaking(3))
    label = st.lists(st.integers(0, 3), min_size=len(logp_NC), max_size=len(logp_NC))
    return labelled(logp_NC, data.draw(label))


def doubtful_rows(n, seed, share=0.05, signal=3.5):
    """Simulated rows of which a share has lost nearly all its probability to other tokens."""
    rows = simulated_rows(n, 3, seed=seed, signal=signal)
    lost_N = np.random.default_rng(seed + 1).random(n) < share
    logp_NC = (
        rows.table.logp_NC + np.where(lost_N, np.float32(np.log(0.02)), np.float32(0.0))[:, None]
    )
    return labelled(logp_NC.astype(np.float32), rows.label_N)


@settings(max_examples=300)
@given(data=st.data(), shared=st.booleans(), rule=st.sampled_from(("heaviest", "any", "sum")))
def test_a_board_refuses_what_decide_many_refuses(data, shared, rule):
    rows, template = rows_of(data), template_of(data, rule)
    grouped = grouped_scores(template, rows, shared=shared or rule != "heaviest")
    by_group = [data.draw(st.sampled_from(THRESHOLDS)) for _ in grouped.groups]
    thresholds = dict(zip(template.taxonomy.names, grouped.thresholds(by_group), strict=True))
    if rule == "sum":
        thresholds = dict.fromkeys(template.taxonomy.names, by_group[0])
    chosen = template.with_thresholds(thresholds)
    assert (grouped.refused(by_group) == decide_many(chosen, rows.table.logp_NC).refuses_N).all()


@given(data=st.data())
def test_a_path_refuses_at_each_step_what_decide_many_refuses(data):
    rows, template = rows_of(data), template_of(data)
    grouped = grouped_scores(template, rows, shared=False)
    path = lenient_path(grouped, (rows.label_N == 0) * 1.0, (rows.label_N != 0) * 1.0, {})
    first_N = path.first_step(grouped)
    for step in range(len(path.group_S) + 1):
        by_group = path.at(step, len(grouped.groups))
        chosen = template.with_thresholds(
            dict(zip(template.taxonomy.names, grouped.thresholds(by_group), strict=True)),
        )
        assert ((first_N <= step) == decide_many(chosen, rows.table.logp_NC).refuses_N).all()


@given(data=st.data(), threshold=st.sampled_from(THRESHOLDS))
def test_sweeps_count_what_one_threshold_beside_never_does(data, threshold):
    rows, template = rows_of(data), template_of(data)
    for name, sweep in category_sweeps(template, rows).items():
        column = template.taxonomy.column(name)
        chosen = decide_many(
            template.with_thresholds({name: threshold}), rows.table.logp_NC
        ).choice_N
        counted = sweep.at_thresholds(np.array([threshold]))
        assert int(counted.refused[0]) == int((chosen == column).sum())
        assert int(counted.own[0]) == int(((chosen == column) & (rows.label_N == column)).sum())
        at_cuts = template.with_thresholds({name: float(sweep.threshold_J[-1])})
        assert int(sweep.cut_J[-1]) == int(
            (decide_many(at_cuts, rows.table.logp_NC).choice_N == column).sum()
        )


@given(
    data=st.data(),
    threshold=st.sampled_from(THRESHOLDS),
    rule=st.sampled_from(("heaviest", "any", "sum")),
)
def test_a_pooled_sweep_counts_what_one_shared_threshold_does(data, threshold, rule):
    rows, template = rows_of(data), template_of(data, rule)
    chosen = template.with_thresholds(dict.fromkeys(template.taxonomy.names, threshold))
    refused_N = decide_many(chosen, rows.table.logp_NC).refuses_N
    counted = pooled_sweep(template, rows).at_thresholds(np.array([threshold]))
    assert (int(counted.refused[0]), int(counted.false[0])) == (
        int(refused_N.sum()),
        int((refused_N & (rows.label_N == 0)).sum()),
    )


@given(data=st.data(), rule=st.sampled_from(("heaviest", "any", "sum")))
def test_each_point_of_a_curve_is_what_decide_many_does_there(data, rule):
    rows, template = rows_of(data), template_of(data, rule)
    for name, category in zip(
        template.taxonomy.names, with_curves(template, rows).categories, strict=True
    ):
        column = template.taxonomy.column(name)
        for point in category.curve:
            moved = template.taxonomy.names if rule == "sum" else (name,)
            chosen = template.with_thresholds(dict.fromkeys(moved, point.threshold))
            choice_N = decide_many(chosen, rows.table.logp_NC).choice_N
            assert point.refusal_rate.hits == int((choice_N == column).sum())
            assert point.false_refusal.hits == int(
                ((choice_N == column) & (rows.label_N == 0)).sum()
            )


@pytest.mark.parametrize("lock", [(), (0,), (0, 2)])
@pytest.mark.parametrize(
    "goals", ["false_refusal <= 0.12", "false_refusal[safety] <= 0.12; false_refusal <= 0.2"]
)
@pytest.mark.parametrize("procedure", EVERY)
def test_what_is_certified_counts_no_fewer_errors_than_decide_many_makes(procedure, goals, lock):
    rows, template = doubtful_rows(4000, seed=3), policy(3)
    for at in lock:
        template = with_category(template, at, locked=True)
    grouped = grouped_scores(template, rows, shared=procedure is certify_shared)
    losses = losses_of(parse_goals(goals), template, grouped, 0)
    asked = CertifyTask(
        grouped=grouped,
        losses=losses,
        objective=objective_of(None, grouped, losses),
        delta=0.1,
        fixed={},
    )
    found = procedure(asked)
    if not isinstance(found, Certified):
        # a third of the level is less than the doubt
        assert procedure in (certify_budgets, certify_graphical), found
        return
    tested_N = np.ones(4000, dtype=bool)
    if procedure in (certify_path, certify_vectors):
        tested_N = split_rows(grouped, asked.learn_share, asked.seed).test_N
    chosen = template.with_thresholds(
        dict(zip(template.taxonomy.names, found.thresholds, strict=True))
    )
    many = decide_many(chosen, rows.table.logp_NC)
    assert many.doubt_N.sum() > 100
    for loss, evidence in zip(losses, found.evidence, strict=True):
        wrong_N = many.choice_N == 1 if loss.goal.category else many.refuses_N
        errors = int((wrong_N & (rows.label_N == 0) & tested_N).sum())
        assert evidence.rate.hits >= errors
        if not (loss.goal.category and lock):
            assert evidence.rate.hits == errors
        most = most_errors(evidence.rate.of, loss.level, 0.1)
        assert most is not None
        assert evidence.rate.hits <= most


@pytest.mark.parametrize("procedure", EVERY)
def test_a_level_below_the_share_in_doubt_is_not_certified(procedure):
    rows = doubtful_rows(4000, seed=5, share=0.2)
    grouped = grouped_scores(policy(3), rows, shared=procedure is certify_shared)
    losses = losses_of(parse_goals("false_refusal <= 0.1"), policy(3), grouped, 0)
    asked = CertifyTask(
        grouped=grouped,
        losses=losses,
        objective=objective_of(None, grouped, losses),
        delta=0.1,
        fixed={},
    )
    assert not isinstance(procedure(asked), Certified)


def test_a_missed_refusal_counts_doubt_as_not_answered():
    rows, goal = (
        doubtful_rows(3000, seed=7, share=0.3, signal=2.0),
        parse_goal("missed_refusal <= 0.3"),
    )
    found = solve(
        [goal], policy(3), rows, CertifyOptions(confidence=0.9, method="shared"), data_digest="d"
    )
    refused_N = decide_many(found, rows.table.logp_NC).refuses_N
    rate = found.promises[0].rate
    assert rate.hits == int((~refused_N & (rows.label_N > 0)).sum())
    without = solve(
        [goal],
        replace(policy(3), doubt=DoubtRule(most_leftover=1.0)),
        rows,
        CertifyOptions(confidence=0.9, method="shared"),
        data_digest="d",
    )
    assert without.categories[0].threshold <= found.categories[0].threshold


@settings(max_examples=60)
@given(data=st.data(), text=st.sampled_from(("f1 max", "youden max", "cost: false=1 missed=3")))
def test_beside_locks_no_move_of_one_threshold_betters_the_aim(data, text):
    rows, template = rows_of(data), with_category(template_of(data), 0, locked=True)
    if not (rows.to_answer and rows.to_refuse):
        return
    grouped = grouped_scores(template, rows, shared=False)
    aim, groups = objective_of(parse_goal(text), grouped, ()), len(grouped.groups)
    found = best_within(grouped, aim, [ALWAYS] * groups, [NEVER] * groups)
    value = aim.value(grouped.refused(found))
    for g in range(groups):
        for threshold in (
            *THRESHOLDS,
            *np.exp(np.unique(rows.table.logp_NC).astype(np.float64)).tolist(),
        ):
            assert (
                aim.value(grouped.refused([*found[:g], threshold, *found[g + 1 :]])) <= value + 1e-6
            )


@settings(max_examples=40)
@given(data=st.data())
def test_with_one_lock_of_two_the_best_vector_is_nearly_always_found(data):
    template = with_category(policy(2), 0, locked=True)
    logp_NC = data.draw(leaking(2))
    rows = labelled(logp_NC, [n % 3 for n in range(len(logp_NC))])
    grouped = grouped_scores(template, rows, shared=False)
    aim = objective_of(parse_goal("cost: false=1 missed=1"), grouped, ())
    cuts = [NEVER, ALWAYS, *np.exp(np.unique(logp_NC).astype(np.float64) - 1e-6).tolist()]
    best = max(aim.value(grouped.refused(pair)) for pair in product(cuts, cuts))
    found = aim.value(grouped.refused(best_within(grouped, aim, [ALWAYS] * 2, [NEVER] * 2)))
    assert found >= best - 1.0, "one row at most is lost by moving thresholds in turn"


@pytest.mark.parametrize("text", ["f1 max", "youden max", "cost: false=1 missed=3"])
def test_an_optimum_beside_a_lock_says_what_it_is(text):
    rows = simulated_rows(400, 3, seed=1, signal=2.0)
    template = with_category(policy(3), 0, locked=True)
    found = solve(
        [parse_goal(text)],
        template,
        rows,
        CertifyOptions(confidence=0.9, method="shared"),
        data_digest="d",
    )
    assert "locked" in found.promises[0].method
    free = solve(
        [parse_goal(text)],
        policy(3),
        rows,
        CertifyOptions(confidence=0.9, method="shared"),
        data_digest="d",
    )
    kept = decide_many(found, rows.table.logp_NC).refuses_N
    lazy = decide_many(with_category(free, 0, locked=True), rows.table.logp_NC).refuses_N
    assert ((kept == (rows.label_N > 0)).mean()) >= (lazy == (rows.label_N > 0)).mean() - 0.02


@pytest.mark.parametrize("text", ["macro_f1 max", "micro_f1 max"])
def test_goals_about_tokens_refuse_locks_instead_of_miscounting(text):
    rows, template = simulated_rows(400, 3, seed=1), with_category(policy(3), 0, locked=True)
    with pytest.raises(GoalError, match="locked"):
        solve(
            [parse_goal(text)],
            template,
            rows,
            CertifyOptions(confidence=0.9, method="shared"),
            data_digest="d",
        )


def test_wrong_categories_are_not_promised_beside_a_lock():
    rows, template = simulated_rows(400, 3, seed=1), with_category(policy(3), 0, locked=True)
    with pytest.raises(GoalError, match="locked"):
        losses_of(
            [parse_goal("wrong_category <= 0.3")],
            template,
            grouped_scores(template, rows, shared=False),
            0,
        )


def test_a_rate_below_the_share_in_doubt_is_infeasible_and_says_so():
    rows = doubtful_rows(500, seed=9, share=0.2)
    for text in ("refusal_rate = 5%", "refusal_rate[safety] = 1%"):
        with pytest.raises(GoalInfeasible, match="in doubt at every threshold"):
            solve(
                [parse_goal(text)],
                policy(3),
                rows,
                CertifyOptions(confidence=0.9, method="shared"),
                data_digest="d",
            )
    with pytest.raises(DemurError):
        solve_on_traffic(
            [parse_goal("refusal_rate <= 5%")],
            policy(3),
            unlabelled_rows(rows.table),
            confidence=0.9,
            data_digest="d",
        )


def test_traffic_beside_a_lock_is_refused_no_more_often_than_asked():
    rows = simulated_rows(2000, 3, seed=11)
    template = with_category(policy(3), 0, locked=True)
    goals = [parse_goal("refusal_rate[safety] = 5%"), parse_goal("refusal_rate[humanizing] = 5%")]
    found = solve_on_traffic(
        goals, template, unlabelled_rows(rows.table), confidence=0.9, data_digest="d"
    )
    choice_N = decide_many(found, rows.table.logp_NC).choice_N
    assert 0.02 < (choice_N == 1).mean() <= 0.05
    assert 0.02 < (choice_N == 2).mean() <= 0.05


def test_log_softmax_rows_are_never_in_doubt():
    assert not decide_many(policy(3), log_softmax(np.zeros((4, 4)))).doubt_N.any()
