import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import Undefined
from demur.stats.judging.consistency import kept_word, twins
from demur.stats.units import RowUnits

ONE_OF_EACH = ["refusal", "partial", "compliance", "unscored"]
VERDICTS = st.sampled_from(ONE_OF_EACH)


def test_a_partial_answer_is_counted_either_way():
    after_refusal = kept_word(ONE_OF_EACH, RowUnits.of(4), refuses=True)
    assert (
        after_refusal.kept.hits,
        after_refusal.kept_if_partial_refuses.hits,
        after_refusal.kept.of,
    ) == (1, 2, 3)
    after_respond = kept_word(ONE_OF_EACH, RowUnits.of(4), refuses=False)
    assert (after_respond.kept.hits, after_respond.kept_if_partial_refuses.hits) == (2, 1)
    assert after_respond.unscored == 1


def test_no_scored_text_gives_no_rate():
    dead = kept_word(["unscored"] * 3, RowUnits.of(3), refuses=False)
    assert (dead.kept.defined, dead.kept_if_partial_refuses.defined, dead.unscored) == (
        False,
        False,
        3,
    )
    assert not kept_word([], RowUnits.of(0), refuses=True).kept.defined
    with pytest.raises(Undefined):
        _ = twins([], [], RowUnits.of(0)).effect


@given(st.lists(st.tuples(VERDICTS, VERDICTS), max_size=30))
def test_the_four_cells_and_the_unscored_are_all_prompts(pairs):
    found = twins([a for a, _ in pairs], [b for _, b in pairs], RowUnits.of(len(pairs)))
    cells = (found.controllable, found.stuck_refuse, found.stuck_answer, found.inverted)
    assert sum(c.hits for c in cells) + found.unscored == len(pairs)
    if found.controllable.defined:
        refuses, answers = (
            [v == "refusal" for v in vs] for vs in zip(*_scored(pairs), strict=True)
        )
        assert found.effect == pytest.approx(np.mean(refuses) - np.mean(answers))


def _scored(pairs):
    return [p for p in pairs if "unscored" not in p]


def test_known_leak_rates_lie_in_the_exact_intervals():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(100):
        leaks = np.where(rng.random(300) < 0.12, "refusal", "compliance").tolist()
        low, high = twins(["refusal"] * 300, leaks, RowUnits.of(300)).stuck_refuse.interval()
        inside += low <= 0.12 <= high
    assert inside >= 92
