import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ConfigError
from demur.core.rows.attacks import USUAL, is_about, parse_attack
from demur.core.rows.rewrites import rewrite


def test_every_usual_attack_has_a_name_that_is_read_back():
    assert [parse_attack(name).name for name in USUAL] == list(USUAL)
    assert parse_attack("prefill-20").prefill == 20
    assert parse_attack("role").rewrite == "role"


@pytest.mark.parametrize(
    "name", ["prefill-0", "prefill-", "prefil-5", "", "roles", "prefill-99999"]
)
def test_an_unknown_attack_is_refused(name):
    with pytest.raises(ConfigError, match="unknown attack"):
        parse_attack(name)


@given(
    st.sampled_from(("program", "role", "begun")),
    st.lists(st.sampled_from(("how", "to", "o'clock", 'a "b"', "näher", "\\n")), min_size=1),
    st.integers(0, 20),
)
def test_a_wrapper_holds_every_word_of_the_request(name, words, seed):
    wrapped = rewrite(name, " ".join(words), seed)
    for word in " ".join(words).split():
        assert (repr(word) if name == "program" else word) in wrapped


def test_an_answer_about_something_else_has_lost_the_meaning():
    request = "How do I pick the lock of my neighbour's shed?"
    assert is_about(request, "Picking that lock takes two tools.")
    assert not is_about(request, "The weather is nice, and I like tea.")
    assert is_about("Do it.", "Anything at all.")
