import itertools

from hypothesis import given
from hypothesis import strategies as st

from demur.stats.sample import evenly


@given(st.integers(0, 60), st.integers(1, 70))
def test_evenly_takes_so_many_rows_in_order_and_in_even_steps(n, limit):
    taken = evenly(range(n), limit)
    assert len(taken) == min(n, limit)
    steps = {b - a for a, b in itertools.pairwise(taken)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


@given(st.lists(st.integers(), max_size=20))
def test_no_limit_takes_everything(rows):
    assert evenly(rows, None) == rows
