"""Anytime-valid certification: the evidence is an e-value, and no later row moves the path."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from demur.base.errors import DataError, GoalError
from demur.core.goals.parse import parse_goals
from demur.core.rates import most_errors, rows_needed
from demur.core.score import ScoreTable
from demur.stats.judging.any_look import log_evidence_below, most_errors_anytime
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.explain import what_would_do
from demur.stats.thresholds.problem import Arrived
from demur.stats.thresholds.procedures.anytime import anytime_split, anytime_test, anytime_upper
from demur.stats.thresholds.results import Uncertified
from demur.stats.units import count_rows
from tests.validity.population import population


@pytest.mark.parametrize("level", [0.01, 0.05, 0.3, 0.7])
@pytest.mark.parametrize("n", [1, 20, 300])
def test_the_evidence_has_mean_one_at_the_level_and_less_above(level, n):
    hits = np.arange(n + 1)
    e = np.exp(log_evidence_below(hits, np.full_like(hits, n), level))
    assert (binom.pmf(hits, n, level) * e).sum() == pytest.approx(1.0, rel=1e-6)
    for above in (level + 0.01, level + 0.1, 0.9):
        assert (binom.pmf(hits, n, max(above, level)) * e).sum() <= 1.0 + 1e-9


def test_the_evidence_after_each_label_is_a_martingale_at_the_level():
    level, of = 0.1, 40
    hits = np.arange(of + 1)
    now = np.exp(log_evidence_below(hits, np.full_like(hits, of), level))
    error = np.exp(log_evidence_below(hits + 1, np.full_like(hits, of + 1), level))
    none = np.exp(log_evidence_below(hits, np.full_like(hits, of + 1), level))
    assert level * error + (1 - level) * none == pytest.approx(now, rel=1e-8)


def test_the_evidence_is_the_mean_likelihood_ratio_of_rates_below_the_level():
    hits, of, level = 3, 80, 0.1

    def density(r):
        return r**-0.5 * (1 - r) ** -0.5

    def ratio(r):
        return (r / level) ** hits * ((1 - r) / (1 - level)) ** (of - hits)

    whole = quad(density, 0, level)[0]
    mean = quad(lambda r: density(r) * ratio(r), 0, level)[0] / whole
    log_e = log_evidence_below(np.array([hits]), np.array([of]), level)[0]
    assert log_e == pytest.approx(np.log(mean), rel=1e-6)


def test_it_asks_for_somewhat_more_than_a_test_of_one_look():
    for level, delta in ((0.05, 0.05), (0.1, 0.1)):
        least = next(n for n in range(1, 500) if most_errors_anytime(n, level, delta) is not None)
        assert rows_needed(level, delta) < least < 1.5 * rows_needed(level, delta)
        for n in (least, 400, 2000):
            assert most_errors_anytime(n, level, delta) <= most_errors(n, level, delta)


def test_billions_of_requests_need_no_array_of_their_errors():
    most = most_errors_anytime(10**10, 0.1, 0.1)
    assert 0.0999e10 < most < 0.1e10


def test_linked_rows_pass_by_the_first_row_of_each_unit_and_by_requests():
    everyone_N = np.ones(120, dtype=bool)
    alone = count_rows(everyone_N, None, None, 0)
    pairs = count_rows(everyone_N, np.arange(120) // 2, None, 0)
    none_N, last_N = np.zeros(120, dtype=bool), np.zeros(120, dtype=bool)
    last_N[1::2] = True  # the second row of each unit errs
    assert anytime_test(alone, 0.05, 0.05).passes(none_N)
    assert anytime_test(pairs, 0.05, 0.05) is None  # 60 units
    test = anytime_test(pairs, 0.1, 0.05)
    assert test.passes(none_N)
    assert not test.passes(last_N)
    assert anytime_upper(pairs, none_N, 0.05) > anytime_upper(alone, none_N, 0.05)


def test_rows_that_came_at_once_in_any_order_have_a_drawn_row_speak_for_their_unit():
    group_N = np.repeat(np.arange(60), 10)
    rng, passed = np.random.default_rng(2), 0
    for draw in range(2000):
        rows = count_rows(np.ones(600, dtype=bool), group_N, None, draw)
        # nine rows of a unit err alike, the first never does: .108 of all
        error_N = np.repeat(rng.random(60) < 0.12, 10)
        error_N[::10] = False
        passed += anytime_test(rows, 0.1, 0.1, at_once=True).passes(error_N)
    assert passed <= binom.ppf(0.999, 2000, 0.1)


def test_the_bound_is_the_level_that_would_just_pass():
    rows = count_rows(np.ones(300, dtype=bool), None, None, 0)
    error_N = np.arange(300) < 9
    upper = anytime_upper(rows, error_N, 0.05)
    assert anytime_test(rows, upper + 1e-6, 0.05).passes(error_N)
    assert not anytime_test(rows, upper - 1e-6, 0.05).passes(error_N)


def drawn(rows=800, seed=0):
    """Rows of a population in random order."""
    people = population(rows=5000)
    rng = np.random.default_rng(seed)
    at = rng.integers(len(people.label_N), size=rows)
    table = ScoreTable(ids=tuple(map(str, range(rows))), logp_NC=people.logp_NC[at])
    return LabelledScores(table=table, label_N=people.label_N[at])


def first(rows, n):
    return LabelledScores(table=rows.table.select(rows.table.ids[:n]), label_N=rows.label_N[:n])


def looked(rows, goals, arrived=None, template=None, **given):
    template = template or population(rows=5000).template
    how = CertifyOptions(method="anytime", confidence=0.9, arrived=arrived, **given)
    return certify(parse_goals(goals), template, rows, how)


@pytest.mark.parametrize(
    "goals",
    [
        "false_refusal <= 0.1",
        "missed_refusal <= 0.2",
        "false_refusal <= 0.1; missed_refusal <= 0.3",
    ],
)
def test_it_certifies_once_labels_suffice(goals):
    rows, arrived = drawn(1600), Arrived(learn=160, first=400)
    assert isinstance(looked(first(rows, 30), goals), Uncertified)
    found = looked(rows, goals, arrived)
    assert isinstance(found, Granted)
    assert found.certified.method.startswith("anytime-valid")


def test_rows_that_come_later_do_not_move_the_path():
    rows, arrived = drawn(), Arrived(learn=120, first=300)
    among_N = rows.label_N == 0
    for learns in (False, True):
        early = anytime_split(first(rows, 400), among_N[:400], arrived, learns=learns)
        late = anytime_split(rows, among_N, arrived, learns=learns)
        assert (early.learn_N == late.learn_N[:400]).all()
        assert (early.test_N == late.test_N[:400]).all()
        assert not late.learn_N[300:].any()


def test_a_later_row_of_a_unit_that_fixed_the_path_is_left_out():
    rows = drawn()
    group_N = np.arange(800)
    refused = int(np.flatnonzero(rows.label_N[:100])[0])  # fixes the path
    answered = 700 + int(np.flatnonzero(rows.label_N[700:] == 0)[0])
    group_N[answered] = refused
    linked = replace(rows, group_N=group_N)
    arrived = Arrived(learn=120, first=300)
    split = anytime_split(linked, rows.label_N == 0, arrived, learns=False)
    plain = anytime_split(rows, rows.label_N == 0, arrived, learns=False)
    assert (split.learn_N == plain.learn_N).all()
    assert not split.test_N[answered]


def test_too_few_rows_name_those_that_would_do_and_a_first_look_without_refusals_is_refused():
    found = looked(first(drawn(), 40), "false_refusal <= 0.02")
    assert isinstance(found, Uncertified)
    assert found.rows_needed > rows_needed(0.02, 0.1)
    rows = drawn()
    order = np.argsort(rows.label_N != 0, kind="stable")  # rows to be answered come first
    sorted_ = LabelledScores(
        table=rows.table.select(tuple(rows.table.ids[n] for n in order)),
        label_N=rows.label_N[order],
    )
    with pytest.raises(DataError, match="no row of the first look is to be refused"):
        looked(sorted_, "false_refusal <= 0.1", Arrived(learn=40, first=100))


def test_where_looks_do_not_certify_yet_no_number_of_rows_is_said_to_do():
    found = looked(first(drawn(), 300), "false_refusal <= 0.1; missed_refusal <= 0.1")
    assert isinstance(found, Uncertified)
    assert found.rows_needed is None
    assert found.reason.startswith("by the labels so far, ")
    assert "collect more labelled rows" in what_would_do(found)


def test_a_target_rate_beside_it_is_refused():
    with pytest.raises(GoalError, match="target rate"):
        looked(drawn(), "missed_refusal <= 0.2; refusal_rate[humanizing] = 0.05")
