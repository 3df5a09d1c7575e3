import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from demur.base.errors import Undefined
from demur.core.judging.outcome import Outcome
from demur.core.rates import Rate, binomial_cdf, lower_bound, most_errors, rows_needed, upper_bound

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "thresholds.json").read_text())


@st.composite
def counts(draw):
    of = draw(st.integers(1, 400))
    return draw(st.integers(0, of)), of


@given(hits_of=counts(), confidence=st.floats(0.5, 0.999))
def test_intervals_are_clopper_and_pearsons(hits_of, confidence):
    hits, of = hits_of
    expected = binomtest(hits, of).proportion_ci(confidence, method="exact")
    low, high = Rate(hits=hits, of=of).interval(confidence)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


@given(hits_of=counts(), delta=st.floats(0.001, 0.5))
def test_one_sided_bounds_are_where_the_tail_is_delta(hits_of, delta):
    hits, of = hits_of
    upper, lower = upper_bound(hits, of, delta), lower_bound(hits, of, delta)
    assert lower <= hits / of <= upper
    assert hits == of or binomial_cdf(hits, of, upper) == pytest.approx(delta, rel=1e-6)
    assert hits == 0 or 1 - binomial_cdf(hits - 1, of, lower) == pytest.approx(delta, rel=1e-6)


@given(k=st.integers(-1, 60), n=st.integers(1, 60), p=st.floats(0.001, 0.999))
def test_the_binomial_tail_is_scipys(k, n, p):
    assert binomial_cdf(k, n, p) == pytest.approx(float(binom.cdf(k, n, p)), rel=1e-9, abs=1e-14)


@given(n=st.integers(1, 500), level=st.floats(0.005, 0.5), delta=st.floats(0.005, 0.5))
def test_most_errors_is_the_last_count_whose_tail_is_within_delta(n, level, delta):
    k = most_errors(n, level, delta)
    assert (k is None) == (n < rows_needed(level, delta))
    if k is not None:
        assert binomial_cdf(k, n, level) <= delta < binomial_cdf(k + 1, n, level)


@pytest.mark.parametrize("key", GOLDEN["k_star"]["k_star"])
def test_most_errors_equals_the_published_table(key):
    delta, alpha = (
        float(part.removeprefix(name))
        for part, name in zip(key.split("_"), ("delta", "alpha"), strict=True)
    )
    found = [most_errors(n, alpha, delta) for n in GOLDEN["k_star"]["n"]]
    assert [-1 if k is None else k for k in found] == GOLDEN["k_star"]["k_star"][key]


def test_rows_needed_equals_the_golden_sample_sizes():
    for entry in GOLDEN["rows_for_zero_errors"]:
        assert rows_needed(entry["alpha"], entry["delta"]) == entry["n"]


def test_rates_without_rows_are_undefined_not_zero():
    rate = Rate(hits=0, of=0)
    assert not rate.defined
    for ask in (lambda: rate.value, rate.interval, lambda: upper_bound(0, 0, 0.1)):
        with pytest.raises(Undefined, match="0 rows"):
            ask()


@pytest.mark.parametrize(
    ("hits", "of", "delta"), [(3, 2, 0.1), (-1, 2, 0.1), (1, 2, 0.0), (1, 2, 1.0)]
)
def test_bounds_of_impossible_counts_are_refused(hits, of, delta):
    with pytest.raises(ValueError, match=r"not a rate|must lie"):
        upper_bound(hits, of, delta)


@pytest.mark.parametrize(("level", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, math.nan)])
def test_most_errors_needs_shares_between_zero_and_one(level, delta):
    with pytest.raises(ValueError, match="must lie"):
        most_errors(10, level, delta)


def test_only_a_whole_refusal_counts_as_one():
    verdicts = ("refusal", "partial", "compliance", "unscored")
    assert [Outcome(verdict=v, reason="", judge="j").refuses for v in verdicts] == [
        True,
        False,
        False,
        False,
    ]
