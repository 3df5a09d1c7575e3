import numpy as np
import pytest

from demur.core.goals.parse import parse_goals
from demur.stats.thresholds.explain import failure_of, infeasible, lowest_rate
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.problem import LearnTestSplit
from demur.stats.thresholds.procedures.outlook import with_outlook
from demur.stats.thresholds.procedures.search import cut_grid
from demur.stats.thresholds.procedures.sequences import certify_path
from demur.stats.thresholds.procedures.task import Tried
from demur.stats.thresholds.results import Infeasible, Uncertified
from tests.builders import policy, simulated_rows
from tests.stats.thresholds.procedures.test_procedures import task


def why_not(asked):
    found = certify_path(asked)
    tried = Tried(method="path", procedure=certify_path, task=asked, found=found)
    return with_outlook(tried, failure_of(tried))


def test_goals_that_the_scores_cannot_meet_are_infeasible_with_the_trade_off():
    asked = task("false_refusal <= 0.02; missed_refusal <= 0.1", simulated_rows(4000, 3, seed=7))
    found = why_not(asked)
    assert isinstance(found, Infeasible)
    assert found.blocking.text == "missed_refusal <= 0.1"
    kept_false, kept_missed = (r.lowest for r in found.reachable)
    assert kept_false > 0.02
    assert kept_missed > 0.1
    assert "can go no lower than" in found.reason


def test_the_priority_of_soft_goals_says_which_one_blocks():
    texts = ["false_refusal <= 0.02 soft 2", "missed_refusal <= 0.1 soft"]
    asked = task(texts, simulated_rows(4000, 3, seed=7))
    found = why_not(asked)
    assert isinstance(found, Infeasible)
    assert found.blocking.text == texts[0]


def test_levels_that_the_rows_may_meet_are_uncertified_with_the_rows_that_would_do():
    asked = task(
        "false_refusal <= 0.1; missed_refusal <= 0.12", simulated_rows(400, 3, seed=1, signal=3.5)
    )
    split = LearnTestSplit(learn_N=asked.everyone, test_N=asked.everyone)
    assert infeasible(asked.grouped, asked.losses, {}, split) is None
    found = why_not(asked)
    assert isinstance(found, Uncertified)
    assert found.rows_needed is None or found.rows_needed > found.rows
    assert len(found.evidence) == 2
    assert all(w.needed >= w.rows for w in found.outlook.wanted)
    assert found.outlook.short


def test_no_vector_of_thresholds_goes_below_the_lowest_rate():
    labelled_rows = simulated_rows(600, 2, seed=2)
    grouped = grouped_scores(policy(2), labelled_rows, shared=False)
    losses = losses_of(
        parse_goals("false_refusal <= 0.1; missed_refusal <= 0.2"), policy(2), grouped, 0
    )
    everyone_N, rng = np.ones(600, dtype=bool), np.random.default_rng(3)
    menu = cut_grid(
        grouped,
        losses,
        everyone_N.astype(float),
        LearnTestSplit(learn_N=everyone_N, test_N=everyone_N),
        {},
    )
    lowest = lowest_rate(menu, 1, [0])
    kept = []
    for _ in range(500):
        refused_N = grouped.refused([float(rng.choice(t)) for t in menu.threshold_GJ])
        if losses[0].rate(refused_N, everyone_N).value <= 0.1:
            kept.append(losses[1].rate(refused_N, everyone_N).value)
    assert lowest <= min(kept)
    assert lowest_rate(menu, 1, []) == pytest.approx(0.0, abs=1e-9)
