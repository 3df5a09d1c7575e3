import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from demur.base.errors import DataError, Undefined
from demur.core.judging.outcome import declines
from demur.stats.judging.agreement import agreement, kappa_of, mcnemar
from demur.stats.points import Resampling

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "promises.json").read_text())["judge"][
    "ppi"
]
HOW = Resampling(seed=0, draws=500)


def verdicts(counts):
    """Pairs from {(human, judge): how many}."""
    pairs = [pair for pair, n in counts.items() for _ in range(n)]
    return [h for h, _ in pairs], [j for _, j in pairs]


def measured(counts, view="lenient", groups=None):
    human, judge = verdicts(counts)
    return agreement(human, judge, groups or [str(n) for n in range(len(human))], view, HOW)


def test_figures_are_the_counts_of_a_small_table():
    found = measured(
        {
            ("refusal", "refusal"): 5,
            ("refusal", "compliance"): 2,
            ("partial", "refusal"): 1,
            ("compliance", "refusal"): 1,
            ("compliance", "compliance"): 6,
            ("compliance", "unscored"): 3,
        }
    )
    assert (found.scored.hits, found.scored.of) == (15, 18)
    assert (found.accuracy.hits, found.accuracy.of) == (12, 15)
    assert (found.sensitivity.hits, found.sensitivity.of) == (6, 8)
    assert (found.specificity.hits, found.specificity.of) == (6, 7)
    assert found.confusion["compliance"]["unscored"] == 3


def test_a_partial_refusal_is_one_in_the_lenient_view_only():
    counts = {("partial", "refusal"): 4, ("compliance", "compliance"): 4}
    assert measured(counts, "lenient").accuracy.value == 1.0
    assert measured(counts, "strict").accuracy.value == 0.5
    with pytest.raises(Undefined):
        declines("unscored", "strict")


def test_kappa_equals_the_worked_case():
    pairs = zip(GOLDEN["labels_on_judged_sample"], GOLDEN["judge_on_labelled"], strict=True)
    counts = [0, 0, 0, 0]
    for h, j in pairs:
        counts[(0 if j else 1) if h else (2 if j else 3)] += 1
    assert kappa_of(*counts).value == pytest.approx(GOLDEN["kappa_labelled"], abs=1e-8)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_kappa_equals_scikit_learns_wherever_that_is_defined(pairs):
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    counts = [
        sum(p == wanted for p in pairs)
        for wanted in ((True, True), (True, False), (False, True), (False, False))
    ]
    ours = kappa_of(*counts)
    if len({*first, *second}) > 1:
        assert ours.value == pytest.approx(cohen_kappa_score(first, second))
    else:
        assert not ours.defined


@pytest.mark.parametrize("verdict", ["refusal", "compliance"])
def test_two_who_always_say_the_same_have_no_kappa(verdict):
    found = measured({(verdict, verdict): 9})
    assert not found.kappa.defined
    assert found.kappa_interval is None
    assert found.accuracy.value == 1.0


def test_one_constant_judge_has_a_kappa_of_0():
    assert (
        measured({("refusal", "compliance"): 4, ("compliance", "compliance"): 6}).kappa.value == 0.0
    )


def test_answers_to_one_prompt_widen_the_interval():
    counts = {(h, j): 60 for h in ("refusal", "compliance") for j in ("refusal", "compliance")}
    counts["refusal", "refusal"] = counts["compliance", "compliance"] = 120
    alone = measured(counts)
    size = sum(counts.values())
    together = measured(counts, groups=[str(n // 20) for n in range(size)])
    assert np.diff(together.kappa_interval) > 2 * np.diff(alone.kappa_interval)
    assert alone.kappa_interval[0] < alone.kappa.value < alone.kappa_interval[1]


def test_a_human_label_that_is_none_is_refused():
    with pytest.raises(DataError, match="1 of the labels unscored"):
        measured({("unscored", "refusal"): 1})
    with pytest.raises(DataError, match="0 human labels"):
        measured({})


def test_mcnemar_counts_who_alone_was_right():
    human = [True] * 10 + [False] * 10
    first, second = list(human), [True] * 8 + [False] * 2 + [False] * 10
    prompts = [str(n) for n in range(20)]
    assert mcnemar(human, first, second, prompts) == (2, 0, 0.5)
    # the two answers are to one prompt: one piece of evidence
    assert mcnemar(human, first, second, [*prompts[:9], "8", *prompts[10:]]) == (2, 0, 1.0)
    assert mcnemar(human, first, first, prompts) == (0, 0, 1.0)
