from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.goals.parse import parse_goals
from demur.core.threshold import NEVER
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.problem import LearnTestSplit
from demur.stats.thresholds.procedures.search import candidates, cut_grid, lenient_path, split_rows
from tests.builders import policy, rows, simulated_rows


@settings(max_examples=60)
@given(data=st.data())
def test_the_learnt_path_holds_the_best_vector_for_every_price_of_cost(data):
    labelled_rows = data.draw(rows(2, min_rows=2, max_rows=14))
    grouped = grouped_scores(policy(2), labelled_rows, shared=False)
    cost_N, worth_N = (
        (labelled_rows.label_N == 0).astype(float),
        (labelled_rows.label_N != 0).astype(float),
    )
    path = lenient_path(grouped, cost_N, worth_N, {})
    first_N = path.first_step(grouped)
    on_path = [
        (worth_N[first_N <= s].sum(), cost_N[first_N <= s].sum())
        for s in range(len(path.group_S) + 1)
    ]
    observed = [
        [*np.exp(grouped.logq_N[grouped.group_N == g]) * (1 - 1e-6), NEVER] for g in range(2)
    ]
    every = [
        (worth_N[r].sum(), cost_N[r].sum())
        for r in (grouped.refused(t) for t in product(*observed))
    ]
    for price in (0.05, 0.3, 0.7, 1.1, 2.3, 40.0):
        assert max(w - price * c for w, c in on_path) == pytest.approx(
            max(w - price * c for w, c in every)
        )
    for step in range(len(path.group_S) + 1):
        assert (grouped.refused(path.at(step, 2)) == (first_N <= step)).all()


def test_a_path_only_ever_lowers_thresholds():
    grouped = grouped_scores(policy(3), simulated_rows(500, 3, seed=3), shared=False)
    label_N = grouped.rows.label_N
    path = lenient_path(grouped, (label_N == 0).astype(float), (label_N != 0).astype(float), {})
    vectors = np.array([path.at(step, 3) for step in range(len(path.group_S) + 1)])
    with np.errstate(invalid="ignore"):
        assert not (np.diff(vectors, axis=0) > 0).any()
    assert (vectors[0] == NEVER).all()


def test_the_split_does_not_follow_what_the_caller_drew_with_the_same_seed():
    drawn_N = np.random.default_rng(3).random(2000)
    rows = simulated_rows(2000, 2, seed=3)
    learn_N = split_rows(grouped_scores(policy(2), rows, shared=False), 0.4, seed=3).learn_N
    assert abs(np.corrcoef(drawn_N, learn_N)[0, 1]) < 0.1
    assert learn_N.mean() == pytest.approx(0.4, abs=0.05)


def test_rows_made_from_one_another_stay_on_one_side_of_the_split():
    rows = replace(simulated_rows(600, 2, seed=4), group_N=np.repeat(np.arange(200), 3))
    learn_N = split_rows(grouped_scores(policy(2), rows, shared=False), 0.4, seed=0).learn_N
    assert set(learn_N.reshape(200, 3).sum(axis=1).tolist()) == {0, 3}


def test_candidates_start_at_the_safest_vector_and_trade_margin_for_worth():
    labelled_rows = simulated_rows(3000, 3, seed=5, signal=3.0)
    grouped = grouped_scores(policy(3), labelled_rows, shared=False)
    losses = losses_of(
        parse_goals("false_refusal <= 0.15; missed_refusal[safety] <= 0.3"), policy(3), grouped, 0
    )
    everyone_N = np.ones(3000, dtype=bool)
    worth_N = (labelled_rows.label_N != 0).astype(float)
    found = candidates(
        cut_grid(
            grouped,
            losses,
            worth_N,
            LearnTestSplit(learn_N=everyone_N, test_N=everyone_N),
            {2: 0.5},
        )
    )
    worth = [worth_N[grouped.refused(t)].sum() for t in found]
    assert worth == sorted(worth)
    assert len(found) > 3
    assert {t[2] for t in found} == {0.5}
    for thresholds in found:
        refused_N = grouped.refused(thresholds)
        assert all(loss.rate(refused_N, everyone_N).value <= loss.level for loss in losses)
