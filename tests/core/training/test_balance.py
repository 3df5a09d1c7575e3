"""Row weights: mean 1, capped, and even as far as the cap allows."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.example import Example, Message
from demur.core.training.balance import MOST, even, row_weights

KEYS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=80)


def row(category: str | None, source: str = "s") -> Example:
    kind = "benign" if category is None else "refusal"
    turn = Message(role="user", content="Tea?")
    return Example(id="1", source=source, messages=(turn,), kind=kind, category=category)


@given(keys=KEYS)
def test_even_weights_have_mean_one_and_are_capped(keys):
    weights = even(keys)
    assert weights.mean() == pytest.approx(1)
    assert weights.max() <= MOST + 1e-9
    assert weights.min() > 0


@given(keys=KEYS)
def test_groups_below_the_cap_count_alike_and_a_rarer_one_never_less_a_row(keys):
    weights, counts = even(keys), Counter(keys)
    total = defaultdict(float)
    for key, weight in zip(keys, weights, strict=True):
        total[key] += weight
    free = [total[k] for k in counts if total[k] / counts[k] < MOST - 1e-9]
    assert free == pytest.approx([free[0]] * len(free)) if free else True
    by_count = sorted(counts, key=lambda k: counts[k])
    per_row = [total[k] / counts[k] for k in by_count]
    assert all(a >= b - 1e-9 for a, b in pairwise(per_row))


LABELS = st.lists(
    st.sampled_from([None, "safety", "incomplete", "humanizing"]), min_size=1, max_size=60
)


@given(labels=LABELS, balance=st.sampled_from(["none", "category", "class", "source"]))
def test_row_weights_have_mean_one_whatever_is_balanced(labels, balance):
    weights = row_weights([row(label, "ab"[n % 2]) for n, label in enumerate(labels)], balance)
    assert weights.mean() == pytest.approx(1)


@given(labels=LABELS)
def test_balanced_categories_leave_refusing_against_answering_as_it_was(labels):
    weights = row_weights([row(label) for label in labels], "category")
    answered = np.array([label is None for label in labels])
    assert np.allclose(weights[answered], 1)
    assert weights[~answered].sum() == pytest.approx((~answered).sum())


def test_classes_and_categories_and_sources_are_even():
    labels = [None] * 6 + ["safety"] * 3 + ["incomplete"]
    weights = row_weights([row(label) for label in labels], "class")
    assert [weights[:6].sum(), weights[6:9].sum(), weights[9]] == pytest.approx([5, 2.5, 2.5])
    sources = row_weights([row(None, "a")] * 3 + [row(None, "b")], "source")
    assert sources == pytest.approx([2 / 3] * 3 + [2])
