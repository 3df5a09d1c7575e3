import json
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from demur.core.rates import decimal_fraction
from demur.stats.thresholds.curve import category_sweeps
from demur.stats.thresholds.sweep import best_fbeta, best_linear, most_caught, sweep_of, totals
from tests.builders import labelled, policy, rows, undoubted

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "thresholds.json").read_text())["categories"]
MORE = json.loads((FOLDER / "promises.json").read_text())["categories"]


def f_of(sweeps, cuts, to_refuse, beta):
    caught, false = totals(sweeps, cuts)
    b2 = decimal_fraction(beta) ** 2
    return (1 + b2) * caught / (b2 * to_refuse + caught + false)


def every_vector(sweeps):
    return product(*(range(len(s.cut_J)) for s in sweeps))


@settings(max_examples=200)
@given(data=st.data(), k=st.integers(2, 3), beta=st.sampled_from((0.5, 1.0, 1.3, 2.0)))
def test_dinkelbach_equals_trying_every_vector_of_cuts_and_takes_the_strictest_best(data, k, beta):
    labelled_rows = data.draw(rows(k, max_rows=12))
    assume(labelled_rows.to_refuse)
    sweeps = list(category_sweeps(policy(k), labelled_rows).values())
    cuts, f = best_fbeta(sweeps, labelled_rows.to_refuse, beta)
    value = {v: f_of(sweeps, v, labelled_rows.to_refuse, beta) for v in every_vector(sweeps)}
    assert f == value[tuple(cuts)] == max(value.values())
    ties = [v for v, at in value.items() if at == f]
    assert all(a <= b for v in ties for a, b in zip(cuts, v, strict=True))


@given(data=st.data(), gain=st.sampled_from((0.1, 1.0, 3.0)), cost=st.sampled_from((0.3, 1.0, 2.5)))
def test_a_linear_optimum_equals_trying_every_cut_with_exact_ties(data, gain, cost):
    sweeps = list(category_sweeps(policy(2), data.draw(rows(2, max_rows=20))).values())
    gain, cost = decimal_fraction(gain), decimal_fraction(cost)
    for sweep, cut in zip(sweeps, best_linear(sweeps, gain, cost), strict=True):
        values = [
            gain * c - cost * f
            for c, f in zip(
                sweep.at_cuts.caught.tolist(), sweep.at_cuts.false.tolist(), strict=True
            )
        ]
        assert cut == values.index(max(values))


def test_numbers_too_large_for_int64_stay_exact():
    sweep = sweep_of(np.log(np.array([0.9, 0.5], dtype=np.float32)), np.array([1, 0]))
    assert best_linear([sweep], Fraction(2**80), Fraction(2**80 - 1)) == [1]
    assert decimal_fraction(0.1) == Fraction(1, 10)


def golden_rows():
    q_N, heaviest_N = np.array(GOLDEN["q_per_million"]) / 1e6, np.array(GOLDEN["heaviest"])
    logp_NC = np.full((len(q_N), 6), -50, dtype=np.float32)
    logp_NC[np.arange(len(q_N)), heaviest_N] = np.log(q_N)
    return labelled(logp_NC, GOLDEN["label"])


def golden_thresholds(sweeps, cuts):
    return [s.threshold_J[j] for s, j in zip(sweeps, cuts, strict=True)]


@pytest.mark.parametrize("beta", GOLDEN["refuse_fbeta"])
def test_the_refuse_or_answer_optimum_equals_the_golden_one(beta):
    expected, labelled_rows = GOLDEN["refuse_fbeta"][beta], golden_rows()
    sweeps = list(category_sweeps(undoubted(policy(5)), labelled_rows).values())
    cuts, f = best_fbeta(sweeps, labelled_rows.to_refuse, float(beta))
    assert float(f) == pytest.approx(expected["F"], abs=1e-10)
    assert totals(sweeps, cuts) == (expected["tp"], expected["fp"])
    assert golden_thresholds(sweeps, cuts) == pytest.approx(
        list(expected["thresholds"].values()), rel=1e-6
    )


@pytest.mark.parametrize("beta", MORE["micro_fbeta"])
def test_the_micro_optimum_of_all_tokens_equals_the_golden_one(beta):
    expected, labelled_rows = MORE["micro_fbeta"][beta], golden_rows()
    sweeps = list(category_sweeps(undoubted(policy(5)), labelled_rows).values())
    cuts, f = best_fbeta(sweeps, labelled_rows.to_refuse, float(beta), "own")
    assert float(f) == pytest.approx(expected["F"], abs=1e-10)
    assert totals(sweeps, cuts, "own") == (expected["tp"], expected["fp"])
    assert golden_thresholds(sweeps, cuts) == pytest.approx(
        list(expected["thresholds"].values()), rel=1e-6
    )


@pytest.mark.parametrize("beta", MORE["own_fbeta"])
def test_each_tokens_optimum_equals_the_golden_one(beta):
    labelled_rows, found = golden_rows(), []
    for column, sweep in enumerate(
        category_sweeps(undoubted(policy(5)), labelled_rows).values(), start=1
    ):
        expected = MORE["own_fbeta"][beta][str(column)]
        cuts, f = best_fbeta(
            [sweep], int((labelled_rows.label_N == column).sum()), float(beta), "own"
        )
        found.append(float(f))
        assert found[-1] == pytest.approx(expected["F"], abs=1e-10)
        assert totals([sweep], cuts, "own") == (expected["tp"], expected["fp"])
        assert golden_thresholds([sweep], cuts) == pytest.approx([expected["threshold"]], rel=1e-6)
    assert np.mean(found) == pytest.approx(MORE["own_fbeta"][beta]["macro_F"], abs=1e-10)


@pytest.mark.parametrize("expected", MORE["most_caught"])
def test_the_knapsack_catches_as_many_as_the_golden_one(expected):
    sweeps = list(category_sweeps(undoubted(policy(5)), golden_rows()).values())
    cuts, caught = most_caught(sweeps, expected["budget"])
    assert caught == expected["caught"]
    assert totals(sweeps, cuts) == (expected["caught"], expected["used"])


@settings(max_examples=150)
@given(data=st.data(), k=st.integers(2, 3), budget=st.integers(0, 6))
def test_the_knapsack_equals_trying_every_vector_of_cuts(data, k, budget):
    sweeps = list(category_sweeps(policy(k), data.draw(rows(k, max_rows=12))).values())
    cuts, caught = most_caught(sweeps, budget)
    every = [totals(sweeps, v) for v in every_vector(sweeps)]
    assert caught == max(c for c, false in every if false <= budget)
    assert totals(sweeps, cuts)[0] == caught
    assert totals(sweeps, cuts)[1] == min(false for c, false in every if c == caught)
