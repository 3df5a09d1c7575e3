"""The hint for an unknown name."""

import pytest

from demur.base.suggest import suggest


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("safty", ["safety", "humanizing"], "did you mean 'safety'?"),
        ("HARMFULL", ["Benign", "Harmful"], "did you mean 'Harmful'?"),
        ("xyz", ["safety", "humanizing"], "known: safety, humanizing"),
        ("xyz", ["Safety", "safety"], "known: Safety, safety"),
        ("xyz", [], "known: none"),
    ],
)
def test_the_nearest_name_or_all_names(name: str, known: list[str], hint: str) -> None:
    assert suggest(name, known) == hint


def test_a_caller_says_what_stands_where_none_is_alike() -> None:
    assert suggest("xyz", iter(["safety"]), "labels: 3") == "labels: 3"
