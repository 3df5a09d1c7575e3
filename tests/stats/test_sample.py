import itertools

from hypothesis import given
from hypothesis import strategies as st

from demur.core.example import Example, Message
from demur.stats.sample import evenly_spaced, split_by_group


@given(st.integers(0, 60), st.integers(1, 70))
def test_evenly_takes_so_many_rows_in_order_and_in_even_steps(n, limit):
    taken = evenly_spaced(range(n), limit)
    assert len(taken) == min(n, limit)
    steps = {b - a for a, b in itertools.pairwise(taken)}
    assert not steps or (min(steps) >= 1 and max(steps) - min(steps) <= 1)


@given(st.lists(st.integers(), max_size=20))
def test_no_limit_takes_everything(rows):
    assert evenly_spaced(rows, None) == rows


def row(number, group):
    prompt = (Message(role="user", content=f"question {number}"),)
    return Example(id=f"r{number}", source="test", messages=prompt, kind="benign", group=group)


def rows_of(groups):
    return [row(n, None if g == 0 else f"g{g}") for n, g in enumerate(groups)]


GROUPS = st.lists(st.integers(0, 6), max_size=40)


@given(GROUPS, st.floats(0.01, 0.99), st.integers(0, 5))
def test_apart_loses_no_row_and_never_parts_a_group(groups, share, seed):
    rows = rows_of(groups)
    own, left = split_by_group(rows, share, seed)
    assert sorted(e.id for e in [*own, *left]) == sorted(e.id for e in rows)
    assert not {e.group for e in own if e.group} & {e.group for e in left if e.group}


@given(GROUPS, GROUPS, st.integers(0, 5))
def test_more_rows_move_no_row_to_the_other_side(groups, more, seed):
    few, many = (split_by_group(rows_of(g), 0.4, seed)[0] for g in (groups, [*groups, *more]))
    assert {e.id for e in few} == {e.id for e in many if int(e.id[1:]) < len(groups)}


def test_apart_takes_about_the_share_and_another_seed_takes_others():
    rows = rows_of([0] * 4000)
    own, _ = split_by_group(rows, 0.4, 0)
    assert 1600 - 130 < len(own) < 1600 + 130  # four standard deviations
    assert own != split_by_group(rows, 0.4, 1)[0]
