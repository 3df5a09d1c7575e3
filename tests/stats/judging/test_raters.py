import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.stats.judging.raters import alpha_of, fleiss_of, rater_agreement
from demur.stats.points import Resampling

HOW = Resampling(seed=0, draws=400)
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers,
# twelve units, gaps.
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
# Fleiss (1971), as worked through in many textbooks: ten subjects, fourteen raters, five values.
SUBJECTS = [
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip
VALUE = st.sampled_from(["refusal", "partial", "compliance"])


def units(*raters):
    return [[None if c == "." else c for c in column] for column in zip(*raters, strict=True)]


def test_alpha_equals_the_published_case_with_missing_ratings():
    found = alpha_of(units(*OBSERVERS))
    assert found.value == pytest.approx(0.743, abs=5e-4)


def test_fleiss_kappa_equals_the_textbook_case():
    assert fleiss_of(np.array(SUBJECTS, dtype=float)).value == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize(
    ("ratings", "why"),
    [
        ([], "no item has two ratings"),
        ([["refusal", None, None]], "no item has two ratings"),
        ([["refusal"] * 3] * 4, "all ratings are the same"),
    ],
)
def test_what_has_no_value_says_why(ratings, why):
    assert not alpha_of(ratings).defined
    assert alpha_of(ratings).why == why
    found = rater_agreement(("a", "b", "c"), ratings, [str(n) for n in range(len(ratings))], HOW)
    assert not found.fleiss.defined
    assert found.alpha_interval is None


@given(st.lists(st.lists(VALUE, min_size=3, max_size=3), min_size=2, max_size=30))
def test_agreeing_wholly_is_1_and_the_order_of_raters_does_not_matter(rows):
    same = [[row[0]] * 3 for row in rows]
    if len({row[0] for row in rows}) > 1:
        assert alpha_of(same).value == pytest.approx(1.0)
    turned = [row[::-1] for row in rows]
    ours, theirs = alpha_of(rows), alpha_of(turned)
    assert ours.defined == theirs.defined
    if ours.defined:
        assert ours.value == pytest.approx(theirs.value)


@given(st.lists(st.lists(VALUE, min_size=3, max_size=3), min_size=2, max_size=30))
def test_alpha_and_fleiss_differ_by_the_correction_for_few_ratings_only(rows):
    found = rater_agreement(("a", "b", "c"), rows, [str(n) for n in range(len(rows))], HOW)
    assert found.complete == found.pairable == len(rows)
    if found.alpha.defined:
        # alpha draws pairs without putting back: 1 - alpha = (1 - kappa) (n - 1) / n
        n = 3 * len(rows)
        assert 1 - found.alpha.value == pytest.approx((1 - found.fleiss.value) * (n - 1) / n)


def test_raters_who_guess_agree_no_better_than_chance():
    rng = np.random.default_rng(0)
    rows = [rng.choice(["refusal", "compliance"], 4).tolist() for _ in range(600)]
    found = rater_agreement(tuple("abcd"), rows, [str(n) for n in range(600)], HOW)
    low, high = found.alpha_interval
    assert low < 0 < high
    assert abs(found.fleiss.value) < 0.05


def test_items_of_one_prompt_widen_the_interval():
    rng = np.random.default_rng(1)
    rows = [["r", "r", "r"] if rng.random() < 0.5 else ["r", "c", "c"] for _ in range(20)] * 20
    alone = rater_agreement(tuple("abc"), rows, [str(n) for n in range(len(rows))], HOW)
    shared = rater_agreement(tuple("abc"), rows, [str(n % 20) for n in range(len(rows))], HOW)
    assert np.diff(shared.alpha_interval) > 2 * np.diff(alone.alpha_interval)


def test_ratings_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="1 items, 1 prompts, 3 raters"):
        rater_agreement(("a", "b", "c"), [["r", "c"]], ["x"], HOW)
