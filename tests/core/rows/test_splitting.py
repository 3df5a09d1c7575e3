from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.rows.splitting import SplitUnit, assign_splits

SHARES = (0.2, 0.15)  # of test and calibrate


def pieces(rows, label="a", stratum="s", seed=0):
    rng = np.random.default_rng(seed)
    return [
        SplitUnit(rows=int(r), place=float(rng.random()), label=label, stratum=stratum)
        for r in rows
    ]


def counts(made, splits):
    found = Counter()
    for piece, split in zip(made, splits, strict=True):
        found[split] += piece.rows
    return found["train"], found["calibrate"], found["test"]


def test_forty_rows_of_a_category_are_split_as_asked():
    made = pieces([1] * 40)
    assert counts(made, assign_splits(made, *SHARES)) == (26, 6, 8)  # a hash alone gave 31, 6 and 3


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=200),
    st.sampled_from([(0.2, 0.15), (0.2, 0.3), (0.1, 0.4)]),
    st.integers(0, 3),
)
def test_every_label_and_stratum_has_its_shares_within_a_row(kinds, shares, seed):
    made = [
        p for n, (label, stratum) in enumerate(kinds) for p in pieces([1], label, stratum, seed + n)
    ]
    splits = assign_splits(made, *shares)
    for split, share in zip(("test", "calibrate"), shares, strict=True):
        for label in {p.label for p in made}:
            own = [s for p, s in zip(made, splits, strict=True) if p.label == label]
            least = 1 if len(own) >= 3 else 0
            assert abs(own.count(split) - max(share * len(own), least)) <= 1
            for stratum in {p.stratum for p in made}:
                part = [
                    s
                    for p, s in zip(made, splits, strict=True)
                    if (p.label, p.stratum) == (label, stratum)
                ]
                assert abs(part.count(split) - share * len(part)) <= 2


def test_what_hangs_together_and_is_too_large_for_a_held_out_split_is_trained_on():
    made = [*pieces([431]), *pieces([1] * 69, seed=1)]
    splits = assign_splits(made, 0.2, 0.3)
    assert splits[0] == "train"
    assert counts(made, splits) == (431, 41, 28)  # a hash gave 40, 29 and 431


def test_groups_fill_the_shares_as_nearly_as_they_can():
    rng = np.random.default_rng(0)
    made = pieces(rng.integers(1, 6, 300))
    total = sum(p.rows for p in made)
    _, calibrate, test = counts(made, assign_splits(made, *SHARES))
    assert abs(test - 0.2 * total) <= 5
    assert abs(calibrate - 0.15 * total) <= 5


def test_a_tenth_more_rows_move_few_of_the_others():
    made = pieces([1] * 1100)
    before, after = assign_splits(made[:1000], *SHARES), assign_splits(made, *SHARES)
    assert sum(a != b for a, b in zip(before, after[:1000], strict=True)) <= 25


def test_a_label_of_three_pieces_is_in_every_split():
    made = pieces([1, 1, 1])
    assert sorted(assign_splits(made, *SHARES)) == ["calibrate", "test", "train"]
