"""Intervals and paired tests on rows that err together: they cover, and they raise no false alarms,
where rows are no independent draws.
"""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom, norm

from demur.core.rates import Rate
from demur.stats import paired
from demur.stats.calibration.binned import cells
from demur.stats.calibration.uncertainty import error_interval
from demur.stats.calibration.views import binary_view
from demur.stats.judging.agreement import agreement
from demur.stats.judging.correction import CheckedSample, regression_rate, regression_share
from demur.stats.judging.judged import rogan_gladen
from demur.stats.labelled import traits_from
from demur.stats.measure import errors_of
from demur.stats.paired import compare_paired, mcnemar_of_groups, mcnemar_p
from demur.stats.points import Resampling, auroc_interval, f1_interval
from demur.stats.thresholds.problem import mix_of
from demur.stats.units import RowUnits, unit_rate

DRAWS = 2000
SLACK = 0.999  # of the binomial distribution of the misses


def slow(*case):
    """A case for `make test-slow`."""
    return pytest.param(*case, marks=pytest.mark.slow)


def families(rng, units, sizes, rate, alike):
    """(hits, unit) of rows in families; `alike` is the intra-class correlation, beta-binomial."""
    size_U, rate_U = rng.choice(sizes, units), np.full(units, rate)
    if alike:
        scale = 1.0 / alike - 1.0
        rate_U = rng.beta(rate * scale, (1.0 - rate) * scale, units)
    unit_N = np.repeat(np.arange(units), size_U)
    return rng.random(len(unit_N)) < rate_U[unit_N], unit_N


def missed(units, sizes, rate, alike, draws=DRAWS):
    """How many of the draws have a 95% interval without the rate: by units, and by rows alone."""
    rng, by_units, by_rows = np.random.default_rng(17), 0, 0
    for _ in range(draws):
        hit_N, unit_N = families(rng, units, sizes, rate, alike)
        everyone_N = np.ones(len(hit_N), dtype=bool)
        low, high = unit_rate(hit_N, everyone_N, unit_N, None).interval()
        by_units += not low <= rate <= high
        low, high = Rate(hits=int(hit_N.sum()), of=len(hit_N)).interval()
        by_rows += not low <= rate <= high
    return by_units, by_rows


@pytest.mark.parametrize(
    ("units", "sizes", "rate", "alike"),
    [
        (60, (5,), 0.3, 0.9),
        (60, (1, 1, 2, 5, 10), 0.1, 0.5),
        slow(30, (5,), 0.3, 0.0),
        slow(30, (10,), 0.05, 0.9),
        slow(60, (10,), 0.5, 0.5),
        slow(60, (5,), 0.01, 0.5),
        slow(300, (5,), 0.1, 0.9),
        slow(300, (1, 1, 2, 5, 10), 0.5, 0.0),
    ],
)
def test_intervals_of_families_miss_the_rate_in_at_most_five_of_a_hundred_draws(
    units, sizes, rate, alike
):
    assert missed(units, sizes, rate, alike)[0] <= binom.ppf(SLACK, DRAWS, 0.05)


def test_an_interval_that_counts_rows_would_show():
    assert missed(60, (5,), 0.3, 0.9, draws=200)[1] > binom.ppf(SLACK, 200, 0.25)


def test_the_slices_that_a_promise_keeps_know_their_families():
    rng, misses, by_counts = np.random.default_rng(5), 0, 0
    traits = traits_from({"source": ["a"] * 300})
    for _ in range(DRAWS):
        hit_N, unit_N = families(rng, 60, (5,), 0.3, 0.9)
        (part,) = mix_of(traits, hit_N, np.ones(300, dtype=bool), RowUnits.of(300, unit_N))
        low, high = part.interval
        misses += not low <= 0.3 <= high
        low, high = part.rate.interval()
        by_counts += not low <= 0.3 <= high
    assert misses <= binom.ppf(SLACK, DRAWS, 0.05)
    assert by_counts > 0.25 * DRAWS  # what files of before hold


def test_the_rates_of_an_evaluation_know_their_families():
    rng, missed_by = np.random.default_rng(3), 0
    for _ in range(300):
        refused_N, unit_N = families(rng, 60, (5,), 0.3, 0.9)
        answer_N = np.zeros(len(refused_N), dtype=bool)
        found = errors_of(answer_N, refused_N, RowUnits.of(len(unit_N), unit_N)).false_refusal
        low, high = found.interval()
        missed_by += not low <= 0.3 <= high
        assert (found.units, found.of) == (60, 300)
    assert missed_by <= binom.ppf(SLACK, 300, 0.05)


def changes(rng, alike):
    """(change of each item, its group): items of a group gain or lose together with probability
    `alike`; neither direction is likelier.
    """
    group_N = np.repeat(np.arange(60), 5)
    own_G, own_N = rng.choice([-1, 0, 1], 60), rng.choice([-1, 0, 1], 300)
    return np.where(rng.random(300) < alike, own_G[group_N], own_N), group_N


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_mcnemar_on_groups_raises_false_alarms_in_at_most_five_of_a_hundred_draws(alike):
    rng, by_groups, by_items = np.random.default_rng(5), 0, 0
    for _ in range(DRAWS):
        change_N, group_N = changes(rng, alike)
        by_groups += mcnemar_of_groups(change_N, group_N) <= 0.05
        by_items += mcnemar_p(int((change_N > 0).sum()), int((change_N < 0).sum())) <= 0.05
    assert by_groups <= binom.ppf(SLACK, DRAWS, 0.05)
    if alike == 0.9:  # a test that counts items would show
        assert by_items > 0.2 * DRAWS


def test_a_comparison_of_two_runs_tests_groups():
    change_N, group_N = changes(np.random.default_rng(6), 0.9)
    before, after = (change_N < 0).tolist(), (change_N > 0).tolist()
    found = compare_paired(before, after, [str(g) for g in group_N], Resampling(seed=0, draws=2))
    assert found.p == mcnemar_of_groups(change_N, group_N)


@pytest.mark.parametrize(("gains", "loses"), [(0.0, 0.03), slow(0.02, 0.02)])
def test_the_interval_of_a_change_covers_it_where_groups_change_together(gains, loses, monkeypatch):
    # Few outcomes occur: each bound is worked out once.
    monkeypatch.setattr(paired, "most_lost", cache(paired.most_lost))
    rng, missed_by, group_N = np.random.default_rng(8), 0, np.repeat(np.arange(60), 5)
    groups = [str(g) for g in group_N]
    for n in range(DRAWS):
        own_G, own_N = (
            rng.choice([-1, 0, 1], size, p=[loses, 1 - gains - loses, gains]) for size in (60, 300)
        )
        change_N = np.where(rng.random(300) < 0.9, own_G[group_N], own_N)
        before, after = (change_N < 0).tolist(), (change_N > 0).tolist()
        low, high = compare_paired(before, after, groups, Resampling(seed=n)).interval
        missed_by += not low <= gains - loses <= high
    assert missed_by <= binom.ppf(SLACK, DRAWS, 0.05)


def judged_families(rng, rate, labels):
    """A sample of 60 families of 5 texts with hand labels of some, and the same with each row
    alone. The judge errs in one text of ten; in half of them it errs alike in the family.
    """
    hand_N, unit_N = families(rng, 60, (5,), rate, 0.9)
    wrong_N = np.where(rng.random(300) < 0.5, (rng.random(60) < 0.1)[unit_N], rng.random(300) < 0.1)
    known_N = np.zeros(300, dtype=bool)
    known_N[rng.choice(300, labels, replace=False)] = True
    values = {"judge_N": (hand_N ^ wrong_N).astype(float), "hand_N": hand_N.astype(float)}
    sample = CheckedSample(**values, known_N=known_N, units=RowUnits.of(300, unit_N))
    return sample, CheckedSample(**values, known_N=known_N)


@pytest.mark.parametrize(("rate", "labels"), [(0.3, 100), (0.3, 250), (0.1, 150), (0.3, 300)])
def test_corrected_rates_of_families_cover_the_rate_of_requests(rate, labels):
    rng, by_units, by_rows = np.random.default_rng(4), 0, 0
    for _ in range(DRAWS):
        found = [regression_rate(s) for s in judged_families(rng, rate, labels)]
        apart = [not f.low <= rate <= f.high for f in found]
        by_units, by_rows = by_units + apart[0], by_rows + apart[1]
    assert by_units <= binom.ppf(SLACK, DRAWS, 0.05)
    assert by_rows > 0.1 * DRAWS  # an estimate that counts texts would show


def test_a_corrected_precision_of_families_covers_it():
    rng, misses = np.random.default_rng(4), 0
    for _ in range(DRAWS):
        sample, _ = judged_families(rng, 0.5, 200)
        # of a family whose texts decline, three of four in the mean ought to
        should_N = (rng.random(60) < 0.75)[sample.units.group_N]
        found = regression_share(sample, should_N)
        misses += not found.low <= 0.75 <= found.high
    assert misses <= binom.ppf(SLACK, DRAWS, 0.05)


def test_rogan_gladen_on_families_covers_the_rate():
    rng, misses = np.random.default_rng(4), 0
    for _ in range(DRAWS):
        sample, _ = judged_families(rng, 0.3, 150)
        hand_N, judge_N, units = sample.hand_N == 1, sample.judge_N == 1, sample.units
        found = rogan_gladen(
            units.rate(judge_N, np.ones(300, dtype=bool)),
            units.rate(judge_N, hand_N & sample.known_N),
            units.rate(~judge_N, ~hand_N & sample.known_N),
        )
        misses += not found.low <= 0.3 <= found.high
    assert misses <= binom.ppf(SLACK, DRAWS, 0.05)


def ranked_families(rng, apart):
    """(to be refused, score, unit) of 60 families of 5, whose labels and scores are alike."""
    unit_N = np.repeat(np.arange(60), 5)
    own_N, of_family_N = rng.random(300) < 0.4, (rng.random(60) < 0.4)[unit_N]
    should_N = np.where(rng.random(300) < 0.95, of_family_N, own_N)
    noise_N = np.sqrt(0.9) * rng.normal(size=60)[unit_N] + np.sqrt(0.1) * rng.normal(size=300)
    return should_N, apart * should_N + noise_N, unit_N


@pytest.mark.parametrize("apart", [1.0, 2.0, 3.0])
def test_the_interval_of_an_area_under_the_curve_covers_it_on_families(apart):
    truth, rng, misses = norm.cdf(apart / np.sqrt(2)), np.random.default_rng(1), 0
    for _ in range(DRAWS):
        should_N, score_N, unit_N = ranked_families(rng, apart)
        low, high = auroc_interval(should_N, score_N, RowUnits.of(300, unit_N))
        misses += not low <= truth <= high
    assert misses <= binom.ppf(SLACK, DRAWS, 0.05)


@pytest.mark.parametrize("apart", [2.0, 4.0])
def test_the_interval_of_f1_covers_it_on_families(apart):
    hit = 0.4 * norm.sf(1.0 - apart)
    wrong = 0.4 - hit + 0.6 * norm.sf(1.0)
    truth, rng, misses = 2 * hit / (2 * hit + wrong), np.random.default_rng(1), 0
    for _ in range(DRAWS):
        should_N, score_N, unit_N = ranked_families(rng, apart)
        low, high = f1_interval(should_N, score_N > 1.0, RowUnits.of(300, unit_N))
        misses += not low <= truth <= high
    assert misses <= binom.ppf(SLACK, DRAWS, 0.05)


@pytest.mark.parametrize("shift", [0.0, slow(0.1)])
def test_the_interval_of_a_calibration_error_covers_it_on_families(shift):
    rng, misses, unit_N = np.random.default_rng(2), 0, np.repeat(np.arange(60), 5)
    for n in range(DRAWS):
        p_N = rng.choice([0.1, 0.3, 0.5, 0.7], 60)[unit_N]
        alike_N = rng.random(300) < np.sqrt(0.9)
        event_N = np.where(alike_N, rng.random(60)[unit_N], rng.random(300)) < p_N + shift
        view = binary_view("event", p_N, event_N)
        how = Resampling(seed=n, draws=200)
        low, high = error_interval(view, cells(view, "mass", 4), "l1", how, unit_N)
        misses += not low <= shift <= high
    assert misses <= binom.ppf(SLACK, DRAWS, 0.05)


@pytest.mark.parametrize("right", [0.95, slow(0.99)])
def test_the_interval_of_kappa_covers_it_on_answers_to_one_prompt(right):
    by_chance = 0.3 * (0.3 * right + 0.7 * (1 - right)) + 0.7 * (0.7 * right + 0.3 * (1 - right))
    truth = (right - by_chance) / (1 - by_chance)
    rng, misses, unit_N = np.random.default_rng(2), 0, np.repeat(np.arange(60), 5)
    prompts = [str(u) for u in unit_N]

    def alike(rate):
        own_N, of_prompt_N = rng.random(300) < rate, (rng.random(60) < rate)[unit_N]
        return np.where(rng.random(300) < np.sqrt(0.9), of_prompt_N, own_N)

    for n in range(DRAWS // 2):
        human_N = alike(0.3)
        words = [
            np.where(said_N, "refusal", "compliance").tolist()
            for said_N in (human_N, human_N == alike(right))
        ]
        found = agreement(*words, prompts, "strict", Resampling(seed=n, draws=200))
        low, high = found.kappa_interval
        misses += not low <= truth <= high
    assert misses <= binom.ppf(SLACK, DRAWS // 2, 0.05)
