"""Reading is shared out between tenants by the time that it takes."""

from hypothesis import given
from hypothesis import strategies as st

from demur.engines.inprocess.turns import WRITING_PER_READING, Turns


def test_alone_a_tenant_may_always_read():
    turns = Turns()
    turns.read({"a": 1000}, 9.0)
    assert turns.may_read("a", set())


def test_who_read_for_long_waits_for_others_and_they_do_not_wait_for_it():
    turns = Turns()
    turns.read({"long": 900, "short": 100}, 1.0)
    assert not turns.may_read("long", {"short"})
    assert turns.may_read("short", {"long"})
    turns.wrote(0.8 * WRITING_PER_READING)
    assert not turns.may_read("long", {"short"})
    turns.wrote(0.2 * WRITING_PER_READING)
    assert turns.may_read("long", {"short"})
    assert turns.owed_s("long") == turns.owed_s("short") == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 500), st.floats(0.0, 3.0)), max_size=30))
def test_somebody_may_always_read(history):
    turns = Turns()
    for tenant, tokens, seconds in history:
        turns.read({tenant: tokens}, seconds)
        turns.wrote(seconds / 3)
    assert any(turns.may_read(t, set("abc") - {t}) for t in "abc")
